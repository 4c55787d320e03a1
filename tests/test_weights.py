"Weights of other people and of our own: found behind whatever keys and prefixes, refused in one line where they can't be right, and never run."

import json
import pickle
import shutil
import socket
import struct
import warnings
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from transfer_nbs.backbone import create_body
from transfer_nbs.named_weights import bundled_weights
from transfer_nbs.bundle import Bundle, _current_versions, _describe_recipe, describe_settings, save_bundle
from transfer_nbs.weight_files import bundle_facts, read_weights, usual_size, weights_file
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, build_model, image_spec
from transfer_nbs.views import ImageSpec
from transfer_nbs.files import content_hash
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.fit_command import choose_settings

BACKBONE = load_file(bundled_weights())
OTHER = {name: value + 1 for name, value in BACKBONE.items()}
CLASSIFIER = {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}


def behind(prefix, tensors=BACKBONE): return {prefix + name: value for name, value in tensors.items()}


def body_of(content, tmp_path):
    "The backbone made from a checkpoint, and what was said about it."
    torch.save(content, tmp_path / "weights.ckpt")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        body = create_body("resnet18", weights=tmp_path / "weights.ckpt")
    return body.state_dict(), [str(warning.message) for warning in said]


def is_backbone(state, tensors=BACKBONE):
    return all(torch.equal(state[name], value.to(state[name].dtype)) for name, value in tensors.items())


PREFIXES = ["", "model.", "module.encoder_q.", "module._orig_mod.", "module.model.backbone.", "any name."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix(prefix, tmp_path):
    state, said = body_of({"state_dict": {**behind(prefix), **behind(prefix, CLASSIFIER)}, "epoch": 3}, tmp_path)
    assert is_backbone(state)
    assert len(said) == 1 and f"took {len(BACKBONE)} tensors behind the prefix state_dict.{prefix}; left out 2: state_dict.{prefix}fc.weight" in said[0]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model", "net", "ema", "anything"])
def test_any_key(key, tmp_path):
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, key: BACKBONE, "optimizer_state_dict": optimizer, "args": Namespace(lr=0.1), "best_acc1": np.float64(91.2), "loss": 0.4}
    assert is_backbone(body_of(content, tmp_path)[0])


def test_torchvisions_own_file_needs_no_word(tmp_path):
    assert body_of({**BACKBONE, **CLASSIFIER}, tmp_path)[1] == []


def test_wrappers_between_the_names(tmp_path):
    inside = {name.replace("layer1.", "layer1._orig_mod.").replace("conv1.", "module.conv1.", 1): value for name, value in BACKBONE.items()}
    assert is_backbone(body_of(inside, tmp_path)[0])


@pytest.mark.parametrize("right, wrong", [("model_ema.module.", "model."), ("encoder_q.", "encoder_k."), ("online_network.", "target_network."), ("backbone.", "momentum_backbone.")])
@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_networks_the_one_to_use(right, wrong, swapped, tmp_path):
    pair = [behind(right), behind(wrong, OTHER)]
    first, second = reversed(pair) if swapped else pair
    state, said = body_of({**first, **second}, tmp_path)
    assert is_backbone(state) and f"behind the prefix {right}" in said[0]


def test_of_two_networks_that_nobody_can_tell_apart_none(tmp_path):
    with pytest.raises(ValueError, match=r"2 times \(student\.backbone\., teacher\.backbone\.\)"):
        body_of({"student": behind("backbone."), "teacher": behind("backbone.", OTHER)}, tmp_path)
    assert is_backbone(body_of({"student": BACKBONE, "teacher": {name: value.clone() for name, value in BACKBONE.items()}}, tmp_path)[0]), "equal ones are one"


def test_another_network_behind_a_prefix_is_refused(tmp_path):
    deeper = create_body("resnet34", weights="random").state_dict()
    with pytest.raises(ValueError, match="unexpected: layer1.2"): body_of({"state_dict": behind("model.", deeper)}, tmp_path)
    smaller = {name: value for name, value in BACKBONE.items() if not name.startswith("layer4.1.conv2")}
    with pytest.raises(ValueError, match="1 missing: layer4.1.conv2.weight"): body_of({"state_dict": behind("model.", smaller)}, tmp_path)
    with pytest.raises(ValueError, match="of another shape: conv1.weight"): body_of({"net": {**BACKBONE, "conv1.weight": torch.zeros(64, 1, 7, 7)}}, tmp_path)


# Numbers


def poisoned(name, value): return {**BACKBONE, name: value}


