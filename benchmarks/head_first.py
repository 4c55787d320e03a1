"""Must the head come first? Body and head with a first phase for the head, and without, at two rates of the body.

    python benchmarks/head_first.py --out nbs/results/head_first

Which validation images were right, for each plan and seed, goes into answers.json; page 47 reads it."""

import json
from pathlib import Path

from fastcore.script import call_parse

from transfer_nbs.bn_trainable import body_bn_head
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import train_recipe
from transfer_nbs.files import check_writable
from transfer_nbs.data import read_folder
from transfer_nbs.console import user_errors
from transfer_nbs.files import write_file
from transfer_nbs.hardware import describe_environment
from transfer_nbs.training import Phase, Recipe

SHARES = (0.01, 0.1)  # of the head's rate, for the body
HEAD = Phase((None, None, 1.0))


def plans(share: float) -> dict[str, tuple[Recipe, int]]:
    "What is compared: recipes and their epochs in all. BN layers are held."
    both = (share, None, 1.0)
    steps = {"head 1 epoch, then both 1": ((HEAD, Phase(both)), 2), "head 1 epoch, then both 2": ((HEAD, Phase(both, share=2.0)), 3), "both 2 epochs": ((Phase(both),), 2)}
    return {name: (Recipe(name, phases, groups=body_bn_head, bn="frozen"), epochs) for name, (phases, epochs) in steps.items()}


@call_parse
def head_first(
    seeds: int = 5,  # runs of each plan
    out: str = "runs/head_first",  # folder for the result
):
    "Train each plan on the practice data with some seeds."
    with user_errors("head_first"):
        if seeds < 1: raise ValueError(f"seeds is {seeds}: give 1 or more")
        check_writable(out)
        folder = practice_folder(Camouflage())
        table = read_folder(folder, valid_fraction=0.5)
        answers = {}
        for share in SHARES:
            for name, (recipe, epochs) in plans(share).items():
                runs = [train_recipe(recipe, CompareSettings(epochs=epochs), table, folder, seed=seed).correct for seed in range(seeds)]
                answers.setdefault(str(share), {})[name] = ["".join("01"[int(right)] for right in run) for run in runs]
                print(f"body at {share:g}, {name:26}", *(f"{run.mean():.3f}" for run in runs), flush=True)
        write_file(Path(out) / "answers.json", json.dumps(dict(environment=describe_environment(), answers=answers), indent=1) + "\n")
