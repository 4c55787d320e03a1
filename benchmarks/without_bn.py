"""A pretrained backbone without BN layers: what is it worth to train its normalisation layers?

    python benchmarks/without_bn.py --out nbs/results/without_bn

The backbone is the bundled one with a GroupNorm in place of each BN layer (`group_norm_twin`). It is frozen, or
its normalisation layers learn; beside it `bn_trainable` trains the BN layers of the original. Settings and seeds
are those of page 83. Which validation images were right goes into answers.json, and what `norm_trainable` gains into gains.csv, which page 13 reads."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.bn_eval import bn_eval
from transfer_nbs.bn_trainable import bn_trainable
from transfer_nbs.clothes import practice_folder
from transfer_nbs.console import user_errors
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.features import FeatureStore
from transfer_nbs.files import check_writable, csv_text, write_file
from transfer_nbs.fusion import group_norm_twin
from transfer_nbs.hardware import describe_environment
from transfer_nbs.intervals import compare_pairs
from transfer_nbs.named_weights import image_spec
from transfer_nbs.recipes import build_model, train_recipe
from transfer_nbs.regimes import SETTINGS, Setting
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import Recipe, fit
from transfer_nbs.without_bn import norm_trainable

NAMES = ("mild_camera", "poor_camera", "batches_of_4")  # of `SETTINGS`
CALIBRATE = 128  # training images that the twin is made with


def train_twin(setting: Setting, recipe: Recipe, seed: int) -> np.ndarray:
    "Which validation images a model with the twin as its backbone has right in the end."
    folder = practice_folder(setting.world)
    table, settings, evaluations = read_folder(folder), TrainSettings(), []
    spec = image_spec(settings, table, folder)
    loaders = make_loaders(table, folder, spec, batch_size=setting.batch_size, seed=seed)
    model = build_model(recipe, settings, num_classes=len(spec.class_names), seed=seed)
    images = loaders[0].dataset
    model.body = group_norm_twin(model.body, images[range(0, len(images), len(images) // CALIBRATE)][0][:CALIBRATE])
    fit(model, *loaders, recipe, epochs=setting.epochs, seed=seed, evaluations=evaluations, features=FeatureStore())
    return evaluations[-1].correct


def train_original(setting: Setting, recipe: Recipe, seed: int) -> np.ndarray:
    "Likewise, with the bundled backbone as it is."
    folder = practice_folder(setting.world)
    settings = TrainSettings(epochs=setting.epochs, batch_size=setting.batch_size)
    return train_recipe(recipe, settings, read_folder(folder), folder, seed=seed).correct


CASES = {"frozen": (train_twin, bn_eval), "norm_trainable": (train_twin, norm_trainable), "bn_trainable": (train_original, bn_trainable)}


def read_gains(answers: dict[str, dict[str, list[str]]]) -> pd.DataFrame:
    "The gain of `norm_trainable` in each setting, over the frozen twin and over `bn_trainable`, as `plot_gains` takes it."
    rows = []
    for name in NAMES:
        right = {case: np.array([list(map(int, run)) for run in runs]) for case, runs in answers[name].items()}
        pairs = compare_pairs({case: right[case] for case in ("norm_trainable", "frozen", "bn_trainable")}).set_index(["first", "second"])
        for than, pair in pairs.loc["norm_trainable"].iterrows():
            rows.append(dict(setting=name, title=SETTINGS[name].title, technique="norm_trainable", than=than, expected="helps", gain=pair.difference, low=pair.low, high=pair.high,
                             p_value=pair.p_value, accuracy=right["norm_trainable"].mean(), other=right[than].mean()))
    return pd.DataFrame(rows)


@call_parse
def without_bn(
    seeds: int = 5,  # runs of each case
    out: str = "runs/without_bn",  # folder for the result
):
    "Train the twin and the original in three settings."
    with user_errors("without_bn"):
        if seeds < 1: raise ValueError(f"seeds is {seeds}: give 1 or more")
        check_writable(out)
        answers = {name: {} for name in NAMES}
        for name in NAMES:
            for case, (train, recipe) in CASES.items():
                runs = [train(SETTINGS[name], recipe, seed) for seed in range(seeds)]
                answers[name][case] = ["".join("01"[int(right)] for right in run) for run in runs]
                print(f"{name:14} {case:15}", *(f"{run.mean():.3f}" for run in runs), flush=True)
        write_file(Path(out) / "answers.json", json.dumps(dict(environment=describe_environment(), answers=answers), indent=1) + "\n")
        write_file(Path(out) / "gains.csv", csv_text(read_gains(answers)))
