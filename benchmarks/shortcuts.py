"""What each shortcut costs in accuracy: the same recipe with it and without, on the same images and seeds.

    python benchmarks/shortcuts.py FOLDER --arch mobilenet_v2 --weights FILE --size 224 --out nbs/results/shortcuts"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from fastcore.script import Param, call_parse

from transfer_nbs.features import FeatureStore
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings, run_recipe
from transfer_nbs.recipes import RECIPES, check_recipes
from transfer_nbs.files import check_writable
from transfer_nbs.intervals import compare_pairs
from transfer_nbs.data import read_folder
from transfer_nbs.console import user_errors
from transfer_nbs.hardware import describe_environment

SHORTCUTS = ("bfloat16 instead of float32", "pictures stored at 1.5 times the size instead of whole", "frozen bodies see the same crops for every seed instead of its own",
             "depthwise layers trained another way")
NAMES = ("bn_eval", "discriminative_bn_frozen")


def answers(name: str, settings: CompareSettings, table: pd.DataFrame, folder: Path, without: str = "") -> np.ndarray:
    "Right or wrong, shape (seeds, images), with all shortcuts or without one of them."
    if without == SHORTCUTS[0]: settings = replace(settings, precision="float32")
    rows = []
    for seed in range(settings.seeds):
        features = FeatureStore(view_seed=seed if without == SHORTCUTS[2] else 0)
        with ExitStack() as stack:
            if without == SHORTCUTS[1]: stack.enter_context(patch("transfer_nbs.data.STORED", float("inf")))
            if without == SHORTCUTS[3]: stack.enter_context(patch("transfer_nbs.training.depthwise", lambda module: []))
            rows.append([int(answer) for answer in run_recipe(RECIPES[name], settings, table, folder, seed=seed, features=features)["correct"]])
    return np.array(rows)


@call_parse
def shortcuts(
    folder: Param("folder of images, as for transfer_compare; none: the practice data", str, nargs="?", opt=False) = None,
    arch: str = "resnet18",  # a classification network of torchvision
    weights: str = "bundled",  # bundled, or a file with the state_dict of torchvision's network
    size: int = 96,  # height and width for the network, pixels
    seeds: int = 8,  # runs of each recipe, with each shortcut and without
    out: str = "runs/shortcuts",  # folder for the results
):
    "Accuracy with and without each shortcut, its difference, and the p value of that."
    with user_errors("shortcuts"):
        if seeds < 2: raise ValueError(f"seeds is {seeds}: give 2 or more")
        check_writable(out)
        table = read_folder(folder, valid_fraction=0.2) if folder else read_folder(folder := practice_folder(Camouflage()), valid_fraction=0.5)
        settings, rows = CompareSettings(recipes=NAMES, arch=arch, weights=weights, size=size, seeds=seeds), []
        check_recipes(settings, num_classes=table["class"].nunique())
        for name in NAMES:
            fast = answers(name, settings, table, folder)
            for shortcut in SHORTCUTS:
                slow = answers(name, settings, table, folder, without=shortcut)
                pair = compare_pairs({"with": fast, "without": slow}).iloc[0]
                rows.append(dict(recipe=name, shortcut=shortcut, seeds=seeds, accuracy_with=round(fast.mean(), 4), accuracy_without=round(slow.mean(), 4),
                                 difference=round(pair.difference, 4), p_value=round(pair.p_value, 3),
                                 between_seeds_with=round(fast.mean(1).std(ddof=1), 4), between_seeds_without=round(slow.mean(1).std(ddof=1), 4)))
                print(f"{name:25} {shortcut:55} {rows[-1]['accuracy_with']:.3f} with, {rows[-1]['accuracy_without']:.3f} without, p {rows[-1]['p_value']:.2f}", flush=True)
        pd.DataFrame(rows).to_csv(Path(out) / "shortcuts.csv", index=False)
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
