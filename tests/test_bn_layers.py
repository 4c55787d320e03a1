"""Freezing, and every setting of a BN layer: what moves, what stays to the bit, and what is refused."""

import copy
import math

import pytest
import torch
from test_training import batches, small_model
from torch import nn

from transfer_nbs.backbone import bn_layers
from transfer_nbs.bn_eval import BN_POLICIES, bn_eval, set_bn_eval, set_bn_policy, set_bn_train
from transfer_nbs.feature_extractor import count_trainable, feature_extractor, freeze, snapshot, unfreeze, verify_frozen
from transfer_nbs.features import feature_batches
from transfer_nbs.hardware import choose_precision
from transfer_nbs.training import evaluate, fit, random_features, train_epoch

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
KINDS = [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4), nn.BatchNorm2d(4, affine=False)]


def test_freezing_and_back():
    model = small_model()
    everything = count_trainable(model)
    freeze(model.body)
    assert count_trainable(model) == 4 * 2 + 2
    unfreeze(model.body)
    assert count_trainable(model) == everything


def test_a_frozen_body_is_in_no_graph():
    model = small_model()
    freeze(model.body)
    features = model.body(torch.randn(4, 3, 8, 8))
    model.head(features).sum().backward()
    assert features.grad_fn is None
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["head.2.weight", "head.2.bias"]


def test_the_smallest_step_is_seen():
    layer = nn.Linear(3, 3)
    before = snapshot(layer)
    assert verify_frozen(layer, before) == []
    with torch.no_grad(): layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(2.0))
    assert verify_frozen(layer, before) == ["bias"]


def test_a_zero_that_became_negative_is_seen():
    layer = nn.BatchNorm1d(3)
    before = snapshot(layer)
    layer.running_mean.neg_()
    assert verify_frozen(layer, before) == ["running_mean"]


def test_a_snapshot_of_another_module_is_refused():
    with pytest.raises(ValueError, match="snapshot is of another module"):
        verify_frozen(nn.BatchNorm1d(3), snapshot(nn.Linear(3, 3)))


@pytest.mark.parametrize("model, expected", [
    (nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4, affine=False))), ["1", "2.0"]),
    (nn.Sequential(nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4)), ["1"]),
    (nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.LayerNorm(6)), []),
])
def test_which_frozen_layers_drift(model, expected):
    freeze(model)
    before = snapshot(model)
    with torch.no_grad(): model(torch.randn(2, 4, 6, 6))
    moved = [name.removesuffix(".running_mean") for name in verify_frozen(model, before) if name.endswith(".running_mean")]
    assert moved == expected
    assert expected == [name for name, layer in bn_layers(model).items() if layer.training and layer.running_mean is not None]


@pytest.mark.parametrize("share, momentum, expected", [(0.5, 0.1, 7), (0.01, 0.1, 44), (0.01, 0.5, 7), (0.5, 0.01, 69)])
def test_how_long_an_old_mean_lasts(share, momentum, expected):
    layer = nn.BatchNorm1d(1, momentum=momentum).double()
    layer.running_mean.fill_(1.0)
    seen = 0
    while layer.running_mean.item() > share and seen < 1000:
        layer(torch.tensor([[1.0], [-1.0]], dtype=torch.double))  # a batch whose mean is 0
        seen += 1
    assert seen == expected == math.ceil(math.log(share) / math.log(1 - momentum))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_what_a_step_moves(mode, weights):
    layer = nn.BatchNorm2d(2).train(mode).requires_grad_(weights)
    before, loss = snapshot(layer), (layer(torch.randn(4, 2, 3, 3)) - 1).square().sum()
    if weights: loss.backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert set(verify_frozen(layer, before)) == ({"weight", "bias"} if weights else set()) | (STATISTICS if mode else set())


def test_train_and_eval_normalise_with_other_statistics():
    x = 5 + torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert abs(nn.BatchNorm2d(1)(x).mean().item()) < 1e-5
    assert nn.BatchNorm2d(1).eval()(x).mean().item() > 4


