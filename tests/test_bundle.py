"""A bundle is kept whole, and refused where it was damaged."""

import json
import os
import pickle
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from bundles import contents, edit, run, text, untrained
from test_commands import assert_one_line_error

from transfer_nbs.backbone import get_model
from transfer_nbs.weight_files import read_weights
from transfer_nbs.bundle import _digest, _HEADS, load_bundle, make_bundle, save_bundle
from transfer_nbs.recipes import RECIPES
from transfer_nbs.files import content_hash


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
    "The bundle's table of heads is made without the recipes, and must hold theirs."
    assert {recipe.head.__name__: recipe.head for recipe in RECIPES.values()} == _HEADS


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


@pytest.mark.parametrize("step", ["save_file", "_model_card", "load_bundle"])
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
    path = save_bundle(trained[1], tmp_path / "empty")
    assert path == tmp_path / "empty" and {file.name for file in path.iterdir()} == {"model.safetensors", "bundle.json", "README.md"}


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
