"""Where the time of each recipe goes on the practice data, how that stands to its computing alone, and what torch.compile would change.

    python benchmarks/stages.py --out nbs/results/speed"""

import os
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from fastcore.script import call_parse
from sharing import forget

from transfer_nbs.clothes import practice_folder
from transfer_nbs.compare import PRACTICE_IMAGES, PRACTICE_VALID, RECIPES, CompareSettings, check_writable, run_recipe
from transfer_nbs.data import read_folder
from transfer_nbs.speed import STAGES, bare_step, images_per_second, limit_seconds, time_recipe
from transfer_nbs.split import user_errors
from transfer_nbs.training import Precision, choose_device, choose_precision, describe_environment


def time_compiled(settings: CompareSettings, recipe: str, precision: Precision) -> dict:
    "How fast the computing of a recipe's last phase is as it is written and by `torch.compile`, and how long compiling takes."
    phase = RECIPES[recipe].phases[-1]
    def step(compiled): return bare_step(RECIPES[recipe], settings, phase=phase, precision=precision, compiled=compiled)
    written = images_per_second(step(False), batch_size=settings.batch_size, seconds=3)
    start, quick = time.perf_counter(), step(True)
    quick()
    seconds = time.perf_counter() - start
    ratio = images_per_second(quick, batch_size=settings.batch_size, seconds=3) / written
    return dict(network=settings.arch, size=settings.size, computing="forward" if recipe == "bn_eval" else "training", speed=round(ratio, 3), compile_seconds=round(seconds, 1),
                pays_after=round(seconds * written * ratio / (ratio - 1)) if ratio > 1 else "never")


@call_parse
def stages(
    out: str = "runs/speed",  # folder for the results
    n: int = PRACTICE_IMAGES,  # images of the practice data
):
    "Time every recipe on an idle machine, as shares of its computing alone."
    with user_errors("stages"):
        check_writable(out)
        folder, settings = practice_folder(n=n, progress=True), CompareSettings()
        table, precision = read_folder(folder, valid_fraction=PRACTICE_VALID), choose_precision(choose_device())
        rows = []
        for first in (True, False):
            for name, recipe in RECIPES.items():
                if first and name not in ("bn_eval", "feature_extractor", "from_scratch"): continue
                if first: forget("pictures")
                forget("features")
                seconds = time_recipe(recipe, settings, table, folder)
                limit = limit_seconds(recipe, settings, table, precision=precision)
                rows.append(dict(recipe=name, pictures="decoded first" if first else "decoded before", reached=round(limit / sum(seconds.values()), 3),
                                 limit=round(limit, 2), **{stage: round(seconds[stage], 3) for stage in STAGES}))
                print(f"{name:28} {rows[-1]['pictures']:15} {rows[-1]['reached']:.2f} of the limit", flush=True)
        pd.DataFrame(rows).to_csv(Path(out) / "stages.csv", index=False)
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what was compiled on another day is compiled again
        networks = (settings, replace(settings, arch="mobilenet_v2", weights="random", size=224))
        compiled = pd.DataFrame([time_compiled(network, name, precision) for network in networks for name in ("bn_eval", "discriminative_bn_frozen")])
        compiled.to_csv(Path(out) / "compile.csv", index=False)
        print(compiled.to_string(index=False))
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
