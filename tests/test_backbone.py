"The edges of backbones and heads: seeds, modes, sizes that can't be taken, and families that differ from a ResNet."

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, vit_b_32

from transfer_nbs.backbone import bn_layers, create_body, cut_body, feature_count, get_model
from transfer_nbs.compare_command import _describe_body
from transfer_nbs.steps import tokens_to_map, up_to_step


@pytest.fixture(scope="module")
def transformer(): return cut_body(vit_b_32())


def head_weight(**how): return get_model("resnet18", 2, size=64, **how).head.linear.weight


def test_same_seed_same_head():
    assert torch.equal(head_weight(), head_weight())
    assert (head_weight() != head_weight(seed=1)).any()


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    get_model("resnet18", 2, size=64)
    assert torch.equal(torch.rand(1), expected)


def test_bundled_backbone_gives_maps():
    body = create_body("resnet18").eval()
    with torch.no_grad(): assert body(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize("training", [False, True])
def test_counting_features_leaves_the_mode_as_it_was(training):
    body = cut_body(resnet18()).train(training)
    body.bn1.eval()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    assert feature_count(body, size=64) == 512
    assert body.training == training and body.layer1.training == training and not body.bn1.training
    assert all(torch.equal(before[name], value) for name, value in body.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_backbone_has_the_networks_mode_and_parameters(training):
    network = resnet18().train(training)
    body = cut_body(network)
    assert body.training == training and network.training == training
    assert body.conv1.weight is network.conv1.weight


def test_an_image_too_small_for_any_map_is_refused():
    with pytest.raises(ValueError, match="no step of ResNet gives a map of more than one pixel: give a larger size"):
        cut_body(resnet18(), size=1)


def test_size_that_a_transformer_cannot_take_is_refused(transformer):
    with pytest.raises(ValueError, match="can't take images of 96 px .*give a larger size, or the one it was made for"):
        feature_count(transformer, size=96)


def test_tokens_are_laid_out_row_by_row_without_the_class_token(transformer):
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    assert torch.equal(tokens_to_map(tokens), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    with torch.no_grad(): assert transformer.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 768, 7, 7)


def test_any_step_can_be_the_last():
    network, image = resnet18().eval(), torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(up_to_step(network, "fc")(image), network(image))
        assert up_to_step(network, "layer2")(image).shape == (1, 128, 8, 8)


def test_bn_layers_are_found_by_type():
    norm = nn.BatchNorm1d(3)
    assert bn_layers(norm) == {"": norm}
    assert not bn_layers(nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3)))


def test_what_is_said_of_families(transformer):
    said = {arch: _describe_body(create_body(arch, weights="random")) for arch in ("resnet18", "swin_t")}
    assert said["resnet18"] == ""
    assert said["swin_t"] == "feature maps with channels last, put first by its final step"
    assert _describe_body(transformer) == "no feature map: patch tokens laid out as one, at one image size only"
