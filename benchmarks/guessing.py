"""Ten validation images of the practice data, drawn by a seed, and what a trained network says to them.

    OMP_NUM_THREADS=1 python benchmarks/guessing.py --out nbs/results/touch

Which images are drawn depends on nothing that the network does. Page 20 makes a game of guesses.json."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse
from PIL import Image

from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.console import user_errors
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.files import check_writable, write_file
from transfer_nbs.fine_tuning import full_bn_frozen
from transfer_nbs.hardware import describe_environment
from transfer_nbs.recipes import train_recipe
from transfer_nbs.settings import TrainSettings
from transfer_nbs.views import denormalize

WORLD = Patterns()  # the default of page 20
SETTINGS = TrainSettings(epochs=8, device="cpu", precision="float32")


def as_webp(image: torch.Tensor) -> str:
    "What the network sees, as a small file in base64."
    content = io.BytesIO()
    pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
    Image.fromarray(pixels).save(content, "WEBP", quality=95, method=6)
    return base64.b64encode(content.getvalue()).decode()


def as_shown(pixels: torch.Tensor, spec, *, right: torch.Tensor, said: torch.Tensor) -> dict:
    "An image with its class, the network's answer and the probability of that."
    return dict(image=as_webp(denormalize(pixels, spec)), right=int(right), said=int(said.argmax()), sure=round(said.max().item(), 2))


@call_parse
def guessing(
    seed: int = 0,  # of the training run, and of the draw
    images: int = 10,  # how many to draw
    out: str = "runs/touch",  # folder for the result
):
    "Train on the practice data, and write some images with answers, and the first image of each of the most common mistakes."
    with user_errors("guessing"):
        check_writable(out)
        folder = practice_folder(WORLD)
        table = read_folder(folder)
        trained = train_recipe(full_bn_frozen, SETTINGS, table, folder, seed=seed)
        _, loader = make_loaders(table, folder, trained.spec, batch_size=100)
        pixels, labels = map(torch.cat, zip(*loader))
        with torch.no_grad(): said = torch.cat([trained.model.eval()(batch).softmax(1) for batch in pixels.split(100)])

        def shown(number): return as_shown(pixels[number], trained.spec, right=labels[number], said=said[number])

        wrong = pd.DataFrame(dict(right=labels, said=said.argmax(1))).query("right != said")
        groups = sorted(wrong.groupby(["right", "said"]).groups.values(), key=len, reverse=True)[:3]
        drawn = np.random.default_rng(seed).choice(len(labels), images, replace=False).tolist()
        result = dict(environment=describe_environment(seed=seed), recipe=full_bn_frozen.name, epochs=SETTINGS.epochs, classes=trained.spec.class_names,
                      valid_correct=len(labels) - len(wrong), valid_total=len(labels), images=list(map(shown, drawn)),
                      mistaken=[dict(shown(group[0]), times=len(group)) for group in groups])
        print(f"{result['valid_correct']} of {len(labels)} right;", [row["right"] == row["said"] for row in result["images"]])
        write_file(Path(out) / "guesses.json", json.dumps(result, separators=(",", ":")) + "\n")
