"""Train on the images of one camera, test on those of another: what a linear probe, fine-tuning and both make of it.

    python benchmarks/other_camera.py nbs/results/other_camera.csv
"""

from pathlib import Path

import pandas as pd
from fastcore.script import call_parse

from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.files import csv_text, write_file
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.named_weights import image_spec
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import evaluate

CAMERAS = (0.0, 0.35, 0.7, 1.0)  # the first takes the training images


def probed(table: pd.DataFrame, folder: Path, settings: TrainSettings):
    "The linear probe that `lp_ft` begins with, and no training after it."
    model = build_model(RECIPES["lp_ft"], settings, num_classes=10)
    RECIPES["lp_ft"].start(model, make_loaders(table, folder, image_spec(settings, table), batch_size=16)[0])
    return model


@call_parse
def other_camera(
    out: str,  # CSV file for the results
    seeds: int = 5,  # of each recipe
    epochs: int = 5,
):
    "Accuracies on the validation images of each camera."
    keep_freed_memory()
    settings, rows = TrainSettings(epochs=epochs), []
    folders = {camera: practice_folder(Patterns(n=600, n_valid=800, camera=camera)) for camera in CAMERAS}
    tables = {camera: read_folder(folder) for camera, folder in folders.items()}
    spec, first = image_spec(settings, tables[0.0]), (tables[0.0], folders[0.0])
    loaders = {camera: make_loaders(tables[camera], folders[camera], spec, batch_size=16)[1] for camera in CAMERAS}
    for seed in range(seeds):
        for name in ("linear probe", "full_bn_frozen", "lp_ft"):
            if name == "linear probe" and seed: continue  # it has one answer
            model = probed(*first, settings) if name == "linear probe" else train_recipe(RECIPES[name], settings, *first, seed=seed).model
            for camera, loader in loaders.items():
                answers = evaluate(model, loader).correct
                rows.append(dict(recipe=name, seed=seed, camera=camera, correct=int(answers.sum()), images=len(answers)))
            print(rows[-len(CAMERAS):], flush=True)
            write_file(Path(out), csv_text(pd.DataFrame(rows)))
