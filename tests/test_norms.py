"Normalisation layers of any kind: found by type, grouped, and trained alone; BN policies leave all but BN as it is."

import collections

import pytest
import torch
from test_training import batches, small_model
from torch import nn
from torchvision import models
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d
from torchvision.models.convnext import LayerNorm2d

from transfer_nbs.backbone import bn_layers, create_body, get_model, linear_head
from transfer_nbs.bn_eval import BN_POLICIES, set_bn_policy
from transfer_nbs.bn_trainable import body_bn_head, bn_trainable
from transfer_nbs.feature_extractor import feature_extractor, snapshot, verify_frozen
from transfer_nbs.fusion import group_norm_twin
from transfer_nbs.recipes import RECIPES, TECHNIQUES, _check_policy
from transfer_nbs.runs import count_trained, equal_recipes
from transfer_nbs.training import Phase, Recipe, fit
from transfer_nbs.training_run import check_groups
from transfer_nbs.without_bn import body_norm_head, norm_layers, norm_trainable


class RMSNormOfSomeone(nn.Module):
    "As transformers and others write it, from nothing of PyTorch's."
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class PreNorm(nn.Module):
    "A block that is called after its norm, and isn't one."
    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(4), nn.Linear(4, 4)


class NormedLinear(nn.Linear): "Filters that are normalised; nothing of the image is."


NORMS = [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4), nn.LayerNorm((4, 4)),
         LayerNorm2d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), FrozenBatchNorm2d(4), RMSNormOfSomeone(), nn.LayerNorm(4, elementwise_affine=False)]
OTHERS = [nn.Conv2d(4, 4, 1), nn.PReLU(4), nn.Dropout(), NormedLinear(4, 4), nn.Identity(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))]


@pytest.mark.parametrize("layer", NORMS, ids=lambda layer: type(layer).__name__)
def test_a_normalisation_layer_is_found(layer):
    assert list(norm_layers(layer)) == [""] and list(norm_layers(nn.Sequential(nn.Sequential(layer)))) == ["0.0"]


@pytest.mark.parametrize("layer", OTHERS, ids=lambda layer: type(layer).__name__)
def test_what_is_none(layer): assert norm_layers(layer) == {}


def test_of_a_block_with_norm_in_its_name_the_norm_inside():
    assert list(norm_layers(PreNorm())) == ["norm"]
    assert list(norm_layers(Conv2dNormActivation(3, 4))) == ["1"]
    assert list(norm_layers(models.convnext.CNBlock(4, 1e-6, 0.0))) == ["block.2"], "layer scale is no normalisation"


def test_timms_layers():
    layers = pytest.importorskip("timm.layers")
    names = ("LayerNorm LayerNorm2d LayerNormFp32 LayerNorm2dFp32 LayerNormExp2d GroupNorm GroupNorm1 RmsNorm RmsNorm2d RmsNormFp32 SimpleNorm SimpleNorm2d GlobalResponseNorm BatchNormAct2d "
             "SyncBatchNormAct GroupNormAct GroupNorm1Act LayerNormAct LayerNormAct2d RmsNormAct RmsNormAct2d FrozenBatchNormAct2d EvoNorm2dB0 EvoNorm2dS0a FilterResponseNormTlu2d").split()
    here = [name for name in names if hasattr(layers, name)]
    made = {name: getattr(layers, name)(32) for name in here}
    assert len(here) > 20 and {name: list(norm_layers(layer)) for name, layer in made.items()} == {name: [""] for name in here}
    assert [name for name in here if not list(made[name].parameters())] == ["FrozenBatchNormAct2d"]
    for other in (layers.ConvNormAct(3, 4), layers.LayerScale(4), layers.NormMlpClassifierHead(4, 2)): assert "" not in norm_layers(other)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224", "mobilenetv4_conv_small", "resnetv2_50", "swin_tiny_patch4_window7_224", "convnext_atto_rms", "levit_128s", "mixer_s32_224"])
def test_in_timms_networks_all_that_normalises(name):
    "Whoever owns a scale for each channel is a normalisation layer, or a scale that is known to normalise nothing."
    timm = pytest.importorskip("timm")
    if not timm.is_model(name): pytest.skip("another version of timm")
    with torch.device("meta"): network = timm.create_model(name)
    found = norm_layers(network)
    scales = {where for where, layer in network.named_modules() if getattr(layer, "weight", None) is not None and layer.weight.dim() == 1}
    assert found and scales == set(found)


