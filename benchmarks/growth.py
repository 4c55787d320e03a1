"""How time and memory grow with the number of images, their size, and the number of recipes and seeds; and what frozen recipes hold in memory.

    python benchmarks/growth.py --out nbs/results/growth"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import psutil
from fastcore.script import call_parse

from transfer_nbs.clothes import make_clothes
from transfer_nbs.compare import RECIPES, CompareSettings, build_model, check_writable, compare, run_recipe
from transfer_nbs.data import ImageSpec, make_loaders, read_folder
from transfer_nbs.split import user_errors
from transfer_nbs.training import choose_device, choose_precision, describe_environment, evaluate

IMAGES = (1000, 10_000, 100_000)
SIZES = (32, 64, 96, 128, 192, 256)
ONE_EPOCH = CompareSettings(epochs=1)


@contextmanager
def watch_memory(result: dict) -> Iterator[None]:
    "Put into `result` how many MiB of the process's own memory were in use at most; a mapped file isn't its own."
    process, done, peak = psutil.Process(), threading.Event(), [0]

    def watch():
        while not done.wait(0.02):
            memory = process.memory_info()
            peak[0] = max(peak[0], memory.rss - getattr(memory, "shared", 0))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try: yield
    finally:
        done.set()
        watcher.join()
        result["memory_mb"] = round(peak[0] / 2**20)


def time_stages(folder: Path, settings: CompareSettings, recipe: str) -> list[dict]:
    "Read a folder, decode its pictures, and train one recipe: seconds of each, and the memory that all took."
    choose_precision(choose_device())  # measured once for a machine, not here
    memory, seconds, start = {}, {}, time.perf_counter()
    with watch_memory(memory):
        table = read_folder(folder, valid_fraction=0.2)
        seconds["finding and comparing"] = time.perf_counter() - start
        spec = ImageSpec(tuple(sorted(set(table["class"]))), size=settings.size)
        for loader in make_loaders(table, folder, spec, batch_size=settings.batch_size): assert loader.dataset.pictures.folder
        seconds["decoding"] = time.perf_counter() - start - sum(seconds.values())
        run_recipe(RECIPES[recipe], settings, table, folder)
        seconds["training"] = time.perf_counter() - start - sum(seconds.values())
    return [dict(recipe=recipe, stage=stage, seconds=round(value, 3), **memory) for stage, value in seconds.items()]


def time_comparison(folder: Path, settings: CompareSettings) -> list[dict]:
    "A whole comparison, its pictures to be decoded."
    choose_precision(choose_device())
    memory, start = {}, time.perf_counter()
    with watch_memory(memory), tempfile.TemporaryDirectory() as out: compare(settings, read_folder(folder, valid_fraction=0.5), folder, out=out, say=lambda line: None)
    return [dict(recipe=",".join(settings.recipes), stage="all", seconds=round(time.perf_counter() - start, 3), **memory)]


def hold_inference(folder: Path, settings: CompareSettings, batch_size: int) -> list[dict]:
    "The memory of asking a model about images, and nothing else."
    precision, memory, table = choose_precision(choose_device()), {}, read_folder(folder, valid_fraction=0.5)
    model, spec = build_model(RECIPES["bn_eval"], settings, num_classes=2), ImageSpec(tuple(sorted(set(table["class"]))), size=settings.size)
    _, loader = make_loaders(table, folder, spec, batch_size=batch_size)
    with watch_memory(memory): evaluate(model, loader, precision=precision)
    return [dict(recipe=f"inference, batches of {batch_size}", stage="all", **memory)]


def hold_recipe(folder: Path, settings: CompareSettings, recipe: str) -> list[dict]:
    "The memory of training a recipe."
    memory, table = {}, read_folder(folder, valid_fraction=0.5)
    with watch_memory(memory): run_recipe(RECIPES[recipe], settings, table, folder)
    return [dict(recipe=recipe, stage="all", **memory)]


def alone(function) -> list[dict]:
    "What a function gives in a process of its own, with a cache of its own, where only the choice of numbers has been measured."
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=use_cache, initargs=(cache,)) as pool:
        return pool.submit(function).result()


def use_cache(folder: str) -> None:
    "Let this process keep what it computes in another folder."
    os.environ["XDG_CACHE_HOME"] = folder


@call_parse
def growth(
    out: str = "runs/growth",  # folder for the results
    most: int = IMAGES[-1],  # images in the largest set
):
    "Time and memory against the number of images, their size, recipes and seeds, on an idle machine: half an hour."
    with user_errors("growth"):
        check_writable(out)
        rows = []

        def add(against, value, function):
            rows.extend(dict(against=against, value=value, **row) for row in alone(function))
            pd.DataFrame(rows).to_csv(Path(out) / "growth.csv", index=False)
            print("  ".join(str(value) for value in rows[-1].values()), flush=True)

        with tempfile.TemporaryDirectory() as drawn:
            folders = {count: make_clothes(Path(drawn) / str(count), n=count) for count in IMAGES if count <= most}
            folder, names = folders[IMAGES[0]], list(RECIPES)
            for count, images in folders.items(): add("images", count, partial(time_stages, images, replace(ONE_EPOCH, size=64), "bn_eval"))
            for size in SIZES:
                for name in ("bn_eval", "from_scratch"): add("size", size, partial(time_stages, folder, replace(ONE_EPOCH, size=size), name))
            for seeds in (1, 2, 4, 8):
                for name in ("bn_eval", "from_scratch"): add("seeds", seeds, partial(time_comparison, folder, replace(ONE_EPOCH, recipes=(name,), seeds=seeds)))
            for count in (1, 3, 6, 9): add("recipes", count, partial(time_comparison, folder, CompareSettings(recipes=tuple(names[:count]), seeds=1)))
            for batch_size in (16, 64): add("memory", batch_size, partial(hold_inference, folder, ONE_EPOCH, batch_size))
            for name, batch_size in (("feature_extractor", 16), ("bn_eval", 64), ("from_scratch", 16)): add("memory", batch_size, partial(hold_recipe, folder, ONE_EPOCH, name))
        (Path(out) / "environment.txt").write_text(describe_environment() + "\n", encoding="utf-8")
        print(f"growth.csv and environment.txt are in {out}")
