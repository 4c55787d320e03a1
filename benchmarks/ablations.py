"""What each part of the pretraining is worth: the same short pretraining with one thing changed, and a linear probe on photographs.

    python benchmarks/ablations.py FOLDER... --out nbs/results/backbone

Finished variants are kept, so it goes on where it stopped. Contrast sees two pictures of each shape in a batch, twice as many in a batch, and the same number in all."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from fastcore.script import Param, call_parse

from transfer_nbs.backbone import BUNDLED_ARCH, BUNDLED_WEIGHTS, create_body
from transfer_nbs.compare import check_writable
from transfer_nbs.data import read_folder
from transfer_nbs.formulas import SHAPES, SURFACES
from transfer_nbs.pretrain import OBJECTIVES, PretrainSettings, compute_features, linear_probe, pretrain
from transfer_nbs.split import user_errors

ALL = PretrainSettings().objectives
VARIANTS = {"as shipped": {}, "as shipped, another seed": dict(seed=1)}
VARIANTS |= {f"without {name}": dict(objectives=",".join(other for other in ALL.split(",") if other != name)) for name in ALL.split(",")}
VARIANTS |= {f"{name} alone": dict(objectives=name, batch_size=128 if name == "contrast" else 64) for name in OBJECTIVES}
VARIANTS |= {"contrast as well": dict(objectives=f"{ALL},contrast", batch_size=128), "contrast for shapes": dict(objectives=ALL.replace("shapes", "contrast"), batch_size=128)}
VARIANTS |= {f"no {name}": dict(without=name) for name in [*SURFACES, *SHAPES]}
VARIANTS |= {f"{size} pixels": dict(size=size) for size in (48, 96)}


@call_parse
def ablations(
    folders: Param("folders of photographs, as for transfer_compare", str, nargs="+", opt=False),
    views: int = 100_000,  # of each variant
    surfaces: int = 48,  # classes of them, few because there is little time to learn them
    shapes: int = 96,  # classes of them, likewise
    size: int = 128,  # height and width of the photographs, pixels
    only: str = None,  # names of variants, comma separated; none: all
    out: str = "runs/backbone",  # folder for the results
):
    "Accuracy of a linear probe after a short pretraining, with one thing changed at a time."
    with user_errors("ablations"):
        check_writable(out)
        names = only.split(",") if only else list(VARIANTS)
        for name in names:
            if name not in VARIANTS: raise ValueError(f"no variant {name!r}: use {', '.join(VARIANTS)}")
        settings, file = PretrainSettings(views=views, surfaces=surfaces, shapes=shapes, drawings=100), Path(out) / "ablations.csv"
        tables = {Path(folder).name: (folder, read_folder(folder)) for folder in folders}
        rows = pd.read_csv(file).to_dict("records") if file.exists() else []
        for name in names:
            if name in {row["variant"] for row in rows}: continue
            with tempfile.TemporaryDirectory() as folder:
                card = pretrain(Path(folder) / "run", replace(settings, **VARIANTS[name]))
                body = create_body(BUNDLED_ARCH, weights=str(Path(folder) / "run" / BUNDLED_WEIGHTS))
            for data, (photographs, table) in tables.items():
                accuracies = linear_probe(*compute_features(body, photographs, table, size=size))
                rows.append(dict(variant=name, data=data, views=card["views"], minutes=card["minutes"], source_accuracy=card["log"][-1]["source_accuracy"],
                                 accuracy=round(accuracies.mean(), 4), standard_error=round(accuracies.std(ddof=1) / len(accuracies) ** 0.5, 4)))
                print(f"{name:26} {data:12} {rows[-1]['accuracy']:.3f} +- {rows[-1]['standard_error']:.3f}  {card['minutes']} min", flush=True)
            pd.DataFrame(rows).to_csv(file, index=False)
