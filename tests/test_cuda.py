"On a GPU: every recipe trains, features and stops change nothing, and a bundle says the same as on a CPU. Skipped where there is no GPU."

import json

import numpy as np
import pandas as pd
import pytest
import torch

from transfer_nbs.bn_eval import bn_eval
from transfer_nbs.bundle import load_bundle
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.tables import write_tables
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.feature_extractor import snapshot, verify_frozen
from transfer_nbs.features import FeatureStore
from transfer_nbs.hardware import choose_device, choose_precision, describe_choices
from transfer_nbs.named_weights import image_spec
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import fit
from transfer_nbs.your_images import fit_bundle

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]
SETTINGS = TrainSettings(size=64, epochs=2, device="cuda")


@pytest.fixture(scope="module")
def figures():
    folder = practice_folder(Camouflage(n=240, size=96, seed=3))
    return folder, read_folder(folder, valid_fraction=1/3)


def test_a_gpu_is_chosen_and_described():
    assert choose_device().type == "cuda"
    assert choose_precision(torch.device("cuda")).reason in describe_choices(torch.device("cuda"))[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(recipe, precision, figures):
    "And is repeated with the same seed, up to rounding."
    folder, table = figures
    settings = TrainSettings(size=64, epochs=2, device="cuda", precision=precision)
    first, second = (train_recipe(RECIPES[recipe], settings, table, folder) for _ in range(2))
    assert next(first.model.parameters()).device.type == "cuda"
    assert np.isfinite(first.history[["train_loss", "valid_loss"]].to_numpy()).all()
    assert first.history.valid_loss.iloc[0] == pytest.approx(second.history.valid_loss.iloc[0], rel=0.1)
    assert (first.correct == second.correct).mean() > 0.8


def test_a_frozen_backbone_stays(figures):
    folder, table = figures
    model = build_model(bn_eval, SETTINGS, num_classes=2)
    before, loaders = snapshot(model.body), make_loaders(table, folder, image_spec(SETTINGS, table, folder), batch_size=16)
    fit(model, *loaders, bn_eval, features=FeatureStore())
    assert verify_frozen(model.body, before) == []


def test_stored_features_are_those_of_the_backbone(figures):
    folder, table = figures
    model = build_model(bn_eval, SETTINGS, num_classes=2)
    loaders = make_loaders(table, folder, image_spec(SETTINGS, table, folder), batch_size=16)
    for parameter in model.body.parameters(): parameter.requires_grad_(False)
    precision = choose_precision(torch.device("cuda"), precision="float32")
    stored = FeatureStore().open(model.body.eval(), precision=precision)
    for _ in range(2):  # computed, then read
        for (features, labels), (images, expected) in zip(stored(loaders[1], epoch=0), loaders[1], strict=True):
            with torch.no_grad(): direct = model.body(images.to("cuda"))
            assert ((features.cuda() - direct).norm() / direct.norm()).item() < 0.01 and torch.equal(labels, expected)


def test_a_stopped_run_goes_on(figures):
    folder, table = figures
    kept = []
    whole = train_recipe(RECIPES["deeper_head"], SETTINGS, table, folder)
    train_recipe(RECIPES["deeper_head"], SETTINGS, table, folder, after_epoch=lambda state: kept.append(state) or True)
    rest = train_recipe(RECIPES["deeper_head"], SETTINGS, table, folder, resume=kept[0])
    assert rest.history.epoch.tolist() == [1, 2]
    assert abs(rest.history.valid_loss.iloc[-1] - whole.history.valid_loss.iloc[-1]) < 0.2


def test_a_bundle_answers_as_on_a_cpu(figures, tmp_path):
    folder, table = figures
    fit_bundle(FitSettings("bn_eval", epochs=2, size=64, device="cuda"), table, folder, out=tmp_path / "bundle")
    bundle, files = load_bundle(tmp_path / "bundle"), [folder / file for file in table["file"][table["split"] == "valid"]]
    on_gpu, on_cpu = (bundle.predict(files, device=device) for device in ("cuda", "cpu"))
    assert (on_gpu.select_dtypes("number") - on_cpu.select_dtypes("number")).abs().to_numpy().max() < 0.01
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["settings"]["device"] == "cuda"


def test_a_comparison_is_taken_up(figures, tmp_path):
    folder, table = figures
    settings = CompareSettings(recipes=("bn_eval", "from_scratch"), seeds=2, size=64, epochs=1, device="cuda")
    out, said = tmp_path / "out", []
    compare(settings, table, folder, out=out)
    (out / "runs" / "from_scratch-1.json").unlink()
    compare(settings, table, folder, out=out, say=said.append)
    write_tables(out)
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 4 and (results.peak_memory_mb > 10).all() and said[0].startswith("3 of 4")