@pytest.mark.parametrize("count", [1, 2])
def test_a_frozen_layer_is_its_formula(count):
    layer, x = nn.BatchNorm2d(2).eval(), torch.arange(8.0).view(2, 2, 1, 2)[:count]
    layer.running_mean, layer.running_var = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 1e-5])
    layer.weight.data, layer.bias.data = torch.tensor([2.0, 0.01]), torch.tensor([0.0, 3.0])
    mean, variance = (values.view(1, -1, 1, 1) for values in (layer.running_mean, layer.running_var))
    weight, bias = (values.view(1, -1, 1, 1) for values in (layer.weight, layer.bias))
    torch.testing.assert_close(layer(x), weight * (x - mean) / torch.sqrt(variance + layer.eps) + bias)


@pytest.mark.parametrize("layer", KINDS, ids=str)
def test_eval_mode_lasts_for_every_kind_and_for_copies(layer):
    layer = copy.deepcopy(layer)
    set_bn_eval(layer)  # a root: there is no parent whose children could be searched
    assert not layer.train().training
    inside = nn.Sequential(nn.Sequential(layer))
    twin = copy.deepcopy(inside).train()
    assert not twin[0][0].training and twin[0][0].train.args[0] is twin[0][0]
    set_bn_train(inside)
    assert layer.training and not layer.eval().training and layer.train().training


def test_policies():
    moved, with_gradient = [], []
    for policy in BN_POLICIES:
        model = small_model()
        set_bn_policy(model.body, policy)
        before = snapshot(model.body)
        model.body.train()(torch.randn(4, 3, 8, 8)).sum().backward()
        moved.append(len(verify_frozen(model.body, before)))
        with_gradient.append(sum(weight.grad is not None for weight in model.body[1].parameters()))
    assert (moved, with_gradient) == ([3, 3, 0, 0], [2, 0, 2, 0])


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="unknown BN policy 'eval'"): set_bn_policy(nn.BatchNorm2d(2), "eval")


def test_fit_refuses_a_model_whose_policy_is_not_set():
    with pytest.raises(ValueError, match="call set_bn_policy"): fit(small_model(), batches(), batches(), bn_eval)


def test_recipes_differ_in_their_policies_alone():
    rates = [[phase.rates for phase in recipe.phases] for recipe in (feature_extractor, bn_eval, random_features)]
    assert rates[0] == rates[1] == rates[2]
    assert (feature_extractor.bn, bn_eval.bn) == ("statistics", "frozen")


@pytest.mark.parametrize("recipe, moved", [(feature_extractor, STATISTICS), (bn_eval, set())], ids=["feature_extractor", "bn_eval"])
def test_what_training_a_head_moves(recipe, moved):
    model = small_model()
    set_bn_policy(model.body, recipe.bn)
    before = snapshot(model.body)
    fit(model, batches(), batches(), recipe)
    assert {name.rsplit(".", 1)[1] for name in verify_frozen(model.body, before)} == moved


def test_a_head_trained_on_features_is_the_same_head():
    precision = choose_precision(torch.device("cpu"), precision="float32")

    def trained(part_and_batches):
        model = small_model()
        set_bn_policy(model.body, "frozen")
        freeze(model.body)
        optimizer = torch.optim.Adam(model.head.parameters(), lr=0.004)
        for epoch in range(2):
            part, seen = part_and_batches(model, epoch)
            train_epoch(part, seen, optimizer, precision=precision)
        return model

    slow = trained(lambda model, epoch: (model, batches()))
    quick = trained(lambda model, epoch: (model.head, feature_batches(model.body, batches(), epoch=epoch, precision=precision)))
    torch.testing.assert_close(quick.head[2].weight, slow.head[2].weight, rtol=1e-3, atol=1e-4)
    answers = [evaluate(model, batches()).correct for model in (slow, quick)]
    assert (answers[0] == answers[1]).mean() > 0.95
