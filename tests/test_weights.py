"Weights of other people and of our own: found behind whatever keys and prefixes, refused in one line where they can't be right, and never run."

import json
import pickle
import shutil
import socket
import struct
import sys
import types
import warnings
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from transfer_nbs.backbone import create_body
from transfer_nbs.named_weights import bundled_weights
from transfer_nbs.bundle import Bundle, _current_versions, _describe_recipe, describe_settings, save_bundle
from transfer_nbs.weight_files import bundle_facts, read_weights, usual_size, weights_file
from transfer_nbs.compare import CompareSettings
from transfer_nbs.named_weights import image_spec
from transfer_nbs.recipes import RECIPES, build_model
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


# Layouts that people have: written by the code that writes them where it is at hand, else key by key as it does


def resnet(num_classes=7):
    "Torchvision's network with our backbone and another number of classes."
    network = torchvision.models.resnet18(num_classes=num_classes)
    network.load_state_dict({**network.state_dict(), **BACKBONE})
    return network


def mlp(prefix): return {f"{prefix}.0.weight": torch.zeros(512, 512), f"{prefix}.0.bias": torch.zeros(512), f"{prefix}.2.weight": torch.zeros(128, 512), f"{prefix}.2.bias": torch.zeros(128)}


def trained():
    "A network after a step, its optimizer and its schedule."
    network = resnet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    network.fc(torch.ones(1, 512)).sum().backward()
    optimizer.step()
    return network, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)


def general():  # pytorch/examples and PyTorch's tutorial
    network, optimizer, schedule = trained()
    return {"epoch": 3, "arch": "resnet18", "state_dict": torch.nn.DataParallel(network).state_dict(), "best_acc1": torch.tensor(71.3), "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}


def references():  # torchvision/references/classification/train.py with --model-ema
    network, optimizer, schedule = trained()
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    raw = {name: value + 1 for name, value in network.state_dict().items()}
    args = Namespace(model="resnet18", lr=0.1, device="cuda", output_dir=Path("runs"), train_crop_size=224)
    return {"model": raw, "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 3, "args": args, "model_ema": average.state_dict(), "scaler": {"scale": 65536.0, "growth_factor": 2.0}}


def lightning(prefix):
    network, optimizer, schedule = trained()
    state = {**behind(prefix, network.state_dict()), "criterion.weight": torch.ones(7), "accuracy.tp": torch.zeros(7)}
    callbacks = {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3), "best_model_path": "a.ckpt", "dirpath": "a"}, "EarlyStopping": {"wait_count": 0, "best_score": torch.tensor(0.3)}}
    return {"epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4.0", "state_dict": state, "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": callbacks, "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [schedule.state_dict()], "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.1, "data": Path("data"), "names": ["a", "b"]}}


def timm_training(path):  # timm/train.py with --model-ema
    saver, utils = pytest.importorskip("timm.utils.checkpoint_saver"), pytest.importorskip("timm.utils")
    network, optimizer, _ = trained()
    average = utils.ModelEmaV3(network)
    with torch.no_grad():
        for value in network.parameters(): value.add_(1)
    saver.CheckpointSaver(network, optimizer, args=Namespace(model="resnet18", lr=0.1, mean=None, bce_target_thresh=None), model_ema=average, checkpoint_dir=str(path), recovery_dir=str(path)).save_checkpoint(3, metric=71.3)
    return next(path.glob("checkpoint-3.pth.tar"))


