"""How the views of training images change: each way on the same images, with the same recipes and seeds.

Each way is a comparison in a folder of its own; one that was stopped goes on where it was. Of a large set, a part of
the training images is taken, as many of each class; validation and test images together judge.

    python benchmarks/augmentation.py practice bundled nbs/results/augmentation/practice --arch resnet18
    python benchmarks/augmentation.py PHOTOGRAPHS WEIGHTS nbs/results/augmentation/NAME
"""

from pathlib import Path

import pandas as pd
from fastcore.script import call_parse
from fine_tuning import part_of

from transfer_nbs.clothes import practice_folder
from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.console import user_errors
from transfer_nbs.data import read_folder
from transfer_nbs.epochs import automatic_epochs
from transfer_nbs.folders import read_test
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.recipes import recipe_names
from transfer_nbs.tables import write_tables

WAYS = {"article": {}, "light": dict(augment="light"), "none": dict(augment="none"), "crop": dict(augment="crop"),
        "trivial": dict(augment="trivial"), "mixup": dict(mixup=0.2), "cutmix": dict(cutmix=1.0),
        "label_smoothing": dict(label_smoothing=0.1), "squish": dict(resize="squish"), "pad": dict(resize="pad")}


@call_parse
def augmentation(
    folder: str,  # with train, valid and perhaps test; practice: the drawn images
    weights: str,  # the backbone's: bundled, or a file
    out: str,  # folder for the results
    arch: str = "mobilenet_v2",
    per_class: int = 0,  # training images; 0: all
    size: int = 96,  # pixels
    seeds: int = 3,
    recipes: str = "bn_eval,full_bn_frozen",
    ways: str = ",".join(WAYS),  # names, separated by commas
):
    "Compare ways to augment on a folder of images, with as many epochs as they need."
    with user_errors("augmentation"):
        keep_freed_memory()
        table = read_folder(folder := practice_folder() if folder == "practice" else folder)
        table = part_of(pd.concat([table, read_test(folder).assign(split="valid")], ignore_index=True), per_class)
        epochs = automatic_epochs(sum(table["split"] == "train"), CompareSettings.batch_size)
        for name in ways.split(","):
            options = dict(size=size, arch=arch, weights=weights, seeds=seeds, **epochs, **WAYS[name])
            at = compare(CompareSettings(recipes=recipe_names(recipes), **options), table, folder, out=Path(out) / name)
            print(name, write_tables(at), sep="\n", flush=True)
