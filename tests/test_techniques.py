"Edge cases of the techniques of lessons 07 to 09: groups, learning rates, phases and heads."

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

from transfer_nbs.backbone import bn_layers, get_model, linear_head
from transfer_nbs.batches import ShuffledBatches
from transfer_nbs.bn_eval import set_bn_policy
from transfer_nbs.bn_trainable import body_bn_head
from transfer_nbs.concat_pooling_head import (
    AdaptiveConcatPooling, BatchNormForAnyBatch, concat_pooling_head, deeper_head, deeper_head_recipe)
from transfer_nbs.discriminative_lr import discriminative_bn_frozen, discriminative_bn_trainable, update_lr
from transfer_nbs.training import Phase, Recipe, fit
from transfer_nbs.training_run import check_groups


def small_model(head=linear_head):
    body = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 4, 3, bias=False), downsample=nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))))
    return nn.Sequential(OrderedDict(body=body, head=head(4, 2)))


def loader(count, batch_size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 2), batch_size=batch_size)


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


# 07: groups by type

def test_bn_layers_are_found_by_type_wherever_they_are():
    model = small_model()
    groups = check_groups(model, body_bn_head(model))
    assert [count(group) for group in groups] == [3 * 4 * 9 + 4 * 4, 8, 4 * 2 + 2]


def test_groups_of_a_resnet18_are_disjoint_and_complete():
    model = get_model("resnet18", 2, size=96)
    groups = check_groups(model, body_bn_head(model))
    assert [count(group) for group in groups] == [11_166_912, 9_600, 1_026]


@pytest.mark.parametrize("network, in_bn, total", [
    (nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)), 8, 20),
    (nn.ModuleDict(dict(bn_input=nn.Conv2d(3, 4, 1, bias=False),
                        downsample=nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)))), 8, 32),
    (nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)), 0, 12)])
def test_share_of_parameters_in_bn_layers(network, in_bn, total):
    assert count(parameter for layer in bn_layers(network).values() for parameter in layer.parameters()) == in_bn
    assert count(network.parameters()) == total


# 08: learning rates

@pytest.fixture
def optimizer():
    model = small_model()
    return torch.optim.Adam([dict(params=model.body.parameters()), dict(params=model.head.parameters())], lr=1e-3)


@pytest.mark.parametrize("lrs, expected", [([1e-5, 1e-3], [1e-5, 1e-3]), (3e-4, [3e-4, 3e-4]), (1, [1, 1]), ((0.1, 0.2), [0.1, 0.2])])
def test_update_lr_sets_one_for_each_group_or_one_for_all(optimizer, lrs, expected):
    update_lr(optimizer, lrs)
    assert [group["lr"] for group in optimizer.param_groups] == expected


def test_update_lr_refuses_another_number_of_learning_rates(optimizer):
    with pytest.raises(ValueError, match="3 learning rates for 2 groups of parameters: give one for each, or one number for all"):
        update_lr(optimizer, [1e-5, 1e-4, 1e-3])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]


def test_first_steps_of_adam_are_as_long_as_the_learning_rates_of_the_groups(optimizer):
    "A backbone at a hundredth of the head's learning rate goes a hundredth as far, whatever its gradients."
    update_lr(optimizer, [1e-5, 1e-3])
    before = [[parameter.detach().clone() for parameter in group["params"]] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for parameter in group["params"]: parameter.grad = torch.randn_like(parameter).sign() * 7
    optimizer.step()
    moved = [max((now - old).abs().max().item() for now, old in zip(group["params"], olds))
             for group, olds in zip(optimizer.param_groups, before)]
    assert moved[1] == pytest.approx(1e-3, rel=1e-2) and moved[1] / moved[0] == pytest.approx(100, rel=0.05)


def noted_steps(recipe, model):
    "The learning rate of each group (None: none) at every step of a training run of two epochs."
    rates, groups = [], recipe.groups(model)
    def note(optimizer, *_): rates.append({id(group["params"][0]): group["lr"] for group in optimizer.param_groups})
    handle = register_optimizer_step_pre_hook(note)
    try: fit(model, loader(40, 4), loader(8, 4), recipe, lr=0.004)
    finally: handle.remove()
    return [[step.get(id(group[0])) for group in groups] for step in rates]


def cosine(batch, batches, rate, lr):
    "Learning rate of a group at a batch of a phase."
    return None if rate is None else lr * rate * (1 + math.cos(math.pi * batch / batches)) / 2


@pytest.mark.parametrize("recipe", [discriminative_bn_trainable, discriminative_bn_frozen], ids=lambda recipe: recipe.name)
def test_learning_rates_of_both_phases_fall_along_a_cosine(recipe):
    model = small_model()
    set_bn_policy(model.body, recipe.bn)
    steps = noted_steps(recipe, model)
    assert len(steps) == 20
    for index, step in enumerate(steps):
        phase, batch = divmod(index, 10)
        for lr, rate in zip(step, recipe.phases[phase].rates):
            expected = cosine(batch, 10, rate, 0.004)
            assert (lr is None) == (expected is None)
            assert lr is None or lr == pytest.approx(expected, abs=1e-12)


def test_groups_by_depth_are_complete_and_train():
    early = ("body.conv1.", "body.bn1.", "body.layer1.", "body.layer2.")

    def depth(name): return 0 if name.startswith(early) else 1 if name.startswith("body.") else 2

    def by_depth(model):
        groups = [[], [], []]
        for name, parameter in model.named_parameters(): groups[depth(name)].append(parameter)
        return groups

    model = get_model("resnet18", 2, size=32)
    check_groups(model, by_depth(model))
    names = ("body.conv1.weight", "body.layer2.0.downsample.1.bias", "body.layer4.1.conv1.weight", "body.bn1.weight",
             "body.layer3.0.bn1.bias", "head.linear.weight")
    assert [depth(name) for name in names] == [0, 0, 1, 0, 1, 2]
    recipe = Recipe("by_depth", (Phase((None, None, 1.0)), Phase((0.001, 0.01, 1.0))), groups=by_depth)
    small = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2)
    assert len(fit(model, DataLoader(small, batch_size=4), DataLoader(small, batch_size=4), recipe)) == 2


