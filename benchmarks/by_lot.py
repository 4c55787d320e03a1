"""What a rule loses where it was not made: practice sets with knobs drawn by lot, each compared with the same recipes.

A measurement that was stopped goes on where it was; more sets may be added to those that are there.

    OMP_NUM_THREADS=1 python benchmarks/by_lot.py nbs/results/by_lot
"""

from pathlib import Path

import numpy as np
from fastcore.script import call_parse

from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.console import user_errors
from transfer_nbs.data import read_folder
from transfer_nbs.epochs import automatic_epochs
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.recipes import recipe_names
from transfer_nbs.tables import write_tables


def draw_world(number: int) -> Patterns:
    "Ten classes with 5 to 50 images each, and every other knob by lot as well."
    dice = np.random.default_rng([17, number])
    return Patterns(n=10 * round(5 * 10 ** dice.random()), n_valid=200, seed=number,
                    camera=round(dice.random(), 2), object_size=round(dice.uniform(0.2, 0.7), 2),
                    clutter=int(dice.choice([0, 3, 10])), imbalance=float(dice.choice([1, 1, 5])),
                    wrong_labels=float(dice.choice([0, 0, 0.2])))


@call_parse
def by_lot(
    out: str,  # folder for the results
    first: int = 0,  # number of the first set
    sets: int = 12,  # how many
    size: int = 64,  # pixels
    seeds: int = 1,
    recipes: str = "bn_eval,deeper_head,discriminative_bn_frozen,full_bn_frozen",
):
    "Compare recipes on practice sets whose knobs are drawn by lot."
    with user_errors("by_lot"):
        keep_freed_memory()
        for number in range(first, first + sets):
            world = draw_world(number)
            folder = practice_folder(world)
            table = read_folder(folder)
            epochs = automatic_epochs(sum(table["split"] == "train"), CompareSettings.batch_size)
            settings = CompareSettings(recipes=recipe_names(recipes), size=size, seeds=seeds, **epochs)
            at = compare(settings, table, folder, out=Path(out) / str(number))
            print(number, world, write_tables(at)[["recipe", "mean"]], sep="\n", flush=True)
