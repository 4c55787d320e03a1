"""How time and memory grow with the number of images, their size, and the number of recipes and seeds; and what frozen recipes hold in memory.

    python benchmarks/growth.py --out nbs/results/growth"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from fastcore.script import call_parse
from measuring import measured

from transfer_nbs.clothes import Camouflage, make_clothes
from transfer_nbs.compare import CompareSettings, compare, run_recipe
from transfer_nbs.recipes import RECIPES, build_model
from transfer_nbs.files import check_writable
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.views import ImageSpec
from transfer_nbs.console import user_errors
from transfer_nbs.hardware import choose_device, choose_precision, describe_environment
from transfer_nbs.training import evaluate

AGAINST = ("images", "size", "seeds", "recipes", "memory")
IMAGES = (1000, 10_000, 100_000)
SIZES = (32, 64, 96, 128, 192, 256)
ONE_EPOCH = CompareSettings(epochs=1)


def find_and_compare(folder: Path, settings: CompareSettings, recipe: str, table: Path) -> list[dict]:
    "Read a folder: find its pictures, and which of them are copies."
    with measured() as result: read_folder(folder, valid_fraction=0.2).to_csv(table, index=False)
    return [dict(recipe=recipe, stage="finding and comparing", **result)]


def decode(folder: Path, settings: CompareSettings, recipe: str, table: Path) -> list[dict]:
    "Decode and scale the pictures of a folder."
    rows = pd.read_csv(table)
    with measured() as result:
        for loader in make_loaders(rows, folder, ImageSpec(tuple(sorted(set(rows["class"]))), size=settings.size)): assert loader.dataset.pictures.folder
    return [dict(recipe=recipe, stage="decoding", **result)]


def train(folder: Path, settings: CompareSettings, recipe: str, table: Path) -> list[dict]:
    "Train a recipe on pictures that are decoded."
    rows = pd.read_csv(table)
    choose_precision(choose_device())  # measured once for a machine, not here
    with measured() as result: run_recipe(RECIPES[recipe], settings, rows, folder)
    return [dict(recipe=recipe, stage="training", **result)]


def compare_all(folder: Path, settings: CompareSettings) -> list[dict]:
    "A whole comparison, its pictures to be decoded."
    choose_precision(choose_device())
    with measured() as result, tempfile.TemporaryDirectory() as out: compare(settings, read_folder(folder, valid_fraction=0.5), folder, out=out, say=lambda line: None)
    return [dict(recipe=",".join(settings.recipes), stage="all", **result)]


def infer(folder: Path, settings: CompareSettings, batch_size: int) -> list[dict]:
    "Ask a model about images, and nothing else."
    choose_precision(choose_device())
    table = read_folder(folder, valid_fraction=0.5)
    model, spec = build_model(RECIPES["bn_eval"], settings, num_classes=2), ImageSpec(tuple(sorted(set(table["class"]))), size=settings.size)
    _, loader = make_loaders(table, folder, spec, batch_size=batch_size)
    with measured() as result: evaluate(model, loader)
    return [dict(recipe=f"inference, batches of {batch_size}", stage="all", **result)]


def train_recipe(folder: Path, settings: CompareSettings, recipe: str) -> list[dict]:
    "Train a recipe, its pictures to be decoded."
    table = read_folder(folder, valid_fraction=0.5)
    with measured() as result: run_recipe(RECIPES[recipe], settings, table, folder)
    return [dict(recipe=recipe, stage="all", **result)]


def alone(functions: list) -> list[dict]:
    "What each function gives in a process of its own; they share a cache, which is empty at first."
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for function in functions:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=use_cache, initargs=(cache,)) as pool: rows += pool.submit(function).result()
    return rows


def use_cache(folder: str) -> None:
    "Let this process keep what it computes in another folder."
    os.environ["XDG_CACHE_HOME"] = folder


@call_parse
def growth(
    only: str = ",".join(AGAINST),  # what to measure, comma separated; the rest stays as it is in the file
    out: str = "runs/growth",  # folder for the results
    most: int = IMAGES[-1],  # images in the largest set
):
    "Time and memory against the number of images, their size, seeds and recipes, on an idle machine: half an hour."
    with user_errors("growth"):
        unknown = [name for name in only.split(",") if name not in AGAINST]
        if unknown: raise ValueError(f"unknown --only {unknown[0]!r}: use {', '.join(AGAINST)}")
        check_writable(out)
        file, wanted = Path(out) / "growth.csv", only.split(",")
        rows = [row for row in pd.read_csv(file).to_dict("records") if row["against"] not in wanted] if file.exists() else []

        def add(against, value, *functions):
            rows.extend(dict(against=against, value=value, **row) for row in alone(functions))
            pd.DataFrame(rows).sort_values("against", key=lambda names: names.map(AGAINST.index), kind="stable").to_csv(file, index=False)
            print("  ".join(str(value) for value in rows[-1].values()), flush=True)

        with tempfile.TemporaryDirectory() as drawn:
            folders = {count: make_clothes(Path(drawn) / str(count), Camouflage(n=count)) for count in IMAGES if count <= (most if "images" in wanted else IMAGES[0])}
            folder, names = folders[IMAGES[0]], CompareSettings().recipes
            def stages(folder, name, size): return [partial(stage, folder, replace(ONE_EPOCH, size=size), name, Path(drawn) / "table.csv") for stage in (find_and_compare, decode, train)]
            def one(name, seeds=1): return partial(compare_all, folder, replace(ONE_EPOCH, recipes=(name,), seeds=seeds))
            if "images" in wanted:
                for count, images in folders.items(): add("images", count, *stages(images, "bn_eval", 64))
            if "size" in wanted:
                for size in SIZES:
                    for name in ("bn_eval", "from_scratch"): add("size", size, *stages(folder, name, size))
            if "seeds" in wanted:
                for seeds in (1, 2, 4, 8):
                    for name in ("bn_eval", "from_scratch"): add("seeds", seeds, one(name, seeds))
            if "recipes" in wanted:
                for count in (1, 3, 6, 9): add("recipes", count, partial(compare_all, folder, CompareSettings(recipes=names[:count], seeds=1)))
            if "memory" in wanted:
                for batch_size in (16, 64): add("memory", batch_size, partial(infer, folder, ONE_EPOCH, batch_size))
                for name, batch_size in (("feature_extractor", 16), ("bn_eval", 64), ("from_scratch", 16)): add("memory", batch_size, partial(train_recipe, folder, ONE_EPOCH, name))
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
        print(f"growth.csv and environment.txt are in {out}")
