"""Where the time of each recipe goes on the practice data, and how that stands to its computing alone.

    python benchmarks/stages.py --out nbs/results/speed"""

from pathlib import Path

import pandas as pd
from fastcore.script import call_parse
from sharing import forget

from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES
from transfer_nbs.files import check_writable
from transfer_nbs.data import read_folder
from clock import STAGES, limit_seconds, time_recipe
from transfer_nbs.console import user_errors
from transfer_nbs.hardware import choose_device, choose_precision, describe_environment


@call_parse
def stages(
    out: str = "runs/speed",  # folder for the results
    n: int = 2000,  # images of the practice data
    rounds: int = 3,  # how often to measure each recipe, in turn
):
    "Time every recipe on an idle machine, as shares of its computing alone."
    with user_errors("stages"):
        if rounds < 1: raise ValueError(f"rounds is {rounds}: give 1 or more")
        check_writable(out)
        folder, settings = practice_folder(Camouflage(n=n)), CompareSettings()
        table, precision = read_folder(folder, valid_fraction=0.5), choose_precision(choose_device())
        rows = []
        for number in range(rounds):
            for first in (True, False):
                for name in settings.recipes:
                    recipe = RECIPES[name]
                    if first and name not in ("bn_eval", "feature_extractor", "from_scratch"): continue
                    forget("features", *["pictures"] * first)
                    seconds = time_recipe(recipe, settings, table, folder)
                    limit = limit_seconds(recipe, settings, table, precision=precision)
                    rows.append(dict(recipe=name, pictures="decoded first" if first else "decoded before", round=number, reached=round(limit / sum(seconds.values()), 3),
                                     limit=round(limit, 2), **{stage: round(seconds[stage], 3) for stage in STAGES}))
                    print(f"{name:28} {rows[-1]['pictures']:15} {rows[-1]['reached']:.2f} of the limit", flush=True)
        pd.DataFrame(rows).to_csv(Path(out) / "stages.csv", index=False)
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
