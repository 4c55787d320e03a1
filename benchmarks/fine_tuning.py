"""Every recipe on photographs, five epochs and five seeds each, with the time of each.

Of a large set, a part of the training images is taken, as many of each class; validation and test images together
judge, so that more of them do.

    python benchmarks/fine_tuning.py PHOTOGRAPHS WEIGHTS nbs/results/fine_tuning/NAME
"""

import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.console import user_errors
from transfer_nbs.data import read_folder
from transfer_nbs.folders import read_test
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.recipes import recipe_names
from transfer_nbs.tables import write_tables


def part_of(table: pd.DataFrame, per_class: int) -> pd.DataFrame:
    "The same images to validate on, and some of each class to train on."
    train = table[table["split"] == "train"]
    kept = train.groupby("class").sample(per_class, random_state=0).index if per_class else train.index
    return table[table.index.isin(kept) | (table["split"] == "valid")].reset_index(drop=True)


@call_parse
def fine_tuning(
    folder: str,  # with train, valid and perhaps test
    weights: str,  # file of the backbone's
    out: str,  # folder for the results
    arch: str = "mobilenet_v2",
    per_class: int = 0,  # training images; 0: all
    size: int = 96,  # pixels
    epochs: int = 5,
    seeds: int = 5,
    recipes: str = "all",  # names of recipes or groups
):
    "Compare recipes on a folder of photographs."
    with user_errors("fine_tuning"):
        keep_freed_memory()
        table = pd.concat([read_folder(folder), read_test(folder).assign(split="valid")], ignore_index=True)
        settings = CompareSettings(recipes=recipe_names(recipes), seeds=seeds, epochs=epochs, size=size, arch=arch, weights=weights)
        compare(settings, part_of(table, per_class), folder, out=out)
        print(write_tables(out))
