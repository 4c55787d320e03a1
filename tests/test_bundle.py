"""A bundle is kept whole, refused where it was damaged, and predicts what validation would have said; and the command that does it."""

import gc
import io
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import threading
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_commands import BIN, REAL, assert_one_line_error

from transfer_nbs.backbone import get_model, read_weights
from transfer_nbs.bundle import (BUNDLE_FILES, HEADS, Bundle, _digest, current_versions, describe_recipe, export_onnx, fit_temperature, image_batches,
                                 list_images, load_bundle, make_bundle, model_card, most_likely, ready_copy, save_bundle, transfer_predict)
from transfer_nbs.clothes import make_clothes
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.run_folder import valid_classes
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.views import ImageSpec
from transfer_nbs.check import transfer_check
from transfer_nbs.files import content_hash, csv_text, csv_value
from transfer_nbs.folders import open_image
from transfer_nbs.split import split_folder
from transfer_nbs.hardware import choose_precision
from transfer_nbs.fusion import inference_copy

CPU = torch.device("cpu")


def run(*command, given=None, cwd=None, **environment):
    return subprocess.run([str(BIN / "transfer_predict"), *map(str, command)], input=given, cwd=cwd, env={**os.environ, **environment}, capture_output=True)


def text(done):
    "What a command said, with its bytes as text."
    return subprocess.CompletedProcess(done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


@pytest.fixture(scope="session")
def figures(tmp_path_factory):
    "Sixty drawn figures of 40 pixels, in two classes, and their table."
    folder = make_clothes(tmp_path_factory.mktemp("data") / "figures", n=60, size=40, workers=1)
    return folder, read_folder(folder, valid_fraction=0.4)


@pytest.fixture(scope="session")
def trained(figures):
    folder, table = figures
    settings = CompareSettings(size=32, epochs=1, device="cpu")
    result = train_recipe(RECIPES["deeper_head"], settings, table, folder)
    told = dict(arch=settings.arch, weights=settings.weights, epochs=1, seed=0)
    return result, make_bundle(result.model, result.spec, recipe=RECIPES["deeper_head"], settings=told, table=table, folder=folder)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    return save_bundle(trained[1], tmp_path_factory.mktemp("bundles") / "figures")


@pytest.fixture
def copy(saved, tmp_path):
    "A bundle to be damaged."
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def inbox(figures, tmp_path):
    "Five sound pictures, one of them deeper, and a letter."
    (tmp_path / "inbox" / "more").mkdir(parents=True)
    for file, name in zip(sorted(figures[0].glob("*/*.jpg")), ("a.jpg", "b.jpg", "c.JPG", "d.jpg", "more/e.jpg")): shutil.copy(file, tmp_path / "inbox" / name)
    (tmp_path / "inbox" / "letter.txt").write_text("no picture")
    return tmp_path / "inbox"


def untrained(recipe, class_names, **options):
    "A bundle that learned nothing, of any recipe."
    model = build_model(RECIPES[recipe], CompareSettings(size=32, device="cpu"), num_classes=len(class_names), seed=3)
    return Bundle(model, "resnet18", RECIPES[recipe].head.__name__, ImageSpec(class_names, size=32), describe_recipe(RECIPES[recipe]), {}, "", current_versions(), **{"results": {}, **options})


def edit(folder, mend=False, **changes):
    "Change some of what bundle.json says, and perhaps mend its checksums."
    facts = json.loads((folder / "bundle.json").read_text())
    for name, value in changes.items(): facts[name] = value(facts[name]) if callable(value) else value
    if mend:
        facts["weights"] = dict(sha256=content_hash(folder / "model.safetensors"), bytes=(folder / "model.safetensors").stat().st_size)
        facts["sha256"] = _digest(facts)
    (folder / "bundle.json").write_text(json.dumps(facts))


# Round trip


@pytest.mark.parametrize("recipe", ["bn_eval", "concat_pooling", "deeper_head"])
def test_round_trip_is_equal_to_the_bit(recipe, figures, tmp_path):
    files = sorted(figures[0].glob("*/*.jpg"))
    bundle = untrained(recipe, ("a", "b", "c"), temperature=1.7)
    loaded = load_bundle(save_bundle(bundle, tmp_path / "new" / "bundle"))
    before, after = bundle.model.state_dict(), loaded.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(bundle.logits(files, device="cpu")[0], loaded.logits(files, device="cpu")[0])
    pd.testing.assert_frame_equal(bundle.predict(files), loaded.predict(files), check_exact=True)
    assert (loaded.spec, loaded.head, loaded.temperature, loaded.recipe) == (bundle.spec, bundle.head, 1.7, bundle.recipe)


def test_every_head_of_a_recipe_has_a_name():
    assert {recipe.head for recipe in RECIPES.values()} == set(HEADS.values())


def test_preparation_is_that_of_validation(figures, trained):
    "Images and logits of a loaded bundle and of a validation pass in float32 are equal to the bit."
    (folder, table), (result, bundle) = figures, trained
    _, loader = make_loaders(table, folder, result.spec, keep=False)
    files = [folder / file for file in table["file"][table["split"] == "valid"]]
    for (images, _), (kept, mine, errors) in zip(loader, image_batches(files, result.spec), strict=True):
        assert torch.equal(images, mine) and kept == list(range(len(mine))) and not errors
    precision = choose_precision(CPU, precision="float32")
    twin = inference_copy(result.model, precision=precision)
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    with torch.no_grad(): expected = torch.cat([twin(images.to(memory_format=layout)) for images, _ in loader])
    assert torch.equal(bundle.logits(files, device="cpu")[0], expected)


def test_order_of_the_classes_is_kept(inbox, tmp_path):
    path = save_bundle(untrained("bn_eval", ("trousers", "coats", "a", "hats")), tmp_path / "bundle")
    assert list(load_bundle(path).predict(inbox / "a.jpg")) == ["trousers", "coats", "a", "hats"]
    swapped = untrained("bn_eval", ("coats", "trousers", "a", "hats")).predict(inbox / "a.jpg")
    assert swapped["coats"].item() == load_bundle(path).predict(inbox / "a.jpg")["trousers"].item()


def test_class_names_may_be_anything(inbox, tmp_path):
    names = ("T-shirt | \"new\"", "šaty: dlouhé", "unsure", "---", os.fsdecode(b"sh\xffoes"))
    path = save_bundle(untrained("bn_eval", names), tmp_path / "bundle")
    assert load_bundle(path).spec.class_names == names
    assert run(path, inbox / "a.jpg", "--top", 5).returncode == 0


def test_pictures_in_memory_and_in_files_are_the_same(saved, inbox, tmp_path):
    bundle, picture = load_bundle(saved), open_image(inbox / "a.jpg").resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    picture.save(tmp_path / "upright.png")
    ways = [tmp_path / "turned.png", Image.open(tmp_path / "turned.png"), str(tmp_path / "upright.png"), picture]
    _, images, errors = next(image_batches(ways, bundle.spec))
    assert not errors and all(torch.equal(image, images[0]) for image in images)
    table = bundle.predict(ways)
    np.testing.assert_allclose(table, table.iloc[[0] * 4], atol=1e-6)
    assert list(table.index) == [str(tmp_path / "turned.png"), str(tmp_path / "turned.png"), str(tmp_path / "upright.png"), "image 3"]


def test_results_say_what_prediction_does(figures, trained, saved):
    (folder, table), (_, bundle) = figures, trained
    valid = table[table["split"] == "valid"]
    predicted = load_bundle(saved).predict([folder / file for file in valid["file"]]).idxmax(axis=1)
    result = json.loads((saved / "bundle.json").read_text())["results"]["valid"]
    assert result["correct"] == (predicted.to_numpy() == valid["class"].to_numpy()).sum() and result["images"] == len(valid)
    assert result["low"] <= result["accuracy"] <= result["high"]
    assert result == bundle.results["valid"]


def test_card_can_be_read_by_a_hub(saved, trained):
    yaml = pytest.importorskip("yaml")
    card = (saved / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification" and front["library_name"] == "transfer_nbs"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(trained[1].results["valid"]["accuracy"], abs=1e-4)
    for word in ("camouflage_clothes", "deeper_head", "resnet18", "transfer_predict", "load_bundle"): assert word in card, word


def test_a_bundle_does_not_tell_where_its_weights_lay(figures, trained, tmp_path):
    (folder, table), (result, _) = figures, trained
    weights = tmp_path / "secret project" / "w.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"any")
    bundle = make_bundle(result.model, result.spec, recipe=RECIPES["deeper_head"], settings=dict(arch="resnet18", weights=str(weights)), table=table, folder=folder)
    path = save_bundle(bundle, tmp_path / "bundle")
    assert bundle.settings["weights"] == "w.pth" and bundle.settings["weights_sha256"] == content_hash(weights)
    assert not any(str(place).encode() in file.read_bytes() for place in ("secret project", folder) for file in path.iterdir())


# Whole or not at all


def contents(folder): return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_not_overwritten_unless_told(copy, trained, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds a bundle already"): save_bundle(trained[1], copy)
    assert contents(tmp_path) == before
    (copy / "model.onnx").write_text("of the old weights")
    save_bundle(replace(trained[1], temperature=9.0), copy, overwrite=True)
    assert load_bundle(copy).temperature == 9.0 and not (copy / "model.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(overwrite, copy, trained, tmp_path):
    (copy / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="thesis.tex"): save_bundle(trained[1], copy, overwrite=overwrite)
    with pytest.raises(ValueError, match="file"): save_bundle(trained[1], tmp_path / "file", overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", ["save_file", "model_card", "load_bundle"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_everything_as_it_was(step, overwrite, copy, trained, tmp_path, monkeypatch):
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr(f"transfer_nbs.bundle.{step}", full)
    before = contents(tmp_path)
    with pytest.raises(OSError): save_bundle(trained[1], copy if overwrite else tmp_path / "new", overwrite=overwrite)
    assert contents(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_failed_exchange_is_undone(copy, trained, tmp_path, monkeypatch):
    "The old bundle was moved aside already when the new one can't be moved in."
    rename, before = os.rename, contents(copy)
    def fails_at_the_new_one(source, target):
        if Path(source).suffix == ".part" and Path(target) == copy: raise OSError(5, "Input/output error")
        rename(source, target)
    monkeypatch.setattr(os, "rename", fails_at_the_new_one)
    with pytest.raises(OSError): save_bundle(trained[1], copy, overwrite=True)
    assert contents(copy) == before and [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_bundle_may_be_saved_into_an_empty_folder(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assert set(file.name for file in save_bundle(trained[1], tmp_path / "empty").iterdir()) <= set(BUNDLE_FILES)


@pytest.mark.skipif(os.name != "posix", reason="no such rights here")
def test_whoever_may_read_new_files_may_read_a_bundle(trained, tmp_path):
    before = os.umask(0o027)
    try: path = save_bundle(trained[1], tmp_path / "bundle")
    finally: os.umask(before)
    modes = {place.name: oct(place.stat().st_mode & 0o777) for place in (path, *path.iterdir())}
    assert modes == {"bundle": "0o750", "model.safetensors": "0o640", "bundle.json": "0o640", "README.md": "0o640"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_bundle_is_on_the_disk_before_it_has_its_name(overwrite, copy, trained, tmp_path, monkeypatch):
    path, events, fsync, rename = copy if overwrite else tmp_path / "new", [], os.fsync, os.rename
    def note_sync(number):
        events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)
    def note_rename(source, target):
        events.append((Path(source).name, Path(target).name))
        rename(source, target)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    save_bundle(trained[1], path, overwrite=overwrite)
    named = next(event for event in events if event[1] == path.name)
    earlier, later = events[:events.index(named)], events[events.index(named) + 1:]
    assert {"model.safetensors", "bundle.json", "README.md", named[0]} <= set(earlier) and tmp_path.name in later


def test_no_folder_of_somebody_else_is_replaced(copy, trained, tmp_path):
    "A file or a folder that has the name of a bundle's file is not a bundle's for that."
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("years of work")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "bundle.json").write_text('{"scripts": []}')
    (copy / "review.html").mkdir()
    (copy / "review.html" / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    for place in ("mine", "theirs", "copy"):
        with pytest.raises(ValueError, match="no part of a bundle"): save_bundle(trained[1], tmp_path / place, overwrite=True)
    assert contents(tmp_path) == before


def test_links_are_followed_and_devices_refused(trained, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("real")
    save_bundle(trained[1], tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and load_bundle(tmp_path / "real")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place, words in (("/dev/null", "no folder"), (tmp_path / "circle", "no folder"), ("/proc", "in use as a whole"), (".", "in use as a whole")):
        with pytest.raises(ValueError, match=words): save_bundle(trained[1], place, overwrite=True)


def test_weights_that_are_no_numbers_are_refused(figures, trained, tmp_path):
    (folder, table), (result, bundle) = figures, trained
    broken = deepcopy(result.model)
    with torch.no_grad(): broken.head.linear2.weight[0, 0] = np.nan
    with pytest.raises(ValueError, match="head.linear2.weight holds NaN"): save_bundle(replace(bundle, model=broken), tmp_path / "bundle")
    with pytest.raises(ValueError, match="head.linear2.weight holds NaN"):
        make_bundle(broken, result.spec, recipe=RECIPES["deeper_head"], settings=dict(arch="resnet18"), table=table, folder=folder)
    with torch.no_grad(): broken.head.linear2.weight[:] = 3e38
    with pytest.raises(ValueError, match="answers to .* are no finite numbers"):
        make_bundle(broken, result.spec, recipe=RECIPES["deeper_head"], settings=dict(arch="resnet18"), table=table, folder=folder)
    for wrong in (dict(temperature=np.nan), dict(results={"valid": {"accuracy": np.nan}})):
        with pytest.raises(ValueError): save_bundle(replace(bundle, **wrong), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


# Damage


def cut(folder, name): (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-7] ^= 4
    (folder / "model.safetensors").write_bytes(content)


def other_tensors(folder, change):
    tensors = read_weights(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    edit(folder, mend=True)


def classes(*names): return dict(spec=lambda spec: {**spec, "class_names": list(names)})


DAMAGES = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no bundle.json": (lambda folder: (folder / "bundle.json").unlink(), "no bundle.json"),
    "bundle.json cut off": (lambda folder: cut(folder, "bundle.json"), "broken"),
    "bundle.json empty": (lambda folder: (folder / "bundle.json").write_text(""), "broken"),
    "bundle.json binary": (lambda folder: (folder / "bundle.json").write_bytes(bytes(range(256))), "broken"),
    "bundle.json deep": (lambda folder: (folder / "bundle.json").write_text("[" * 100_000), "broken"),
    "bundle.json a list": (lambda folder: (folder / "bundle.json").write_text("[1]"), "format"),
    "foreign": (lambda folder: (folder / "bundle.json").write_text('{"architectures": ["ResNetForImageClassification"]}'), "format"),
    "later version": (lambda folder: edit(folder, mend=True, format_version=2), "version 2"),
    "key lost": (lambda folder: edit(folder, mend=True, format_version=lambda _: 1) or (folder / "bundle.json").write_text((folder / "bundle.json").read_text().replace('"split"', '"splat"')), "lacks split and has splat"),
    "key of another kind": (lambda folder: edit(folder, mend=True, architecture=["resnet18"]), "architecture is of the wrong kind"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "weights cut off": (lambda folder: cut(folder, "model.safetensors"), "bytes instead of"),
    "bit flipped": (flip, "SHA-256"),
    "another bundle's weights": (lambda folder: save_file({"a": torch.ones(3)}, folder / "model.safetensors"), "bytes instead of"),
    "classes exchanged": (lambda folder: edit(folder, **classes("normal_clothes", "camouflage_clothes")), "checksum"),
    "normalisation changed": (lambda folder: edit(folder, spec=lambda spec: {**spec, "mean": [0.5, 0.5, 0.5]}), "checksum"),
    "temperature changed": (lambda folder: edit(folder, temperature=1.25), "checksum"),
    "class added": (lambda folder: edit(folder, **classes("a", "b", "c")), "checksum"),
    "size changed": (lambda folder: edit(folder, spec=lambda spec: {**spec, "size": 6400}), "checksum"),
    "size large, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "size": 6400}), "size is 6400"),
    "mean absurd, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "mean": [10**400, 0, 0]}), "number that is too large"),
    "deviation tiny, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "std": [1e-30, 1, 1]}), "deviation"),
    "temperature absurd, mended": (lambda folder: edit(folder, mend=True, temperature=10**400), "temperature is 1000"),
    "bundle.json huge": (lambda folder: (folder / "bundle.json").write_text(" " * 2**24 + "{}"), "too large"),
    "NaN, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors["head.linear2.bias"].fill_(np.nan)), "head.linear2.bias holds NaN"),
    "infinity, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors["body.bn1.running_mean"][:1].fill_(-np.inf)), "running_mean holds NaN or infinity"),
    "integers, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors.update({"body.conv1.weight": tensors["body.conv1.weight"].int()})), "body.conv1.weight holds int32"),
    "complex, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors.update({"head.linear2.bias": tensors["head.linear2.bias"].to(torch.complex64)})), "head.linear2.bias holds complex64"),
    "answers too large, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors["head.linear2.weight"].fill_(3e38)), "what is no finite number"),
    "class added, mended": (lambda folder: edit(folder, mend=True, **classes("a", "b", "c")), "3 classes, but its head tells 2 apart"),
    "class twice, mended": (lambda folder: edit(folder, mend=True, **classes("a", "a")), "different names"),
    "classes no list, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "class_names": 5}), "copy"),
    "size absurd, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "size": 10**12}), "copy"),
    "size 0, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {**spec, "size": 0}), "size is 0"),
    "deviation lost, mended": (lambda folder: edit(folder, mend=True, spec=lambda spec: {name: spec[name] for name in ("class_names", "size", "mean")}), "std"),
    "unknown body, mended": (lambda folder: edit(folder, mend=True, architecture="resnet81"), "unknown architecture 'resnet81'"),
    "another body, mended": (lambda folder: edit(folder, mend=True, architecture="resnet34"), "missing"),
    "unknown head, mended": (lambda folder: edit(folder, mend=True, head="os.system"), "unknown head 'os.system'"),
    "another head, mended": (lambda folder: edit(folder, mend=True, head="concat_pooling_head"), "unexpected"),
    "temperature infinite": (lambda folder: edit(folder, temperature=float("inf")), "temperature is inf"),
    "tensor lost, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors.pop("head.linear2.weight")), "missing: head.linear2.weight"),
    "tensor added, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors.update(extra=torch.ones(2))), "unexpected: extra"),
    "tensor misshapen, mended": (lambda folder: other_tensors(folder, lambda tensors: tensors.update({"body.conv1.weight": torch.ones(64, 3, 3, 3)})), "another shape: body.conv1.weight"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_one_line(name, copy):
    damage, word = DAMAGES[name]
    damage(copy)
    with pytest.raises(ValueError) as refused: load_bundle(copy)
    assert word in str(refused.value) and str(copy) in str(refused.value) and "\n" not in str(refused.value)


def test_nothing_is_built_of_what_was_changed(copy, monkeypatch):
    "A size or an architecture would take the machine's memory."
    monkeypatch.setattr("transfer_nbs.bundle.get_model", None)
    edit(copy, architecture="vit_h_14")
    with pytest.raises(ValueError, match="checksum doesn't fit"): load_bundle(copy)


@pytest.mark.parametrize("architecture", ["wide_resnet101_2", "regnet_y_128gf"])
def test_a_large_network_takes_no_memory_before_it_is_known_to_fit(architecture, copy, monkeypatch):
    "Gigabytes of weights that the file doesn't hold, under a checksum that fits."
    edit(copy, mend=True, architecture=architecture)
    monkeypatch.setattr(torch.nn.Module, "to_empty", None)
    built, build = [], get_model
    def note(*arguments, **options):
        model = build(*arguments, **options)
        built.append(next(model.parameters()).is_meta)
        return model
    monkeypatch.setattr("transfer_nbs.bundle.get_model", note)
    with pytest.raises(ValueError, match="missing|too small"): load_bundle(copy)
    assert all(built)


def test_a_bundle_of_an_earlier_version_loads(copy, saved, inbox):
    facts = json.loads((copy / "bundle.json").read_text())
    assert len(facts.pop("images")) == 64
    (copy / "bundle.json").write_text(json.dumps({**facts, "sha256": _digest(facts)}))
    assert load_bundle(copy).images == ""
    pd.testing.assert_frame_equal(load_bundle(copy).predict(inbox / "a.jpg"), load_bundle(saved).predict(inbox / "a.jpg"))


def test_an_interrupted_training_is_no_bundle_yet(tmp_path):
    (tmp_path / "model.checkpoint").touch()
    for name in ("model", "model.checkpoint"):
        with pytest.raises(ValueError, match="interrupted.*give the same transfer_fit again"): load_bundle(tmp_path / name)


def test_damage_is_refused_by_the_command(copy, inbox):
    flip(copy)
    assert_one_line_error(text(run(copy, inbox)), copy, "SHA-256")


def test_nothing_in_a_bundle_is_run(copy, tmp_path):
    "A pickle in place of the weights, which would leave a file behind if it were loaded, with checksums that fit."
    class Trap:
        def __reduce__(self): return Path.touch, (tmp_path / "it ran",)
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save(Trap(), copy / "model.safetensors")
        edit(copy, mend=True)
        with pytest.raises(ValueError, match="no checkpoint that can be read safely"): load_bundle(copy)
    assert not (tmp_path / "it ran").exists()
    pickle.loads((copy / "model.safetensors").read_bytes())
    assert (tmp_path / "it ran").exists(), "the trap works, so this test could fail"


# From memory, and one at a time


def arrays(picture):
    "An image as arrays of all kinds, and as the PIL image that each of them is."
    grey, opaque = picture.convert("L"), picture.convert("RGBA")
    opaque.putalpha(grey)
    bits = grey.point(lambda value: 255 * (value > 128), "1")
    reversed_rows = np.asarray(picture)[::-1][::-1]
    return [(np.asarray(mode), mode) for mode in (picture, grey, opaque, bits)] + [(reversed_rows, picture), (np.asfortranarray(picture), picture)]


def test_images_from_memory_are_those_of_their_files(saved, inbox):
    bundle, path = load_bundle(saved), inbox / "a.jpg"
    content = path.read_bytes()
    used = io.BytesIO(content)
    used.read()  # whoever wrote an image into it left it at its end
    expected = bundle.predict(path).to_numpy()
    with open(path, "rb") as file:
        ways = [content, bytearray(content), memoryview(content), io.BytesIO(content), used, file, path, str(path)]
        for way in ways: np.testing.assert_array_equal(bundle.predict(way), expected, type(way).__name__)
        together = bundle.predict(iter(ways))
    np.testing.assert_allclose(together, expected.repeat(len(ways), 0), atol=1e-6)
    assert list(together.index) == [*(f"image {number}" for number in range(6)), str(path), str(path)]
    for array, picture in arrays(open_image(path)): np.testing.assert_array_equal(bundle.predict(array), bundle.predict(picture))
    np.testing.assert_allclose(bundle.predict(np.array([str(path)] * 2)), expected.repeat(2, 0), atol=1e-6)


def test_one_open_file_for_many_threads(saved, inbox):
    file = io.BytesIO((inbox / "a.jpg").read_bytes())
    assert not load_bundle(saved).predict([file] * 40).attrs["errors"]


def test_broken_images_in_memory_are_rows(saved, inbox):
    content, bundle = (inbox / "a.jpg").read_bytes(), load_bundle(saved)
    class Failing:
        def read(self): raise RuntimeError("the camera was unplugged")
    closed = io.BytesIO(content)
    closed.close()
    table = bundle.predict([content, b"", content[:500], b"<html>", Failing(), closed])
    errors = table.attrs["errors"]
    assert sorted(errors) == [1, 2, 3, 4, 5] and table.iloc[0].notna().all() and table.iloc[1:].isna().all(axis=None)
    assert "the camera was unplugged" in errors[4] and all("BytesIO" not in line and len(line) < 200 for line in errors.values())


STRANGE = {
    "float32": (np.zeros((4, 4, 3), np.float32), "an array of float32 is no image: give uint8"), "int64": (np.zeros((4, 4), int), "an array of int64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "channels come last, as array.transpose(1, 2, 0)"), "many": (np.zeros((2, 8, 8, 3), np.uint8), "give a list"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "shape (8, 8, 2)"), "nothing": (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
    "a tensor": (torch.zeros(3, 8, 8), "Tensor is no image"), "a number": (5, "int is no image"), "None": (None, "NoneType is no image"),
    "a dictionary": ({"image": b""}, "dict is no image"), "text": (io.StringIO("x"), "open it with mode 'rb'"), "a class": (Image.Image, "type is no image"),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_image_is_named(name, several, saved):
    given, words = STRANGE[name]
    with pytest.raises((TypeError, ValueError)) as refused: load_bundle(saved).predict([b"an image", given] if several else given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_network_is_made_ready_once(trained, inbox, monkeypatch):
    made = []
    def count(*given, **options):
        made.append(1)
        return inference_copy(*given, **options)
    monkeypatch.setattr("transfer_nbs.bundle.inference_copy", count)
    bundle = untrained("bn_eval", ("a", "b"))
    for _ in range(3): bundle.predict(inbox / "a.jpg", device="cpu")
    replace(bundle, temperature=2.0).predict(inbox / "a.jpg", device="cpu")
    assert len(made) == 1
    for again in (pickle.loads(pickle.dumps(bundle)), deepcopy(bundle)):  # which bring no copy along, and make their own
        again.predict(inbox / "a.jpg", device="cpu")
        again.predict(inbox / "a.jpg", device="cpu")
    assert len(made) == 3


def write_through_data(model): model.head.linear.bias.data[0] += 1
def write_numpy(model): model.head.linear.weight.detach().numpy()[:] += 0.1
def write_under_no_grad(model):
    with torch.no_grad(): model.body.conv1.weight.mul_(1.5)
def load_other(model): model.load_state_dict(untrained("bn_eval", ("c", "d", "e")).model.state_dict() | {"body.bn1.bias": torch.ones(64)})
def other_head(model): model.head = build_model(RECIPES["bn_eval"], CompareSettings(size=32, device="cpu"), num_classes=3, seed=9).head
def move_statistics(model): model.body.bn1.running_mean += 1
def train(model):
    model.train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


@pytest.mark.parametrize("change", [write_through_data, write_numpy, write_under_no_grad, load_other, other_head, move_statistics, train])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_changed_weights_change_the_answer(change, layout, inbox):
    bundle = untrained("bn_eval", ("a", "b", "c"))
    bundle.model.to(memory_format=layout)
    before = bundle.logits([inbox / "a.jpg"], device="cpu")[0]
    change(bundle.model)
    after = bundle.logits([inbox / "a.jpg"], device="cpu")[0]
    assert not torch.equal(before, after)
    assert torch.equal(after, replace(bundle, model=deepcopy(bundle.model)).logits([inbox / "a.jpg"], device="cpu")[0])


def test_threads_may_predict_at_once(inbox):
    bundle, answers = untrained("bn_eval", ("a", "b")), []
    threads = [threading.Thread(target=lambda: answers.append(bundle.predict(inbox / "a.jpg", device="cpu").to_numpy())) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(answers) == 8 and all(np.array_equal(answer, answers[0]) for answer in answers)


def test_the_copy_goes_with_its_model_and_after_a_training(figures, trained, monkeypatch):
    import transfer_nbs.bundle as module
    (folder, table), (result, _) = figures, trained
    make_bundle(result.model, result.spec, recipe=RECIPES["deeper_head"], settings=dict(arch="resnet18"), table=table, folder=folder)
    assert result.model not in module._ready
    bundle = untrained("bn_eval", ("a", "b"))
    copy = weakref.ref(ready_copy(bundle.model, CPU))
    del bundle
    gc.collect()
    assert copy() is None


# The command


def rows_of(path): return pd.read_csv(path, keep_default_na=False)


NAMES = ["inbox/a.jpg", "inbox/b.jpg", "inbox/c.JPG", "inbox/d.jpg", "inbox/more/e.jpg"]
WAYS = {"files": (NAMES, ""), "folder": (["inbox"], ""), "pattern": (["inbox/**/*.[jJ]*"], ""), "list": (["-"], "\n".join(NAMES)), "null bytes": (["-"], "\0".join(NAMES)),
        "line ends of Windows": (["-"], "\r\n".join([*NAMES, ""])), "mixed": (["inbox/a.jpg", "-", "inbox/more"], "\n".join(NAMES[1:4])), "folder in a list": (["-"], "inbox\n")}


@pytest.mark.filterwarnings("ignore:inbox. skipped what is no image. letter.txt")
@pytest.mark.parametrize("way", WAYS)
def test_files_folders_patterns_and_lists_are_the_same(way, inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(WAYS[way][1].encode())))
    assert list_images(WAYS[way][0]) == NAMES


def test_the_command_takes_places_of_all_kinds(saved, inbox, tmp_path):
    done = text(run(saved, "inbox/[ab].jpg", "-", "inbox/more", "--csv", "out.csv", given=b"inbox/c.JPG\ninbox/gone.jpg\n", cwd=tmp_path))
    assert done.returncode == 1, done.stderr
    table = rows_of(tmp_path / "out.csv")
    assert list(table["file"]) == ["inbox/a.jpg", "inbox/b.jpg", "inbox/c.JPG", "inbox/gone.jpg", "inbox/more/e.jpg"]
    assert [bool(error) for error in table["error"]] == [False, False, False, True, False]
    whole = text(run(saved, "inbox", cwd=tmp_path))
    assert whole.returncode == 0 and "letter.txt" in whole.stderr and len(whole.stderr.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:inbox.. skipped what is no image. letter.txt")
def test_a_pattern_names_each_file_once(inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    assert len(list_images(["inbox/**"])) == len(set(list_images(["inbox/**"])))


def test_broken_pictures_are_rows(saved, inbox, tmp_path):
    sound = (inbox / "a.jpg").read_bytes()
    (inbox / "cut.jpg").write_bytes(sound[:len(sound) // 2])
    (inbox / "empty.png").write_bytes(b"")
    (inbox / "page.jpg").write_text("<html>not found</html>")
    Image.new("1", (1, 100_000)).save(inbox / "strip.png")
    os.symlink("nowhere.jpg", inbox / "link.jpg")
    os.mkfifo(inbox / "pipe.jpg")
    done = text(run(saved, "inbox", "--csv", "out.csv", "--json", "out.json", "--batch_size", 2, cwd=tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    table = rows_of(tmp_path / "out.csv").set_index("file")
    broken = {"cut.jpg": "decoded", "empty.png": "no known image format", "page.jpg": "no known image format", "link.jpg": "No such file"}
    for name, reason in broken.items(): assert reason in table.loc[f"inbox/{name}", "error"] and table.loc[f"inbox/{name}", "answer"] == "", name
    assert set(table.index[table["error"] == ""]) == {f"inbox/{name}" for name in ("a.jpg", "b.jpg", "c.JPG", "d.jpg", "more/e.jpg", "strip.png")}
    assert "10 images, 4 could not be read" in done.stdout and "pipe.jpg" in done.stderr
    assert "no file" in load_bundle(saved).predict(inbox / "pipe.jpg").attrs["errors"][0]
    alone = load_bundle(saved).predict(inbox / "a.jpg")
    assert float(table.loc["inbox/a.jpg", "probability_1"]) == pytest.approx(alone.max(axis=1).item(), abs=1e-5)
    assert {row["file"]: row["probabilities"] for row in json.loads((tmp_path / "out.json").read_text()) if row["error"]} == {f"inbox/{name}": {} for name in broken}
    assert text(run(saved, *(inbox / name for name in broken))).returncode == 1, "nothing but broken pictures"


def test_a_machine_that_never_ran_it(saved, inbox, tmp_path):
    "Nothing is in the user's cache yet, and how to compute has still to be measured; or there can be no cache at all."
    expected = run(saved, inbox / "a.jpg").stdout
    for cache in (tmp_path / "cache", inbox / "letter.txt" / "cache"):
        done = run(saved, inbox / "a.jpg", XDG_CACHE_HOME=str(cache), TMPDIR=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.filterwarnings("ignore:.*skipped what is no image. letter.txt")
def test_tables_say_what_predict_says(saved, inbox, tmp_path):
    assert run(saved, inbox, "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json").returncode == 0
    expected = load_bundle(saved).predict(list_images([str(inbox)]))
    table, rows = rows_of(tmp_path / "out.csv"), json.loads((tmp_path / "out.json").read_text())
    assert list(table) == ["file", "answer", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert list(table["file"]) == [row["file"] for row in rows] == list(expected.index)
    assert list(table["answer"]) == [row["answer"] for row in rows] == list(expected.idxmax(axis=1))
    assert [list(row["probabilities"]) for row in rows] == table[["class_1", "class_2"]].to_numpy().tolist()
    np.testing.assert_allclose(table["probability_1"], expected.max(axis=1), atol=1e-6)
    np.testing.assert_allclose([sum(row["probabilities"].values()) for row in rows], 1, atol=1e-6)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore:.*skipped what is no image. letter.txt")
def test_top_and_unsure(inbox, tmp_path):
    path = save_bundle(untrained("bn_eval", ("a", "b", "c", "d")), tmp_path / "bundle")
    table = load_bundle(path).predict(list_images([str(inbox)]))
    threshold = float(table.max(axis=1).median())
    done = text(run(path, inbox, "--top", 2, "--unsure", threshold, "--csv", tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows)[2:6] == ["class_1", "probability_1", "class_2", "probability_2"]
    assert 0 < (rows["answer"] == "unsure").sum() < len(rows)
    assert ((rows["answer"] == "unsure") == (table.max(axis=1).to_numpy() < threshold)).all()
    assert (rows["answer"] == rows["class_1"]).sum() == (rows["answer"] != "unsure").sum()
    assert "unsure" in done.stdout
    assert (most_likely(table)["answer"] != "unsure").all()


def test_bad_input_is_one_line(saved, inbox, tmp_path):
    for command, words in {(tmp_path / "gone", inbox): (tmp_path / "gone", "no such folder"), (saved, inbox / "a.jpg", tmp_path / "*.png"): ("*.png", "no image there"),
                           (saved, "-"): ("standard input",)}.items():
        assert_one_line_error(text(run(*command, "--csv", tmp_path / "out.csv", given=b"")), *words)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("options, words", [
    (dict(images=["gone.jpg"]), ("gone.jpg", "no image there")), (dict(bundle="inbox"), ("inbox", "no bundle.json")), (dict(top=0), ("top is 0",)),
    (dict(unsure=80), ("unsure is 80", "0.8")), (dict(batch_size=0), ("batch_size is 0",)), (dict(device="abacus"), ("abacus",)),
    (dict(csv="no/out.csv"), ("no/out.csv", "make it first")), (dict(json="inbox"), ("inbox", "choose another file"))])
def test_bad_options_are_one_line(options, words, saved, inbox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (inbox / "letter.txt").unlink()
    with pytest.raises(SystemExit) as stopped: transfer_predict(**(dict(bundle=str(saved), images=["inbox"], csv="out.csv") | options))
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and all(word in said[0] for word in words), said
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.skipif(os.name != "posix", reason="file names are text here")
def test_names_of_files_may_be_any_bytes(saved, inbox, tmp_path):
    names = [b"caf\xe9.jpg", b"two\nlines.jpg", b"\x1b[31mred.jpg"]
    for name in names: shutil.copy(inbox / "a.jpg", os.fsencode(inbox) + b"/" + name)
    done = run(saved, *(os.fsdecode(os.fsencode(inbox) + b"/" + name) for name in names), "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout and len(done.stdout.strip().splitlines()) == 1 + len(names) + 2
    assert b"caf\\udce9.jpg" in (tmp_path / "out.csv").read_bytes()
    assert [os.fsencode(row["file"]).rsplit(b"/", 1)[1] for row in json.loads((tmp_path / "out.json").read_text())] == names


# What is lost, and what is overwritten


def predict_in_process(*arguments, capsys, **options):
    "Exit status and standard error of the command, called as a function."
    status = 0
    try: transfer_predict(*arguments, **options)
    except SystemExit as stop: status = stop.code
    return status, capsys.readouterr().err


OTHERS = {"photo.jpg": b"\xff\xd8\xff", "split.csv": b"file,class,split\n", "notes.json": b'{"a": 1}', "report.csv": b"level,kind,class,file\n"}


@pytest.mark.parametrize("option", ["csv", "json"])
@pytest.mark.parametrize("name", OTHERS)
def test_only_its_own_tables_are_written_over(name, option, saved, inbox, tmp_path, capsys):
    place = tmp_path / name
    place.write_bytes(OTHERS[name])
    status, said = predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(place)}, capsys=capsys)
    assert status == 2 and "isn't a table of predictions; choose another name" in said and len(said.splitlines()) == 1
    assert place.read_bytes() == OTHERS[name]
    (tmp_path / "empty").touch()
    for _ in range(2): assert predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(tmp_path / "empty")}, capsys=capsys) == (0, "")
    (tmp_path / "link").symlink_to("target")
    for _ in range(2): assert predict_in_process(str(saved), [str(inbox / "a.jpg")], **{option: str(tmp_path / "link")}, capsys=capsys) == (0, "")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == (tmp_path / "empty").read_bytes() != b""


def test_two_tables_need_two_files(saved, inbox, tmp_path, capsys):
    (tmp_path / "here").symlink_to(tmp_path)
    status, said = predict_in_process(str(saved), [str(inbox)], csv=str(tmp_path / "out"), json=str(tmp_path / "here" / "out"), capsys=capsys)
    assert status == 2 and "named twice" in said and not (tmp_path / "out").exists()


def test_what_cannot_be_written_does_not_take_the_rest_along(saved, inbox, tmp_path):
    done = text(run(saved, inbox / "a.jpg", "--csv", "/dev/full", "--json", tmp_path / "out.json"))
    assert_one_line_error(done, "/dev/full", "No space left")
    assert json.loads((tmp_path / "out.json").read_text()) and "a.jpg" in done.stdout


def shell(line, folder, **environment):
    "What a user types, with bash's exit status of each part of a pipe."
    done = subprocess.run(["bash", "-c", f"{line}; echo ${{PIPESTATUS[@]}} > status"], cwd=folder, env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}, capture_output=True)
    return [int(status) for status in (folder / "status").read_text().split()], text(done)


WORK = """
import sys, warnings
from transfer_nbs.console import user_errors
with user_errors("command"):
    warnings.warn("class \x1b[2J was skipped")
    print("\u8702 \x1b[2J" * 50000, flush=True)
    print("nobody reads this")
    open("made", "w").close()
"""
STREAMS = {  # exit status, and what stands on standard error beside the warning
    "| true": (141, ""), "| head -c 1": (141, ""), "2>&1 | true": (141, None), "> /dev/full": (2, "command: standard output: No space left on device"), "> /dev/full 2>&1": (2, None),
    "2> /dev/full": (0, None), ">&-": (0, ""), ">&- 2>&- <&-": (0, None), "2>&-": (0, None)}


@pytest.mark.parametrize("encoding", [{}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf-8", "latin-1", "C"])
@pytest.mark.parametrize("stream", STREAMS)
def test_work_is_done_whatever_happens_to_the_text(stream, encoding, tmp_path):
    status, words = STREAMS[stream]
    (tmp_path / "work.py").write_text(WORK)
    statuses, done = shell(f"python work.py {stream}", tmp_path, **encoding)
    assert statuses[0] == status and (tmp_path / "made").exists(), done
    said = done.stderr.splitlines()
    assert said == ([] if words is None else [r"command: warning: class \x1b[2J was skipped", *[words] * bool(words)])
    assert "\x1b" not in done.stdout


COMMANDS = {
    "predict": ("transfer_predict BUNDLE FOLDER --csv made.csv --json made.json | true", 141, "made.json"),
    "predict, full": ("transfer_predict BUNDLE FOLDER --csv made.csv > /dev/full", 2, "made.csv"),
    "check": ("transfer_check FOLDER --csv made.csv | true", 141, "made.csv"), "split": ("transfer_split FOLDER made | true", 141, "made/split.csv"),
    "fit": ("transfer_fit FOLDER --recipe bn_eval --epochs 1 --size 32 --device cpu --out made | true", 141, "made/bundle.json")}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_write_what_they_promise_when_nobody_reads(name, saved, figures, tmp_path):
    line, status, made = COMMANDS[name]
    line = line.replace("BUNDLE", shlex.quote(str(saved))).replace("FOLDER", shlex.quote(str(figures[0])))
    statuses, done = shell(line, tmp_path, PYTHONUNBUFFERED="1")  # the first line is noticed to be lost as soon as it is printed
    assert statuses[0] == status and len(done.stderr.splitlines()) == (status == 2) and (tmp_path / made).stat().st_size, done


def test_tables_go_where_standard_output_goes(saved, inbox, tmp_path):
    bundle = shlex.quote(str(saved))
    statuses, _ = shell(f"transfer_predict {bundle} inbox/a.jpg --csv /dev/stdout > both.txt", tmp_path)
    both = (tmp_path / "both.txt").read_text()
    assert statuses == [0] and both.startswith("file,answer,class_1") and both.endswith("\n1 image\n")
    writing = "import sys; from transfer_nbs.files import write_file; write_file(sys.argv[1], 'a,b\\n')"
    shell(f'python -c "{writing}" >(cat > piped.csv; touch over); until [ -e over ]; do sleep 0.01; done', tmp_path)
    assert (tmp_path / "piped.csv").read_text() == "a,b\n"


LISTS = {"byte order mark": (b"\xef\xbb\xbfinbox/a.jpg\r\ninbox/b.jpg\r\n", ["inbox/a.jpg", "inbox/b.jpg"]), "PowerShell": ("\ufeffinbox/a.jpg\r\ninbox/b.jpg\r\n".encode("utf-16-le"), ["inbox/a.jpg", "inbox/b.jpg"]),
         "no UTF-8": (b"inbox/a.jpg\ncaf\xe9.jpg", ["inbox/a.jpg", os.fsdecode(b"caf\xe9.jpg")]), "a very long name": (b"x" * 5000, ["x" * 5000])}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_all_kinds(name, inbox, monkeypatch):
    monkeypatch.chdir(inbox.parent)
    content, names = LISTS[name]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert list_images(["-"]) == names


def test_a_list_that_is_not_there(saved, tmp_path, monkeypatch):
    statuses, done = shell(f"transfer_predict {shlex.quote(str(saved))} - <&-", tmp_path)
    assert statuses == [2] and "no images are named on standard input" in done.stderr and len(done.stderr.splitlines()) == 1
    for stdin in (None, SimpleNamespace(buffer=io.BytesIO())):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(ValueError, match="standard input"): list_images(["-"])


def test_no_name_reaches_the_terminal_as_it_is(saved, inbox, capsys):
    "Neither through the table nor through warnings, errors and rows of errors; the signs that turn the direction of writing neither."
    for name in ("\x1b[2J.jpg", "\x9b2J\u202egpj.jpg", "\x1b]0;owned\a.txt"): shutil.copy(inbox / "letter.txt", inbox / name)
    with pytest.raises(SystemExit): transfer_predict(str(saved), [str(inbox)])
    with pytest.raises(SystemExit): transfer_predict(str(saved), ["\x1b[2J"])
    with pytest.raises(SystemExit): transfer_predict("\x1b[2J", [str(inbox)])
    said = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err)
    assert r"\x1b[2J.jpg" in said.out and r"\u202egpj" in said.out and r"\x1b]0;owned" in said.err


def test_no_name_becomes_a_formula(saved, inbox, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(inbox)
    names = ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@a.jpg", "\tb.jpg", "a\rb.jpg", "a=b.jpg"]
    for name in names: shutil.copy(inbox / "a.jpg", name)
    assert predict_in_process(str(saved), names, csv="out.csv", capsys=capsys)[0] == 0
    table = rows_of("out.csv")
    assert list(table["file"]) == ["'=HYPERLINK(1).jpg", "'+1.jpg", "'-1.jpg", "'@a.jpg", "'\tb.jpg", r"a\rb.jpg", "a=b.jpg"]
    assert table["probability_1"].dtype == float
    numbers = pd.DataFrame({"value": np.float32([-0.1, 0.9])})
    assert csv_text(numbers) == numbers.to_csv(index=False)


@pytest.mark.filterwarnings("ignore")
def test_no_class_becomes_a_formula_in_the_tables_of_other_commands(figures, tmp_path):
    for name, files in zip(("-a", "=b"), [sorted(kind.glob("*.jpg")) for kind in sorted(figures[0].glob("[!.]*"))]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for file in files[:6]: shutil.copy(file, tmp_path / "images" / name / f"@{file.name}")
    (tmp_path / "images" / "=b" / "@broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(SystemExit): transfer_check(str(tmp_path / "images"), csv=str(tmp_path / "check.csv"))
    assert "'=b/@broken.jpg" in set(rows_of(tmp_path / "check.csv")["file"]) and "'=b" in set(rows_of(tmp_path / "check.csv")["class"])
    (tmp_path / "images" / "=b" / "@broken.jpg").unlink()
    for _ in range(2): table = split_folder(tmp_path / "images", tmp_path / "parts")
    written = rows_of(tmp_path / "parts" / "split.csv")
    assert set(written["class"]) == {"'-a", "'=b"} and list(written["file"].map(csv_value)) == list(table["file"])
    assert set(valid_classes(tmp_path / "parts")) == {"-a", "=b"}, "a comparison reads its table back"


# Calibration and ONNX


def test_temperature_is_found():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.1)
    assert fit_temperature(logits * 0.4, labels) == pytest.approx(0.4, rel=0.1)
    assert fit_temperature(logits, logits.argmax(1)) == 1


def test_a_temperature_at_its_bound_is_told():
    generator = torch.Generator().manual_seed(1)
    logits, labels = 1000 * torch.randn(500, 4, generator=generator), torch.randint(0, 4, (500,), generator=generator)
    with pytest.warns(UserWarning, match="ended at 100, a bound of its search"): temperature = fit_temperature(logits, labels)
    card = model_card(untrained("bn_eval", ("a", "b"), temperature=temperature, results={"valid": dict(accuracy=0.25, low=0.2, high=0.3, correct=1, images=4, calibration_error_before=0.1, calibration_error=0.1)}), title="any")
    assert "the probabilities are **not** calibrated" in card


@pytest.mark.parametrize("recipe", ["bn_eval", "deeper_head"])
def test_onnx_agrees(recipe, figures, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx isn't installed")
    pytest.importorskip("onnxscript", reason="the extra onnx isn't installed")
    files = sorted(figures[0].glob("*/*.jpg"))
    path = save_bundle(untrained(recipe, ("b", "a", "c"), temperature=1.5), tmp_path / "bundle")
    assert export_onnx(path, files) <= 1e-4
    session = onnxruntime.InferenceSession(path / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == ["b", "a", "c"] and json.loads(facts["temperature"]) == 1.5
    bundle = load_bundle(path)
    for count in (1, 2, 5):
        images = next(image_batches(files[:count], bundle.spec))[1].contiguous().numpy()
        np.testing.assert_allclose(session.run(None, {"images": images})[0], bundle.logits(files[:count], device="cpu")[0], atol=1e-4)
    assert {file.name for file in path.iterdir()} <= set(BUNDLE_FILES) and [place.name for place in tmp_path.iterdir()] == ["bundle"]


def test_onnx_that_disagrees_is_refused(figures, tmp_path, monkeypatch):
    "The exporter is given a model of other weights."
    pytest.importorskip("onnxruntime", reason="the extra onnx isn't installed")
    pytest.importorskip("onnxscript", reason="the extra onnx isn't installed")
    export = torch.onnx.export
    def wrong(model, *arguments, **options):
        other = untrained("bn_eval", ("a", "b")).model.eval()
        other.load_state_dict(model.state_dict())
        other.head.linear.bias.data += 0.001
        return export(other, *arguments, **options)
    path = save_bundle(untrained("bn_eval", ("a", "b")), tmp_path / "bundle")
    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(ValueError, match="model.onnx was not written"): export_onnx(path, sorted(figures[0].glob("*/*.jpg"))[:4])
    assert not (path / "model.onnx").exists()


def test_onnx_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"transfer_nbs\[onnx\]"): export_onnx(saved, [])


# Real photographs


@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_real_photographs_with_imagenet_weights(tmp_path):
    "A mobilenet_v2 that tells ants from bees, trained, saved, loaded and used; and as ONNX."
    folder, weights = REAL / "hymenoptera", REAL / "weights" / "mobilenet_v2_imagenet.pth"
    with pytest.warns(UserWarning, match="imageNotFound.gif"): table = read_folder(folder)
    settings = CompareSettings(arch="mobilenet_v2", weights=str(weights), size=224, epochs=2, device="cpu")
    result = train_recipe(RECIPES["bn_eval"], settings, table, folder)
    bundle = make_bundle(result.model, result.spec, recipe=RECIPES["bn_eval"], settings=dict(arch=settings.arch, weights=str(weights)), table=table, folder=folder)
    path = save_bundle(bundle, tmp_path / "insects")
    assert bundle.results["valid"]["accuracy"] >= 0.9
    done = text(run(path, folder / "val", "--csv", tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out.csv")
    assert (rows["answer"] == [Path(file).parent.name for file in rows["file"]]).mean() == pytest.approx(bundle.results["valid"]["accuracy"], abs=0.01)
    try: import onnxruntime, onnxscript  # noqa: F401
    except ImportError: return
    assert export_onnx(path, list(rows["file"][:40])) <= 1e-4
