"""What each part of the pretraining is worth: the same short pretraining with one thing changed, and a linear probe on photographs.

    python benchmarks/ablations.py FOLDER... --out nbs/results/backbone

Finished variants are kept, so it goes on where it stopped. All see as many pictures, unless they say otherwise."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from fastcore.script import Param, call_parse

from transfer_nbs.backbone import create_body
from transfer_nbs.named_weights import BUNDLED_ARCH, BUNDLED_WEIGHTS
from transfer_nbs.files import check_writable
from transfer_nbs.data import read_folder
from transfer_nbs.formulas import SHAPES, SURFACES
from transfer_nbs.pretrain import PretrainSettings, compute_features, linear_probe, pretrain
from transfer_nbs.console import user_errors
from transfer_nbs.files import write_file
from transfer_nbs.hardware import choose_device, choose_precision, describe_environment

# Small, because there is little time to learn, and without contrast, which learns colours first and keeps the rest waiting.
CLASSES, REST = ("shapes", "surfaces"), ("outline", "colours")
SHORT = PretrainSettings(objectives=",".join(CLASSES + REST), surfaces=48, shapes=96, draw_size=96, size=64, batch_size=64, lr=0.001)
SPLITS = 10  # of the probe


def objectives(*names: str) -> dict: return dict(objectives=",".join(names))


VARIANTS = {"as it is": {}, "another seed": dict(seed=1), "a third seed": dict(seed=2)}
VARIANTS |= {"contrast too": objectives(*CLASSES, *REST, "contrast"), "contrast too, twice the views": dict(share=2, **objectives(*CLASSES, *REST, "contrast")),
             "contrast alone": objectives("contrast"), "shapes and surfaces alone": objectives(*CLASSES)}
VARIANTS |= {f"without {name}": objectives(*(other for other in CLASSES + REST if other != name)) for name in CLASSES + REST}
VARIANTS |= {"half the views": dict(share=0.5), "twice the views": dict(share=2)}
VARIANTS |= {f"at most {size} pixels": dict(size=size) for size in (48, 96)}
VARIANTS |= {"twice the classes": dict(surfaces=2 * SHORT.surfaces, shapes=2 * SHORT.shapes)}
VARIANTS |= {f"no {name}": dict(without=name) for name in [*SURFACES, *SHAPES]}


def settings_of(variant: str, views: int) -> PretrainSettings:
    changes = dict(VARIANTS[variant])
    return replace(SHORT, views=int(views * changes.pop("share", 1)), **changes)


def run_variant(name: str, views: int, folders: list[str], size: int, threads: int) -> list[dict]:
    "A row for each folder."
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        card = pretrain(Path(folder) / "run", settings_of(name, views))
        body = create_body(BUNDLED_ARCH, weights=str(Path(folder) / "run" / BUNDLED_WEIGHTS)).to(choose_device())
    rows = []
    for folder in folders:
        accuracies = linear_probe(*compute_features(body, folder, read_folder(folder), size=size), splits=range(SPLITS))
        rows.append(dict(variant=name, views=card["views"], data=Path(folder).name, source_accuracy=card["log"][-1]["source_accuracy"], minutes=card["minutes"],
                         accuracy=round(accuracies.mean(), 4), standard_error=round(accuracies.std(ddof=1) / len(accuracies) ** 0.5, 4)))
    return rows


@call_parse
def ablations(
    folders: Param("folders of photographs, as for transfer_compare", str, nargs="+", opt=False),
    views: int = 100_000,  # of each variant
    size: int = 128,  # height and width of the photographs, pixels
    only: str = None,  # names of variants, comma separated; none: all
    jobs: int = 1,  # variants to train at the same time
    out: str = "runs/backbone",  # folder for the results
):
    "Accuracy of a linear probe after a short pretraining, with one thing changed at a time."
    with user_errors("ablations"):
        check_writable(out)
        for folder in folders: read_folder(folder)  # or an error, before anything takes time
        names = only.split(",") if only else list(VARIANTS)
        for name in names:
            if name not in VARIANTS: raise ValueError(f"no variant {name!r}: use {', '.join(VARIANTS)}")
        choose_precision(choose_device())  # measured once, while nothing else runs
        file = Path(out) / "ablations.csv"
        rows = pd.read_csv(file).to_dict("records") if file.exists() else []
        done = {(row["variant"], row["views"]) for row in rows}
        todo = [name for name in names if (name, settings_of(name, views).steps * SHORT.batch_size) not in done]
        write_file(Path(out) / "ablations.txt", describe_environment() + "\n")
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            try:
                for run in as_completed([pool.submit(run_variant, name, views, folders, size, threads) for name in todo]):
                    for row in run.result():
                        print("{variant:30} {views:8,} views  {data:12} {accuracy:.3f} +- {standard_error:.3f}  {minutes} min".format(**row), flush=True)
                        rows.append(row)
                    rows.sort(key=lambda row: list(VARIANTS).index(row["variant"]))
                    pd.DataFrame(rows).to_csv(file, index=False)
            finally: pool.shutdown(cancel_futures=True)  # or the others would go on for hours before an error is seen
