"""transfer_nbs, by what it exports."""

import pandas as pd
import torch
from common import Clock, read_job, report

from transfer_nbs.backbone import get_model
from transfer_nbs.bn_eval import set_bn_policy
from transfer_nbs.features import FeatureStore
from transfer_nbs.recipes import RECIPES
from transfer_nbs.concat_pooling_head import deeper_head
from transfer_nbs.data import make_loaders
from transfer_nbs.views import ImageSpec
from transfer_nbs.hardware import choose_precision
from transfer_nbs.training import Phase, Recipe, fit

FROZEN_DEEPER_HEAD = Recipe("frozen_deeper_head", (Phase((None, 1.0)),), head=deeper_head, bn="frozen")


def main() -> None:
    "Train with the recipe that the job names, from an empty cache, or from one in which the pictures are decoded already."
    job = read_job()
    name, _, cached = job["way"].partition(", ")
    recipe, precision = {**RECIPES, FROZEN_DEEPER_HEAD.name: FROZEN_DEEPER_HEAD}[name], choose_precision(torch.device("cpu"), precision=job["precision"])
    model = get_model(job["arch"], len(job["classes"]), weights=job["weights"], head=recipe.head, size=job["size"], seed=job["seed"])
    set_bn_policy(model.body, recipe.bn)
    table = pd.DataFrame([(file, job["classes"][label], side) for side in ("train", "valid") for file, label in job[side]], columns=["file", "class", "split"])
    def loaders():
        return make_loaders(table, "/", ImageSpec(tuple(job["classes"]), size=job["size"]), batch_size=job["batch_size"], seed=job["seed"])
    if cached:
        for loader in loaders(): assert loader.dataset.pictures.folder
    clock, evaluations = Clock(), []
    train_loader, valid_loader = loaders()
    fit(model, train_loader, valid_loader, recipe, epochs=job["epochs"], seed=job["seed"], precision=precision, features=FeatureStore(), evaluations=evaluations)
    trained_on = job["epochs"] * sum(map(len, train_loader.sampler))
    report(job, clock, accuracy=evaluations[-1].accuracy, validated=len(evaluations[-1].correct), trained_on=trained_on,
           packages=("transfer_nbs", "fastcore"), note="Adam 4e-3, falling along a cosine, its default")


if __name__ == "__main__": main()
