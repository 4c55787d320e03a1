"""What a backbone is worth: a linear probe on its features, and fine-tuning it, on the practice data and on photographs.

    python benchmarks/backbone.py FOLDER... --imagenet mobilenet_v2_imagenet.pth --out nbs/results/backbone

A folder's own division into train and valid is not used: its images are pooled, and divided anew. The results also go into the card beside the weights."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import Param, call_parse

from transfer_nbs.backbone import create_body
from transfer_nbs.named_weights import BUNDLED_ARCH, bundled_weights
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings, run_recipe
from transfer_nbs.recipes import RECIPES
from transfer_nbs.files import check_writable
from transfer_nbs.intervals import accuracy_interval, compare_pairs
from transfer_nbs.data import read_folder
from transfer_nbs.pretrain import card_text, compute_features, linear_probe
from transfer_nbs.console import user_errors
from transfer_nbs.files import write_file
from transfer_nbs.hardware import describe_environment

PRACTICE_SEED = 20261  # a seed that nothing else uses
SPLITS, SEEDS = 10, 5  # of the probe, and of fine-tuning
RECIPE = "discriminative_bn_trainable"


def pool(folder: Path, into: Path) -> Path:
    "All images of a folder as INTO/<class>/<side>-<file>, by links."
    table = read_folder(folder)
    for file, name, side in table[["file", "class", "split"]].itertuples(index=False):
        (into / name).mkdir(parents=True, exist_ok=True)
        (into / name / f"{side}-{Path(file).name}").symlink_to((folder / file).resolve())
    return into


def probe(bodies: dict[str, tuple[str, str]], data: str, folder: Path, table: pd.DataFrame, size: int) -> list[dict]:
    "Accuracy of a linear probe for each body and split; random weights are drawn anew for each split."
    rows = []
    for name, (arch, weights) in bodies.items():
        for split in range(SPLITS):
            if split == 0 or weights == "random":
                torch.manual_seed(split)
                features, labels = compute_features(create_body(arch, weights=weights), folder, table, size=size)
            rows.append(dict(data=data, body=name, size=size, split=split, accuracy=round(linear_probe(features, labels, splits=[split])[0], 4)))
        print(f"{data:12} probe, {name:22} {np.mean([row['accuracy'] for row in rows if row['body'] == name]):.3f}", flush=True)
    return rows


def fine_tune(bodies: dict[str, tuple[str, str]], data: str, folder: Path, table: pd.DataFrame, size: int, epochs: int) -> list[dict]:
    "Mean accuracy of some seeds of each body with its interval, and the p value of the difference from training from scratch."
    answers = {}
    for name, (arch, weights) in bodies.items():
        settings = CompareSettings(arch=arch, weights=weights, size=size, epochs=epochs)
        recipe = RECIPES["from_scratch" if weights == "random" else RECIPE]
        answers[name] = np.array([[int(answer) for answer in run_recipe(recipe, settings, table, folder, seed=seed)["correct"]] for seed in range(SEEDS)])
        print(f"{data:12} fine-tuned, {name:22} {answers[name].mean():.3f}", flush=True)
    pairs = compare_pairs(answers)
    rows = []
    for name, correct in answers.items():
        mean, low, high = accuracy_interval(correct)
        other = pairs[(pairs.first == "random weights") & (pairs.second == name) | (pairs.second == "random weights") & (pairs.first == name)]
        rows.append(dict(data=data, body=name, size=size, epochs=epochs, seeds=SEEDS, train=int((table.split == "train").sum()), valid=correct.shape[1],
                         accuracy=round(mean, 4), low=round(low, 4), high=round(high, 4), p_value=round(other.p_value.iloc[0], 4) if len(other) else None))
    return rows


@call_parse
def backbone(
    folders: Param("folders of photographs, as for transfer_compare; the practice data is always there", str, nargs="*", opt=False) = None,
    weights: str = "bundled",  # the backbone in question: bundled, or a file that transfer_pretrain made
    imagenet: str = None,  # file with ImageNet weights of torchvision's mobilenet_v2, for comparison
    size: int = 128,  # height and width of the photographs, pixels; the practice images have 96
    epochs: int = 5,  # of fine-tuning
    out: str = "runs/backbone",  # folder for the results
):
    "Accuracy of a linear probe and of fine-tuning, for random weights, the backbone and ImageNet weights."
    with user_errors("backbone"), tempfile.TemporaryDirectory() as pooled:
        check_writable(out)
        bodies = {"random weights": (BUNDLED_ARCH, "random"), "formulas": (BUNDLED_ARCH, weights)}
        if imagenet: bodies["ImageNet, mobilenet_v2"] = ("mobilenet_v2", imagenet)
        for arch, source in bodies.values(): create_body(arch, weights=source)  # or an error, before anything takes time
        sets = {"practice": (practice_folder(Camouflage(n=2000, size=96, seed=PRACTICE_SEED)), 96)}
        for folder in map(Path, folders or ()): sets[folder.name] = pool(folder, Path(pooled) / folder.name), size
        probes, tuned = [], []
        for data, (folder, pixels) in sets.items():
            table = read_folder(folder, valid_fraction=0.4)
            probes += probe(bodies, data, folder, table, pixels)
            tuned += fine_tune(bodies, data, folder, table, pixels, epochs)
            pd.DataFrame(probes).to_csv(Path(out) / "probe.csv", index=False)
            pd.DataFrame(tuned).to_csv(Path(out) / "finetune.csv", index=False)
        write_file(Path(out) / "environment.txt", describe_environment() + "\n")
        card_file = (bundled_weights() if weights == "bundled" else Path(weights)).with_suffix(".json")
        if card_file.exists():
            by_body = pd.DataFrame(probes).groupby(["data", "body", "size"], sort=False).accuracy
            probe_rows = by_body.agg(accuracy="mean", standard_error="sem").round(4).reset_index().to_dict("records")
            card = json.loads(card_file.read_text(encoding="utf-8")) | dict(probe=probe_rows, finetune=tuned)
            write_file(card_file, json.dumps(card, indent=1) + "\n")
            write_file(card_file.with_suffix(".md"), card_text(card))
