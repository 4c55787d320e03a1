"""What a comparison costs beside the same runs one after the other, each of which decodes and computes everything for itself.

    python benchmarks/sharing.py --out nbs/results/sharing/practice.csv
    python benchmarks/sharing.py FOLDER --arch mobilenet_v2 --weights FILE --size 224 --out nbs/results/sharing/photographs.csv"""

import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
from fastcore.script import Param, call_parse

from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings, compare, run_recipe
from transfer_nbs.recipes import RECIPES, check_recipes
from transfer_nbs.run_folder import read_run
from transfer_nbs.files import check_writable
from transfer_nbs.data import read_folder
from transfer_nbs.cache import cache_folder
from transfer_nbs.console import user_errors
from transfer_nbs.hardware import choose_device, choose_precision


def forget(*kinds: str) -> None:
    "Remove what the cache holds of some kinds: features, or pictures."
    for kind in kinds:
        for entry in cache_folder().glob(f"computed/{kind}-*"): shutil.rmtree(entry)


def time_together(settings: CompareSettings, table: pd.DataFrame, folder: Path) -> tuple[float, dict]:
    "Wall seconds of a comparison from an empty cache, and what each run answered."
    forget("pictures", "features")
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        compare(settings, table, folder, out=out, say=lambda line: print(line, flush=True))
        return time.perf_counter() - start, read_run(out)[1]


def time_apart(settings: CompareSettings, table: pd.DataFrame, folder: Path) -> tuple[float, dict]:
    "Wall seconds of the same runs, each from an empty cache, and what they answered."
    seconds, correct = 0.0, {name: [] for name in settings.recipes}
    for seed in range(settings.seeds):
        for name in settings.recipes:
            forget("pictures", "features")
            start = time.perf_counter()
            result = run_recipe(RECIPES[name], settings, table, folder, seed=seed)
            seconds += time.perf_counter() - start
            correct[name].append([int(answer) for answer in result["correct"]])
            print(f"{name}, seed {seed}: {time.perf_counter() - start:.1f} s", flush=True)
    return seconds, correct


@call_parse
def sharing(
    folder: Param("folder of images, as for transfer_compare; none: the practice data", str, nargs="?", opt=False) = None,
    arch: str = "resnet18",  # a classification network of torchvision
    weights: str = "bundled",  # bundled, or a file with the state_dict of torchvision's network
    size: int = 96,  # height and width for the network, pixels
    seeds: int = 3,  # runs of each recipe
    out: str = "runs/sharing.csv",  # file for the results
):
    "Time comparisons, and the same runs apart, on an idle machine."
    with user_errors("sharing"):
        check_writable(Path(out).parent)
        table = read_folder(folder, valid_fraction=0.2) if folder else read_folder(folder := practice_folder(Camouflage()), valid_fraction=0.5)
        choose_precision(choose_device())  # measured once for a machine
        rows = []
        for recipes in (("bn_eval",), CompareSettings().recipes):
            settings = CompareSettings(recipes=recipes, arch=arch, weights=weights, size=size, seeds=seeds)
            check_recipes(settings, num_classes=table["class"].nunique())
            together, shared = time_together(settings, table, folder)
            apart, separate = time_apart(settings, table, folder)
            for name in recipes:
                if (shared[name] != separate[name]).any(): raise RuntimeError(f"{name} answers differently when its work is shared")
            rows.append(dict(recipes=len(recipes), seeds=seeds, images=len(table), together=round(together, 1), apart=round(apart, 1), ratio=round(together / apart, 3)))
            print(f"{len(recipes)} recipes, {seeds} seeds: {together / apart:.2f} of the time of the same runs apart", flush=True)
        pd.DataFrame(rows).to_csv(out, index=False)
