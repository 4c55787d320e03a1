"""The limit that a recipe is held against, and a stopwatch that shows where the time of its training goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from transfer_nbs import batches, features, recipes, training
from transfer_nbs.bn_eval import bn_eval
from transfer_nbs.compare import run_recipe
from transfer_nbs.hardware import Precision
from transfer_nbs.recipes import build_model
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import Phase, Recipe
from transfer_nbs.training_run import divide_epochs, learning_groups


def bare_step(
    recipe: Recipe,
    settings: TrainSettings,
    *,
    phase: Phase,  # which of the recipe's
    precision: Precision,
    num_classes: int = 2,
    compiled: bool = False,  # by `torch.compile`
) -> Callable[[], None]:  # one forward pass where the backbone is frozen, else one training step
    "The computing of one batch and nothing else: the limit for a phase of a recipe."
    model = build_model(recipe, settings, num_classes=num_classes)
    optimizer, _ = recipe.optimizer(learning_groups(recipe.groups(model), phase, settings.lr), steps=100)
    device = next(model.parameters()).device
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    images = torch.randn(settings.batch_size, 3, settings.size, settings.size, device=device).to(memory_format=layout)
    labels = torch.arange(settings.batch_size, device=device) % num_classes
    frozen = not any(parameter.requires_grad for parameter in model.body.parameters())
    model.train().to(memory_format=layout)
    if compiled: (model.body if frozen else model).compile()

    def step():
        with precision.autocast(device):
            if frozen:
                with torch.no_grad(): return model.body(images)
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def images_per_second(
    step: Callable[[], None],  # works on one batch
    *,
    batch_size: int,  # images in a step
    seconds: float = 0.5,  # how long to measure
) -> float:
    "How many images a second a step gets done, at its best."
    def once():
        start = time.perf_counter()
        step()
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return time.perf_counter() - start
    once(), once()
    times, start = [once()], time.perf_counter()
    while time.perf_counter() - start < seconds: times.append(once())
    return batch_size / float(np.median(sorted(times)[:max(1, len(times) // 2)]))


def limit_seconds(
    recipe: Recipe,
    settings: TrainSettings,
    table: pd.DataFrame,  # file, class, split, as `read_folder` gives them
    *,
    precision: Precision,
) -> float:
    """How long a recipe's computing takes alone: all batches of its phases, and a forward pass of all validation
    images in float32 after each epoch."""
    def speed(recipe, phase, precision=precision):
        step = bare_step(recipe, settings, phase=phase, precision=precision)
        return images_per_second(step, batch_size=settings.batch_size)
    count, total = table.groupby("split").size(), 0.0
    for length, phase in zip(divide_epochs(recipe.phases, settings.epochs), recipe.phases):
        if length: total += length * count["train"] / speed(recipe, phase)
    return total + settings.epochs * count["valid"] / speed(bn_eval, bn_eval.phases[0], precision.exact)


STAGES = ("decoding", "reading and cropping", "forward", "backward", "update", "evaluation", "rest")
WATCHED = ((recipes, "fit", "rest"), (batches, "cached", "decoding"),
           (batches.ImageDataset, "__getitem__", "reading and cropping"), (features.FrozenBody, "__call__", "forward"),
           (training, "train_epoch", "forward"), (torch.Tensor, "backward", "backward"),
           (torch.optim.Adam, "step", "update"), (training, "evaluate", "evaluation"))


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:  # stage to seconds, without the stages inside it
    "Time the stages of what is trained within a `with` block, by wrapping the functions that do them."
    seconds, running, since = defaultdict(float), ["outside"], time.perf_counter()

    def switch():
        nonlocal since
        if torch.cuda.is_available(): torch.cuda.synchronize()  # a stage ends when its work is done, not when it was handed over
        now = time.perf_counter()
        seconds[running[-1]] += now - since
        since = now

    def watched(stage, function):
        def wrapper(*arguments, **options):
            switch()
            running.append(stage)
            try: return function(*arguments, **options)
            finally:
                switch()
                running.pop()
        return wrapper

    with ExitStack() as stack:
        for owner, name, stage in WATCHED:
            stack.enter_context(patch.object(owner, name, watched(stage, getattr(owner, name))))
        yield seconds
        switch()


def time_recipe(
    recipe: Recipe,
    settings: TrainSettings,
    table: pd.DataFrame,  # file, class, split, as `read_folder` gives them
    folder: str | Path,  # what the files are relative to
) -> dict[str, float]:  # seconds of each stage
    "Run a recipe, and say where the time of its training went, from the start of `fit` to its end."
    with stopwatch() as seconds: run_recipe(recipe, settings, table, folder)
    return {stage: seconds[stage] for stage in STAGES}