# 09: heads

def test_a_mirrored_map_is_the_same_to_both_poolings():
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 1, 2] = 1
    pool = AdaptiveConcatPooling()
    assert torch.equal(pool(features), pool(features.flip(3)))


@pytest.mark.parametrize("first, second, differ", [
    ({(1, 2): 1}, {(r, c): 1 / 16 for r in range(4) for c in range(4)}, [True, False]),  # maximum, average
    ({(1, 2): 1}, {(1, 2): 1, (3, 0): 1}, [False, True]),
    ({(1, 2): 1, (3, 0): 1}, {(1, 2): 2, (3, 0): 2}, [True, True])])
def test_what_each_pooling_sees(first, second, differ):
    maps = torch.zeros(2, 1, 4, 4)
    for index, values in enumerate((first, second)):
        for place, value in values.items(): maps[index, 0][place] = value
    one, two = AdaptiveConcatPooling()(maps).flatten(1)
    assert (one != two).tolist() == differ


def test_a_weight_for_the_other_order_is_converted_by_swapping_halves():
    generator = torch.Generator().manual_seed(0)
    weight, features = torch.randn(4, 6, generator=generator), torch.randn(5, 3, 2, 2, generator=generator)
    average, maximum = weight.chunk(2, dim=1)
    other_order = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
    ours = torch.cat([maximum, average], dim=1) @ AdaptiveConcatPooling()(features).flatten(1).T
    torch.testing.assert_close(ours, weight @ other_order.T)


def test_shapes_of_the_heads():
    assert concat_pooling_head(512, 2)(torch.randn(4, 512, 3, 3)).shape == (4, 2)
    assert deeper_head(512, 3, hidden=16).train()(torch.randn(1, 512, 3, 3)).shape == (1, 3)


def test_a_single_image_leaves_the_statistics_and_equals_eval_mode():
    layer = BatchNormForAnyBatch(4)
    layer(3 + torch.randn(8, 4))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert torch.equal(layer.train()(torch.ones(1, 4)), layer.eval()(torch.ones(1, 4)))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_our_batches_leave_out_a_single_image_and_a_plain_loader_does_not():
    assert [len(batch) for batch in ShuffledBatches(33, 32, seed=0)] == [32]
    assert [len(labels) for _, labels in loader(33, 32)] == [32, 1]


def test_the_deeper_head_trains_on_a_last_batch_of_one_and_the_usual_layer_does_not():
    model = small_model(deeper_head)
    set_bn_policy(model.body, deeper_head_recipe.bn)
    assert len(fit(model, loader(33, 32), loader(8, 8), deeper_head_recipe)) == 2
    model.head.bn = nn.BatchNorm1d(512)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fit(model, loader(33, 32), loader(8, 8), deeper_head_recipe)


def test_mirrored_views_are_averaged_as_probabilities():
    "The exercise in test-time augmentation: the mean of both views' probabilities."
    def both_ways(model, images): return (model(images).softmax(1) + model(images.flip(3)).softmax(1)) / 2
    images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log().view(1, 1, 2, 2)
    torch.testing.assert_close(both_ways(nn.Flatten(), images), torch.tensor([[0.15, 0.15, 0.35, 0.35]]))
    torch.testing.assert_close(both_ways(nn.Flatten(), torch.zeros(2, 1, 1, 2)), torch.full((2, 2), 0.5))