def moco(version):
    "v1 has a linear head, v2 an MLP, and v3 other names."
    query, key = ("base_encoder", "momentum_encoder") if version == 3 else ("encoder_q", "encoder_k")
    head = mlp("fc") if version > 1 else {"fc.weight": torch.zeros(128, 512), "fc.bias": torch.zeros(128)}
    extra = mlp("module.predictor") if version == 3 else {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    state = {**behind(f"module.{query}.", {**BACKBONE, **head}), **behind(f"module.{key}.", {**OTHER, **head}), **extra}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def dino():
    head = {"head.mlp.0.weight": torch.zeros(8, 512), "head.last_layer.weight_g": torch.ones(8, 1)}
    student = behind("module.", {**behind("backbone."), **head})
    teacher = {**behind("backbone.", OTHER), **head}
    return {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 3, "args": Namespace(arch="resnet18", local_crops_scale=(0.05, 0.4)), "dino_loss": {"center": torch.zeros(1, 8)}}


def by_numbers(tensors=BACKBONE):
    "As fastai, and anyone who makes an nn.Sequential of a network's children, calls them."
    return {".".join([str(["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"].index(name.split(".")[0])), *name.split(".")[1:]]): value for name, value in tensors.items()}


def fastai(): return {**behind("0.", by_numbers()), "1.2.weight": torch.ones(1024), "1.4.weight": torch.zeros(512, 1024), "1.8.weight": torch.zeros(7, 512)}


def fsdp(): return {name.replace("layer1.0.", "layer1.0._fsdp_wrapped_module.").replace("layer2.", "layer2._checkpoint_wrapped_module."): value for name, value in behind("_fsdp_wrapped_module.").items()}


LAYOUTS = {  # what it is: content, the prefix of what is taken, and some of what is left
    "DataParallel": (lambda: torch.nn.DataParallel(resnet()).state_dict(), "module.", "left out 2: module.fc.weight, module.fc.bias"),
    "a general checkpoint": (general, "state_dict.module.", "state_dict.module.fc.weight"),
    "torchvision's references, with an average": (references, "model_ema.module.", "model.conv1.weight"),
    "torch.compile": (lambda: torch.compile(resnet()).state_dict(), "_orig_mod.", "_orig_mod.fc.weight"),
    "Lightning, model": (lambda: lightning("model."), "state_dict.model.", "state_dict.model.fc.weight"),
    "Lightning, backbone": (lambda: lightning("backbone."), "state_dict.backbone.", "state_dict.criterion.weight"),
    "Lightning, net": (lambda: lightning("net."), "state_dict.net.", "state_dict.accuracy.tp"),
    "MoCo v1": (lambda: moco(1), "state_dict.module.encoder_q.", "module.encoder_q.fc.weight"),
    "MoCo v2": (lambda: moco(2), "state_dict.module.encoder_q.", "module.encoder_q.fc.0.weight"),
    "MoCo v3": (lambda: moco(3), "state_dict.module.base_encoder.", "module.base_encoder.fc.0.weight"),
    "SimCLR": (lambda: {"state_dict": behind("backbone.", {**BACKBONE, **mlp("fc")}), "arch": "resnet18"}, "state_dict.backbone.", "state_dict.backbone.fc.0.weight"),
    "SwAV": (lambda: {"state_dict": behind("module.", {**BACKBONE, **mlp("projection_head"), "prototypes.weight": torch.zeros(30, 128)})}, "state_dict.module.", "module.projection_head.0.weight"),
    "BYOL": (lambda: {**behind("online_encoder.net."), **behind("target_encoder.net.", OTHER), **mlp("online_predictor.net")}, "online_encoder.net.", "target_encoder.net."),
    "VICReg and Barlow Twins": (lambda: {"epoch": 3, "model": {**behind("module.backbone."), **mlp("module.projector")}, "optimizer": {}}, "model.module.backbone.", "model.module.projector.0.weight"),
    "FSDP and activation checkpoints": (fsdp, "", None),
    "params_ema": (lambda: {"params": OTHER, "params_ema": BACKBONE}, "params_ema.", "params."),
    "model_state": (lambda: {"model_state": BACKBONE, "epoch": 3}, "model_state.", None),
    "fastai, with its optimizer": (lambda: {"model": fastai(), "opt": {"state": [], "hypers": []}}, "model.0.", "model.1.4.weight"),
    "fastai": (fastai, "0.", "left out 3: 1.2.weight"),
    "an nn.Sequential of the children": (lambda: {**by_numbers(), "10.weight": torch.zeros(7, 512)}, "", "10.weight"),
    "a head of another name": (lambda: {**BACKBONE, "head.weight": torch.zeros(7, 512)}, "", "left out 1: head.weight"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_are_read(name, tmp_path):
    make, prefix, left = LAYOUTS[name]
    state, said = body_of(make(), tmp_path)
    assert is_backbone(state)
    if not prefix and not left: assert not said
    else:
        [line] = said
        assert f"took {len(BACKBONE)} tensors{' behind the prefix ' * bool(prefix)}{prefix};" in f"{line};" and (left or "") in line and "\n" not in line


def test_a_checkpoint_of_timms_training_gives_its_average(tmp_path):
    path = timm_training(tmp_path)
    with pytest.warns(UserWarning, match="behind the prefix state_dict_ema.; left out"): body = create_body("resnet18", weights=path)
    assert is_backbone(body.state_dict())


class Pickled:
    "Stands for a class that the reader's machine may not even have."


def renamed(module, name):
    "A class that is pickled under another name."
    return type(name, (Pickled,), {"__module__": module})


HUGGING_FACE = {"resnet.embedder.embedder.convolution.weight": BACKBONE["conv1.weight"], "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": BACKBONE["layer1.0.conv1.weight"],
                "classifier.1.weight": torch.zeros(7, 512)}
REFUSED = {
    "DINO": (dino, "hold this network 2 times (student.module.backbone., teacher.backbone.): keep the one that is meant"),
    "transformers, a ResNet": (lambda: HUGGING_FACE, "names of Hugging Face's transformers"),
    "transformers, a ViT": (lambda: {"vit.embeddings.cls_token": torch.zeros(1, 1, 8), "vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(8, 8)}, "names of Hugging Face's transformers"),
    "an embedder of one's own": (lambda: behind("embedder.", {**BACKBONE, "layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}), "1 unexpected: layer1.2.conv1.weight"),
    "another number of colours": (lambda: {**BACKBONE, "conv1.weight": torch.zeros(64, 4, 7, 7)}, "1 of another shape: conv1.weight"),
    "a head alone": (lambda: {"state_dict": CLASSIFIER}, "missing: conv1.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layouts_that_are_refused(name, tmp_path):
    make, words = REFUSED[name]
    with pytest.raises(ValueError) as refused: body_of(make(), tmp_path)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("module, name", [("ultralytics.nn.tasks", "ClassificationModel"), ("omegaconf.dictconfig", "DictConfig"), ("lightning.fabric.utilities.data", "AttributeDict"), ("fastai.learner", "Learner")])
def test_classes_of_other_libraries_are_refused_by_name(module, name, tmp_path, monkeypatch):
    kind = renamed(module, name)
    parts = module.split(".")
    for length in range(1, len(parts) + 1): monkeypatch.setitem(sys.modules, ".".join(parts[:length]), types.ModuleType(".".join(parts[:length])))
    setattr(sys.modules[module], name, kind)
    torch.save({"state_dict": BACKBONE, "hyper_parameters": kind()}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=f"it holds {module}.{name}, which could run code"): create_body("resnet18", weights=tmp_path / "w.ckpt")


# A bundle of our own


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    "A bundle with two classes that learned nothing, at 64 pixels, with colours of its own."
    recipe = RECIPES["deeper_head"]
    model = build_model(recipe, CompareSettings(size=64, device="cpu"), num_classes=2, seed=3)
    spec = ImageSpec(("a", "b"), size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    made = Bundle(model, "resnet18", recipe.head.__name__, spec, _describe_recipe(recipe, model), {}, "", _current_versions(), {})
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