FAMILIES = {  # of torchvision: normalisation layers of the backbone, BN layers among them
    "resnet18": (20, 20), "mobilenet_v3_small": (34, 34), "efficientnet_b0": (49, 49), "densenet121": (121, 121), "vgg11": (0, 0), "squeezenet1_1": (0, 0),
    "convnext_tiny": (22, 0), "swin_t": (29, 0), "swin_v2_t": (29, 0), "vit_b_16": (25, 0), "maxvit_t": (78, 34), "regnet_y_400mf": (53, 53)}


@pytest.mark.parametrize("arch", FAMILIES)
def test_groups_are_disjoint_and_complete(arch):
    model = nn.Sequential(collections.OrderedDict(body=create_body(arch, weights="random"), head=linear_head(8, 2)))
    body, norms, head = check_groups(model, body_norm_head(model))
    assert (len(norm_layers(model.body)), len(bn_layers(model.body))) == FAMILIES[arch]
    assert set(map(id, norms)) == {id(p) for layer in norm_layers(model.body).values() for p in layer.parameters()}
    assert body and len(head) == 2
    same = equal_recipes({recipe.name: recipe for recipe in (feature_extractor, bn_trainable, norm_trainable)}, model)
    every, bn = FAMILIES[arch]
    expected = {} if bn else {"bn_trainable": "feature_extractor"}
    if every == bn: expected["norm_trainable"] = "bn_trainable" if bn else "feature_extractor"
    assert same == expected
    _check_policy(norm_trainable, model)


def test_on_bn_it_is_training_the_bn_layers():
    model = get_model("resnet18", 3, size=64)
    for one, other in zip(body_norm_head(model), body_bn_head(model)): assert set(map(id, one)) == set(map(id, other))
    assert count_trained(model, norm_trainable) == count_trained(model, bn_trainable)
    assert equal_recipes(RECIPES, model) == {"norm_trainable": "bn_trainable"}
    assert norm_trainable not in TECHNIQUES and RECIPES["norm_trainable"] is norm_trainable


def trained(recipe):
    model = get_model("resnet18", 2, size=32)
    set_bn_policy(model.body, recipe.bn)
    fit(model, batches(), batches(), recipe, epochs=1)
    return model.state_dict()


def test_on_bn_it_gives_the_same_bits():
    one, other = trained(norm_trainable), trained(bn_trainable)
    assert all(torch.equal(one[name], other[name]) for name in other)


def without_bn():
    "A small backbone with norms of four kinds and a scale that is none."
    model = small_model()
    model.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1), LayerNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4, affine=True), FrozenBatchNorm2d(4))
    return model


def test_exactly_norms_and_head_learn():
    model = without_bn()
    before = snapshot(model)
    fit(model, batches(), batches(), norm_trainable, epochs=1)
    moved = {f"body.{layer}.{name}" for layer in (1, 3, 6) for name in ("weight", "bias")}
    assert set(verify_frozen(model, before)) == moved | {"head.2.weight", "head.2.bias"}


@pytest.mark.parametrize("policy", BN_POLICIES)
def test_bn_policies_leave_other_layers_alone(policy):
    model = without_bn()
    before = [(layer.training, [p.requires_grad for p in layer.parameters()], "train" in vars(layer)) for layer in model.modules()]
    set_bn_policy(model, policy)
    assert before == [(layer.training, [p.requires_grad for p in layer.parameters()], "train" in vars(layer)) for layer in model.modules()]


@pytest.mark.parametrize("policy", BN_POLICIES)
def test_without_bn_no_policy_contradicts_phases(policy):
    _check_policy(Recipe("mine", (Phase((None, 1.0, 1.0)),), groups=body_norm_head, bn=policy), without_bn())


def test_with_bn_beside_other_norms_the_policy_must_agree():
    model = without_bn()
    model.body.append(nn.BatchNorm2d(4))
    _check_policy(norm_trainable, model)
    with pytest.raises(ValueError, match="'frozen', but its phases train the BN weights"):
        _check_policy(Recipe("mine", norm_trainable.phases, groups=body_norm_head, bn="frozen"), model)
    _check_policy(Recipe("mine", (Phase((1.0, None, 1.0)),), groups=body_bn_head, bn="frozen"), model)  # its LayerNorms learn, its BN layers don't


def test_a_twin_without_bn_is_the_network_where_images_are_alike():
    "All images have the mean and the spread that the twin was made with; and nobody's layers are changed."
    body = create_body("resnet18")
    before, image = snapshot(body), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    twin = group_norm_twin(body.train(), image)
    assert verify_frozen(body, before) == [] and body.training
    assert bn_layers(twin) == {} and len(norm_layers(twin)) == 20
    with torch.no_grad(): torch.testing.assert_close(twin(image), body.eval()(image), rtol=1e-3, atol=1e-3)
