"""What torch.compile would change: how fast the computing becomes, how long compiling takes, and after how many images that pays.

    python benchmarks/compiling.py --out nbs/results/speed/compile.csv"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES
from transfer_nbs.files import check_writable
from clock import bare_step, images_per_second
from transfer_nbs.console import user_errors
from transfer_nbs.hardware import Precision, choose_device, choose_precision

NETWORKS = (CompareSettings(), CompareSettings(arch="mobilenet_v2", weights="random", size=224))


def time_compiled(settings: CompareSettings, recipe: str, precision: Precision, rounds: int) -> dict:
    "The computing of a recipe's last phase as it is written and compiled, measured in turn."
    phase = RECIPES[recipe].phases[-1]
    def step(compiled): return bare_step(RECIPES[recipe], settings, phase=phase, precision=precision, compiled=compiled)
    start, quick, written = time.perf_counter(), step(True), step(False)
    quick()
    seconds, speeds = time.perf_counter() - start, []
    for _ in range(rounds): speeds.append([images_per_second(way, batch_size=settings.batch_size, seconds=2) for way in (written, quick)])
    before, after = map(median, zip(*speeds))
    return dict(network=settings.arch, size=settings.size, computing="forward" if recipe == "bn_eval" else "training", speed=round(after / before, 2), compile_seconds=round(seconds, 1),
                pays_after=round(seconds / (1 / before - 1 / after)) if after > before else "never")


@call_parse
def compiling(
    rounds: int = 3,  # how often to measure each way, in turn
    out: str = "runs/compile.csv",  # file for the results
):
    "Time networks as they are written and compiled, on an idle machine."
    with user_errors("compiling"), tempfile.TemporaryDirectory() as cache:
        if rounds < 1: raise ValueError(f"rounds is {rounds}: give 1 or more")
        check_writable(Path(out).parent)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # what was compiled on another day is compiled again
        precision = choose_precision(choose_device())
        table = pd.DataFrame([time_compiled(network, name, precision, rounds) for network in NETWORKS for name in ("bn_eval", "discriminative_bn_frozen")])
        table.to_csv(out, index=False)
        print(table.to_string(index=False))
