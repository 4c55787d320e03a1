"""The training loop's edges: precision, seeds, the schedule, and recipes that don't fit their model."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from transfer_nbs.batches import mixing
from transfer_nbs.features import FeatureStore
from transfer_nbs.hardware import choose_precision
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import (Phase, Recipe, all_parameters, body_and_head, evaluate, fit, from_scratch,
                                   random_features, train_epoch)
from transfer_nbs.training_run import learning_groups

CPU = torch.device("cpu")


def small_model(seed=0, classes=2):
    "A body with a BN layer, and a head."
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    return model


def batches(batch_size=8):
    "32 images of noise, in a fixed order."
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(32) % 2), batch_size=batch_size)


def copied(model): return {name: value.clone() for name, value in model.state_dict().items()}


def equal(before, model): return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_evaluating_leaves_the_model_as_it_was():
    model, before = small_model(), copied(small_model())
    evaluate(model, batches())
    assert equal(before, model) and model.training
    model.body.eval()
    evaluate(model, batches())
    assert model.head.training and not model.body.training


def test_evaluating_in_other_batches_and_by_the_exact_way_of_bfloat16():
    model = small_model()
    once = evaluate(model, batches())
    other = evaluate(model, batches(batch_size=5))
    exact = evaluate(model, batches(), precision=choose_precision(CPU, precision="bfloat16").exact)
    assert (once.correct != other.correct).sum() <= 1 and (exact.correct == once.correct).all()
    assert once.correct.shape == (32,) and once.accuracy == pytest.approx(once.correct.mean())


@pytest.mark.parametrize("recipe", [from_scratch, random_features], ids=lambda recipe: recipe.name)
def test_same_seed_same_bits(recipe):
    first, again, other = small_model(0), small_model(0), small_model(1)
    histories = [fit(model, batches(), batches(), recipe) for model in (first, again, other)]
    assert histories[0].equals(histories[1]) and not histories[0].equals(histories[2])
    assert equal(copied(first), again)
    assert not torch.equal(first.head[2].weight, other.head[2].weight)


def test_groups_of_the_two_simplest_functions():
    model = small_model()
    assert [len(group) for group in all_parameters(model)] == [6]
    assert [len(group) for group in body_and_head(model)] == [4, 2]


def test_optimizer_freezes_what_has_no_rate():
    model = small_model()
    optimizer = torch.optim.Adam(learning_groups(body_and_head(model), Phase((None, 0.5)), lr=0.004))
    assert [group["lr"] for group in optimizer.param_groups] == [0.002]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] * 4 + [True] * 2
    learning_groups(body_and_head(model), Phase((0.1, 1.0)), lr=0.004)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_rates_that_do_not_fit_the_groups_are_refused():
    with pytest.raises(ValueError, match=r"rates \(1.0,\): give 2, None to freeze one"):
        learning_groups(body_and_head(small_model()), Phase((1.0,)), lr=0.004)


def test_learning_rate_falls_along_a_cosine_to_zero():
    rates, model = [], small_model()
    def keep(state):
        rates.append([group["lr"] for group in state["optimizer"]["param_groups"]])
        return False
    fit(model, batches(), batches(), Recipe("gentle", (Phase((0.1, 1.0)),)), epochs=4, lr=0.004, after_epoch=keep)
    for epoch, (body, head) in enumerate(rates, 1):
        assert head == pytest.approx(0.004 * (1 + math.cos(math.pi * epoch / 4)) / 2, abs=1e-9)
        assert body == pytest.approx(head / 10, abs=1e-9)


def test_class_weights_and_smoothing_count_in_the_loss():
    def loss(**options):
        options["precision"] = choose_precision(CPU, precision="float32")
        return fit(small_model(), batches(32), batches(32), Recipe("still", (Phase((1.0, 1.0)),)), epochs=1, lr=0.0, **options).train_loss[0]
    plain = loss()
    assert loss(class_weights=torch.ones(2)) == pytest.approx(plain) != pytest.approx(loss(class_weights=torch.tensor([1.0, 9.0])))
    images, labels = next(iter(batches(32)))
    expected = nn.functional.cross_entropy(small_model()(images), labels, label_smoothing=0.2).item()
    assert loss(label_smoothing=0.2) == pytest.approx(expected, rel=1e-4) != pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("recipe", [Recipe("all", (Phase((1.0, 1.0)),)), Recipe("head", (Phase((None, 1.0)),))])
def test_mixing_goes_on_where_it_stopped(recipe):
    "With a frozen backbone as well, whose features are those of the mixtures."
    def trained(**options):
        torch.manual_seed(0)
        mix, model = mixing(TrainSettings(mixup=1.0, cutmix=1.0), 2), small_model()
        fit(model, batches(), batches(), recipe, epochs=3, mix=mix, features=FeatureStore(), precision=choose_precision(CPU, precision="float32"), **options)
        return model.state_dict()
    states = []
    whole = trained(after_epoch=lambda state: states.append(copy.deepcopy(state)))
    again = trained(resume=states[0])
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_an_epoch_counts_what_went_by():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss, accuracy = train_epoch(model, batches(32), optimizer, precision=choose_precision(CPU, precision="float32"))
    images, labels = next(iter(batches(32)))
    logits = model(images)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


@pytest.mark.parametrize(("given", "told"), [
    (dict(epochs=1.5), "can't train for 1.5 epochs: use a whole number, 1 or more"), (dict(epochs=0), "can't train for 0 epochs"),
    (dict(epochs=math.inf), "can't train for inf epochs"), (dict(epochs=math.nan), "can't train for nan epochs"),
    (dict(lr=math.nan), "lr is nan: it must be a finite number, 0 or more"), (dict(lr=math.inf), "lr is inf"), (dict(lr=-1.0), "lr is -1.0")])
def test_options_that_cannot_be_are_refused_by_name(given, told):
    with pytest.raises(ValueError, match=told): fit(small_model(), batches(), batches(), from_scratch, **given)
