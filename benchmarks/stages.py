"""Where the time of each recipe goes on the practice data, how that stands to its computing alone, and what sharing saves.

    python benchmarks/stages.py --out nbs/results/speed"""

import shutil
import time
from pathlib import Path

import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.clothes import practice_folder
from transfer_nbs.compare import PRACTICE_IMAGES, PRACTICE_VALID, RECIPES, CompareSettings, check_writable, run_recipe
from transfer_nbs.data import read_folder
from transfer_nbs.speed import STAGES, limit_seconds, time_recipe
from transfer_nbs.split import cache_folder, user_errors
from transfer_nbs.training import choose_device, choose_precision, describe_environment


def forget(kind: str) -> None:
    "Remove what the cache holds of a kind: features, or pictures."
    for entry in cache_folder().glob(f"computed/{kind}-*"): shutil.rmtree(entry)


def time_seeds(seeds: int, settings: CompareSettings, table: pd.DataFrame, folder: Path) -> float:
    "Wall seconds of `bn_eval` with several seeds, from a cache without features."
    forget("features")
    start = time.perf_counter()
    for seed in range(seeds): run_recipe(RECIPES["bn_eval"], settings, table, folder, seed=seed)
    return time.perf_counter() - start


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
        one, three = time_seeds(1, settings, table, folder), time_seeds(3, settings, table, folder)
        pd.DataFrame([dict(runs="bn_eval", one_seed=round(one, 2), three_seeds=round(three, 2), ratio=round(three / one, 3))]).to_csv(Path(out) / "sharing.csv", index=False)
        print(f"three seeds of bn_eval cost {three / one:.2f} times one")
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