FILTERS = BACKBONE["layer2.0.conv1.weight"].float()
BAD_NUMBERS = {
    "nan": (poisoned("layer2.0.conv1.weight", torch.where(FILTERS == FILTERS.max(), torch.nan, FILTERS)), "layer2.0.conv1.weight holds NaN"),
    "infinity": (poisoned("bn1.running_mean", torch.full((64,), torch.inf)), "bn1.running_mean holds NaN or infinity"),
    "too large for float32": (poisoned("layer2.0.conv1.weight", FILTERS.double() * 1e300), "layer2.0.conv1.weight holds NaN or infinity"),
    "whole numbers": (poisoned("layer2.0.conv1.weight", (FILTERS * 10).to(torch.int8)), "holds int8 where float32 belongs"),
    "truth values": (poisoned("bn1.weight", torch.ones(64, dtype=torch.bool)), "bn1.weight holds bool"),
    "complex numbers": (poisoned("layer2.0.conv1.weight", FILTERS.to(torch.complex64)), "holds complex64"),
    "a variance below 0": (poisoned("bn1.running_var", torch.full((64,), -1.0)), "bn1.running_var holds a variance below 0"),
    "sparse": (poisoned("layer2.0.conv1.weight", FILTERS.to_sparse()), "layer2.0.conv1.weight is no plain tensor"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_numbers_that_cannot_be_weights(name, tmp_path):
    content, words = BAD_NUMBERS[name]
    with pytest.raises(ValueError) as refused: body_of(content, tmp_path)
    assert words in str(refused.value) and "weights.ckpt" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_fine(dtype, tmp_path):
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in BACKBONE.items()}
    assert is_backbone(body_of(tensors, tmp_path)[0], tensors)


def test_shared_memory_is_fine(tmp_path):
    one = torch.stack([BACKBONE["layer1.0.conv1.weight"], BACKBONE["layer1.0.conv2.weight"]])
    assert is_backbone(body_of({**BACKBONE, "layer1.0.conv1.weight": one[0], "layer1.0.conv2.weight": one[1]}, tmp_path)[0])


# Files


class Trap:
    place = None
    def __reduce__(self): return Path.touch, (Trap.place,)


def damaged_safetensors(change):
    def write(path):
        save_file({"conv1.weight": torch.zeros(2)}, path)
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        path.write_bytes(change(content, length))
    return write


def cut_pickle(path):
    torch.save(BACKBONE, path)
    path.write_bytes(path.read_bytes()[:100_000])


FILES = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "a page": (lambda path: path.write_text("<!DOCTYPE html><html>not found</html>"), "was it downloaded whole"),
    "a pointer of Git LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "was it downloaded whole"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "no checkpoint that can be read safely"),
    "cut off": (cut_pickle, "no checkpoint that can be read safely"),
    "code": (lambda path: torch.save(Trap(), path), "which could run code"),
    "code in a dictionary": (lambda path: torch.save({"state_dict": BACKBONE, "hook": Trap()}, path), "which could run code"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": Trap()})), "no checkpoint that can be read safely"),
    "a whole model": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "torch.nn.modules.linear.Linear"),
    "nothing in it": (lambda path: torch.save({}, path), "no dictionary of tensors"),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), "an object of the type list"),
    "no tensors": (lambda path: torch.save({"epoch": 3, "lr\x1b[2J": 0.1}, path), r"only epoch, lr\x1b[2J"),
    "a header that claims too much": (damaged_safetensors(lambda content, length: struct.pack("<Q", 2**62) + content[8:]), "can be read safely (SafetensorError)"),
    "a tensor that claims too much": (damaged_safetensors(lambda content, length: content.replace(b'"shape":[2]', b'"shape":[9]')), "can be read safely (SafetensorError)"),
    "no numbers behind the header": (damaged_safetensors(lambda content, length: content[:8 + length]), "can be read safely (SafetensorError)"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_weights_is_one_line(name, suffix, tmp_path):
    write, words = FILES[name]
    Trap.place = tmp_path / "it ran"
    write(tmp_path / f"w{suffix}")
    with pytest.raises(ValueError) as refused: read_weights(tmp_path / f"w{suffix}")
    assert words in str(refused.value) and f"w{suffix}" in str(refused.value) and "\n" not in str(refused.value) and "\x1b" not in str(refused.value)
    assert not (tmp_path / "it ran").exists()


def test_a_format_is_told_by_its_content(tmp_path):
    torch.save(BACKBONE, tmp_path / "torch.safetensors")
    save_file(BACKBONE, tmp_path / "safe.pth")
    torch.save(BACKBONE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("torch.safetensors", "safe.pth", "old.pth"): assert is_backbone(create_body("resnet18", weights=tmp_path / name).state_dict()), name


@pytest.mark.parametrize("word, meant", [
    ("IMAGENET1K_V1", "the word is imagenet"), ("ResNet18_Weights.DEFAULT", "the word is imagenet"), ("DEFAULT", "the word is imagenet"), ("pretrained", "the word is imagenet"),
    ("ImageNet", "the word is imagenet"), ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "download the file first"), ("s3://bucket/w.pth", "download the file first"),
    ("Bundled", "did you mean bundled?"), ("gone.pth", "no file gone.pth"), (".", "a folder without model.safetensors")])
def test_words_that_are_no_weights(word, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as refused: create_body("resnet18", weights=word)
    assert meant in str(refused.value) and word in str(refused.value)


# A bundle of our own


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    "A bundle with two classes that learned nothing, at 64 pixels, with colours of its own."
    recipe = RECIPES["deeper_head"]
    model = build_model(recipe, CompareSettings(size=64, device="cpu"), num_classes=2, seed=3)
    spec = ImageSpec(("a", "b"), size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    made = Bundle(model, "resnet18", recipe.head.__name__, spec, _describe_recipe(recipe), {}, "", _current_versions(), {})
    return save_bundle(made, tmp_path_factory.mktemp("bundles") / "first")


@pytest.mark.filterwarnings("ignore:.*took 120 tensors behind the prefix body")
def test_a_bundle_is_where_the_next_training_begins(bundle):
    expected = {name.removeprefix("body."): value for name, value in load_file(bundle / "model.safetensors").items() if name.startswith("body.")}
    for weights in (bundle, str(bundle), bundle / "model.safetensors"): assert is_backbone(create_body("resnet18", weights=weights).state_dict(), expected)
    build_model(RECIPES["bn_eval"], CompareSettings(weights=str(bundle), size=64, device="cpu"), num_classes=5)


def test_a_bundle_keeps_its_size_and_its_colours(bundle):
    table = pd.DataFrame({"class": ["a", "b", "c"]})
    spec = image_spec(CompareSettings(weights=str(bundle), size=64), table)
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)) and len(spec.class_names) == 3
    assert usual_size(bundle) == usual_size(bundle / "model.safetensors") == 64
    assert choose_settings("bn_eval", None, {"weights": str(bundle)})[0].size == 64
    assert [choose_settings("bn_eval", None, {"weights": weights})[0].size for weights in ("bundled", "imagenet")] == [96, 224]


def test_what_is_recorded_of_a_bundle(bundle):
    "Folder and file are the same weights, and where they lay is nobody's business."
    told = [describe_settings(asdict(FitSettings("bn_eval", weights=str(weights)))) for weights in (bundle, bundle / "model.safetensors")]
    assert told[0] == told[1] and told[0]["weights"] == "first"
    assert told[0]["weights_sha256"] == content_hash(weights_file(bundle))


def test_a_bundle_of_another_architecture_says_which(bundle):
    with pytest.raises(ValueError, match="a bundle of resnet18, not mobilenet_v2: give --arch resnet18"): create_body("mobilenet_v2", weights=bundle)


def test_a_damaged_bundle_is_no_beginning(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-7] ^= 4
    (copy / "model.safetensors").write_bytes(content)
    for weights in (copy, copy / "model.safetensors"):
        with pytest.raises(ValueError, match="isn't the file that bundle.json describes"): create_body("resnet18", weights=weights)
    (copy / "bundle.json").write_text(json.dumps({"format": "another program's"}))
    assert bundle_facts(copy) == {}
    (copy / "model.safetensors").unlink()
    with pytest.raises(OSError, match="a folder without model.safetensors"): create_body("resnet18", weights=copy)


@pytest.mark.network
def test_imagenet_weights_are_fetched(tmp_path, monkeypatch):
    "With an empty folder of downloads, the weights come from the network, and the backbone holds them."
    try: socket.create_connection(("download.pytorch.org", 443), timeout=3).close()
    except OSError: pytest.skip("no connection to download.pytorch.org")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = create_body("shufflenet_v2_x0_5", weights="imagenet").state_dict()
    [fetched] = tmp_path.rglob("*.pth")
    loaded = torch.load(fetched, weights_only=True)
    assert all(torch.equal(state[name], loaded[name]) for name in state)
