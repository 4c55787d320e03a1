"""What features do while three recipes train: some validation images as points, after every epoch.

    OMP_NUM_THREADS=1 python benchmarks/coming_apart.py --out nbs/results/touch

One linear projection serves all recipes and epochs: the first two principal components of all points. Page 00 shows features.json."""

import json
from pathlib import Path

import torch
from fastcore.script import call_parse
from torch.nn import functional as F

from transfer_nbs.backbone import eval_mode
from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.console import user_errors
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.files import check_writable, write_file
from transfer_nbs.hardware import choose_precision, describe_environment
from transfer_nbs.recipes import RECIPES, build_model, image_spec
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import evaluate, fit
from transfer_nbs.views import AUGMENTS

NAMES = ("bn_eval", "full_bn_frozen", "from_scratch")
WORLD = Patterns(n=250, n_valid=500, size=40, camera=0, object_size=1)  # that of page 00
SETTINGS = TrainSettings(epochs=10, size=40, augment="light")
CLASSES, EACH = slice(0, None, 3), 20  # every third class, and the first images of each


def train(recipe, table, seed: int) -> tuple[torch.Tensor, list[float]]:
    "Features of unit length (epochs, images, channels) of the images that are shown, and accuracies on all; before training, too."
    folder = practice_folder(WORLD)
    spec = image_spec(SETTINGS, table, folder)
    train_loader, valid_loader = make_loaders(table, folder, spec, batch_size=SETTINGS.batch_size, seed=seed, augment=AUGMENTS[SETTINGS.augment])
    model = build_model(recipe, SETTINGS, num_classes=len(spec.class_names), seed=seed)
    images, labels = map(torch.cat, zip(*valid_loader))
    chosen = torch.cat([(labels == number).nonzero()[:EACH, 0] for number in range(10)[CLASSES]])
    features = []

    @torch.no_grad()
    def note(state=None):
        with eval_mode(model): features.append(F.normalize(model.body(images[chosen]).mean((2, 3))))
        return False

    note()
    before = evaluate(model, valid_loader).correct.mean()
    precision = choose_precision(torch.device("cpu"), precision="float32")
    history = fit(model, train_loader, valid_loader, recipe, epochs=SETTINGS.epochs, lr=SETTINGS.lr, seed=seed, precision=precision, after_epoch=note)
    return torch.stack(features), [float(before), *history.valid_accuracy]


def between_classes(points: torch.Tensor) -> float:
    "The share of the variation of centred points that lies between their classes."
    means = points.view(-1, EACH, points.shape[1]).mean(1)
    return (EACH * means.square().sum() / points.square().sum()).item()


@call_parse
def coming_apart(
    seed: int = 0,
    out: str = "runs/touch",  # folder for the result
):
    "Train each recipe, and write the points of all epochs."
    with user_errors("coming_apart"):
        check_writable(out)
        table = read_folder(practice_folder(WORLD))
        runs = {name: train(RECIPES[name], table, seed) for name in NAMES}
        centred = {name: features - features.mean(1, keepdim=True) for name, (features, _) in runs.items()}
        everything = torch.cat(list(centred.values())).flatten(0, 1).double()
        plane = torch.linalg.eigh(everything.T @ everything).eigenvectors[:, -2:].flip(1).float()
        result = dict(environment=describe_environment(seed=seed), classes=sorted(table["class"].unique())[CLASSES], each=EACH, recipes={})
        for name, features in centred.items():
            points = features @ plane
            result["recipes"][name] = dict(
                accuracy=[round(value, 3) for value in runs[name][1]],
                between=[round(between_classes(epoch), 3) for epoch in features],
                shown=round((points.square().sum() / features.square().sum()).item(), 3),  # share of the variation
                points=(100 * points).round().int().flatten(1).tolist())  # for each epoch x, y, x, y ..., in hundredths
            print(name, *result["recipes"][name]["accuracy"], result["recipes"][name]["between"], result["recipes"][name]["shown"], flush=True)
        write_file(Path(out) / "features.json", json.dumps(result, separators=(",", ":")) + "\n")
