"""Accuracy against the number of training images: nested parts of a set, from a handful of each class to all of them.

Validation and test images together judge, so that more of them do; each part trains for as many epochs as
`transfer_compare --epochs auto` gives it. A measurement that was stopped goes on where it was.

    python benchmarks/how_many_images.py practice bundled nbs/results/how_many_images/practice --arch resnet18
    python benchmarks/how_many_images.py PHOTOGRAPHS WEIGHTS nbs/results/how_many_images/NAME
"""

from dataclasses import replace

import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.console import user_errors
from transfer_nbs.data import read_folder
from transfer_nbs.epochs import automatic_epochs
from transfer_nbs.folders import read_test
from transfer_nbs.fractions import format_curves, fraction_folder, parse_fractions, write_curves
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.recipes import recipe_names
from transfer_nbs.runs import split_sizes
from transfer_nbs.tables import write_tables


@call_parse
def how_many_images(
    folder: str,  # with train, valid and perhaps test; practice: 100 drawn images of each class
    weights: str,  # the backbone's: bundled, or a file
    out: str,  # folder for the results
    arch: str = "mobilenet_v2",
    size: int = 96,  # pixels
    seeds: int = 3,
    recipes: str = "from_scratch,bn_eval,discriminative_bn_frozen,full_bn_frozen",
    fractions: str = "0.03,0.1,0.3,1",  # of the training images
):
    "Compare recipes on parts of a folder of images."
    with user_errors("how_many_images"):
        keep_freed_memory()
        folder = practice_folder(Patterns(n=1000, n_valid=400)) if folder == "practice" else folder
        table = pd.concat([read_folder(folder), read_test(folder).assign(split="valid")], ignore_index=True)
        settings = CompareSettings(recipes=recipe_names(recipes), size=size, arch=arch, weights=weights, seeds=seeds)
        parts = parse_fractions(fractions)
        for fraction in parts:
            part = replace(settings, fraction=fraction)
            epochs = automatic_epochs(split_sizes(part, table)["train"], part.batch_size)
            at = compare(replace(part, **epochs), table, folder, out=fraction_folder(out, fraction))
            print(fraction, write_tables(at), sep="\n", flush=True)
        print(format_curves(write_curves(out, parts)))
