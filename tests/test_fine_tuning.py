"""Fine-tuning recipes: which parameters move and how fast, where the head begins, and what is averaged."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transfer_nbs.backbone import bn_layers, get_model
from transfer_nbs.blocks import bn_blocks_head, bn_quarters_head, find_blocks
from transfer_nbs.clothes import Patterns, practice_folder
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.fine_tuning import adamw_one_cycle, adamw_to_start, average_weights, model_soup, soup_seeds
from transfer_nbs.linear_probe import fit_probe, linear_probe
from transfer_nbs.recipes import FINE_TUNING, GROUPS, RECIPES, build_model, recipe_names, train_recipe
from transfer_nbs.settings import TrainSettings
from transfer_nbs.training import adam_cosine
from transfer_nbs.training_run import check_groups, learning_groups, phase_rates
from transfer_nbs.views import ImageSpec

SETTINGS = TrainSettings(size=32, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def images():
    folder = practice_folder(Patterns(n=40, n_valid=20))
    return read_folder(folder), folder


def rates_by_name(recipe, model):
    "Of the last phase: the learning rate of each parameter in the optimizer."
    optimizer, _ = recipe.optimizer(learning_groups(recipe.groups(model), recipe.phases[-1], lr=1.0), steps=100)
    peak = "max_lr" if "max_lr" in optimizer.param_groups[0] else "initial_lr"
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group[peak] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1", "alexnet",
                                  "googlenet", "regnet_y_400mf", "convnext_tiny", "swin_t", "vit_b_32"])
def test_groups_by_depth_are_complete_and_in_order(arch):
    model = get_model(arch, 2, weights="random")
    for groups in bn_blocks_head, bn_quarters_head: check_groups(model, groups(model))
    assert len(find_blocks(model.body)) >= 4 and len(bn_quarters_head(model)) == 6
    order = {id(p): number for number, p in enumerate(model.body.parameters())}
    firsts = [min(order[id(p)] for p in block) for block in find_blocks(model.body)]
    assert firsts == sorted(firsts)
    bn = {id(p) for layer in bn_layers(model.body).values() for p in layer.parameters()}
    assert {id(p) for p in bn_blocks_head(model)[0]} == bn


def test_layer_decay_falls_by_a_factor_from_block_to_block():
    model = get_model("vit_b_32", 2, weights="random")
    rates = phase_rates(RECIPES["layer_decay"].phases[0], bn_blocks_head(model))
    assert len(rates) == 1 + 13 + 1 and rates[0] is None
    assert [low / high for low, high in zip(rates[1:-2], rates[2:-1])] == pytest.approx([0.75] * 12) and rates[-1] > rates[-2]
    lrs = rates_by_name(RECIPES["layer_decay"], model)
    assert lrs["body.encoder.layers.encoder_layer_0.mlp.0.weight"] == pytest.approx(lrs["body.encoder.layers.encoder_layer_11.mlp.0.weight"] * 0.75**11)


def test_one_block_learns_and_the_others_stay():
    model = get_model("resnet18", 2)
    for name, stage in (("first_block", "layer1"), ("last_block", "layer4")):
        learning = {name.split(".")[1] for name in rates_by_name(RECIPES[name], model) if name.startswith("body.")}
        assert learning - {"conv1"} == {stage}
    assert not any("bn" in name for name in rates_by_name(RECIPES["last_block"], model))


def test_gradual_unfreezing_adds_a_quarter_in_each_phase():
    model, recipe = get_model("resnet18", 2), RECIPES["gradual_unfreezing"]
    learning = [[rate is not None for rate in phase_rates(phase, recipe.groups(model))] for phase in recipe.phases]
    assert learning == [[False] * (5 - number) + [True] * (1 + number) for number in range(5)]
    *_, last = recipe.phases
    assert [low / high for low, high in zip(last.rates[1:4], last.rates[2:5])] == pytest.approx([1 / 2.6] * 3)


def test_decay_is_on_weights_alone():
    model = get_model("convnext_tiny", 2, weights="random")
    optimizer, _ = adamw_one_cycle([dict(params=list(model.parameters()), lr=0.1)], steps=10)
    assert {group["weight_decay"] > 0: {p.dim() > 1 for p in group["params"]} for group in optimizer.param_groups} == {True: {True}, False: {False}}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 100])
def test_rates_rise_and_fall(steps):
    optimizer, schedule = adamw_one_cycle([dict(params=[nn.Parameter(torch.zeros(2, 2))], lr=0.1)], steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), schedule.step()
    assert max(rates) <= 0.1 + 1e-9
    if steps >= 10: assert max(rates) > 0.09 and rates.index(max(rates)) == pytest.approx(0.3 * steps, abs=1.5) and rates[-1] < 0.001


def test_the_pull_is_towards_the_start_and_the_heads_decay_towards_zero():
    body, head = nn.Parameter(torch.full((2, 2), 5.0)), nn.Parameter(torch.full((2, 2), 5.0))
    optimizer, _ = adamw_to_start([dict(params=[body], lr=0.1), dict(params=[head], lr=0.1)], steps=10)
    with torch.no_grad(): body += 1
    body.grad, head.grad = torch.zeros(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert (body < 6).all() and (body > 5).all() and (head < 5).all()
    again, _ = adamw_to_start([dict(params=[body], lr=0.1), dict(params=[head], lr=0.1)], steps=10)
    again.load_state_dict(optimizer.state_dict())  # a run that goes on knows where it started
    assert torch.equal(again.param_groups[0]["start"][0], torch.full((2, 2), 5.0))


def test_the_probe_has_converged():
    torch.manual_seed(0)
    features, labels = torch.randn(90, 5, dtype=torch.float64), torch.arange(90) % 3
    probe = linear_probe(features, labels, strength=0.01, classes=3)
    probe.requires_grad_(True)
    loss = F.cross_entropy(probe(features), labels) + 0.01 * probe.weight.square().sum()
    assert max(gradient.abs().max() for gradient in torch.autograd.grad(loss, list(probe.parameters()))) < 1e-4


def test_the_probe_is_the_head_that_lp_ft_begins_with(images):
    table, folder = images
    spec = ImageSpec(tuple(sorted(set(table["class"]))), size=32)
    loader, _ = make_loaders(table, folder, spec, batch_size=8)
    model, before = build_model(RECIPES["lp_ft"], SETTINGS, num_classes=10), torch.get_rng_state()
    body = {name: value.clone() for name, value in model.body.state_dict().items()}
    fit_probe(model, loader)
    assert torch.equal(torch.get_rng_state(), before)  # the order of the images is that of the other recipes
    assert all(torch.equal(value, body[name]) for name, value in model.body.state_dict().items())
    history = train_recipe(RECIPES["lp_ft"], SETTINGS, table, folder).history
    scratch = train_recipe(RECIPES["full_bn_frozen"], SETTINGS, table, folder).history
    assert history.train_loss[0] < scratch.train_loss[0]


def test_the_probe_counts_classes_by_their_weights(images):
    table, folder = images
    loader, _ = make_loaders(table, folder, ImageSpec(tuple(sorted(set(table["class"]))), size=32), batch_size=8)
    model = build_model(RECIPES["lp_ft"], SETTINGS, num_classes=10)
    fit_probe(model, loader, torch.tensor([1e4] + 9 * [1e-4]))
    logits = model.eval()(loader.dataset[list(range(40))][0])
    assert (logits.argmax(1) == 0).all()


def test_a_soup_is_the_mean_of_runs_with_seeds_of_their_own(images):
    table, folder = images
    soup = train_recipe(model_soup, SETTINGS, table, folder, seed=1)
    runs = [train_recipe(RECIPES["lp_ft"], SETTINGS, table, folder, seed=seed) for seed in soup_seeds(1, 3)]
    mean = average_weights([run.model.state_dict() for run in runs])
    assert list(soup_seeds(1, 3)) == [3, 4, 5]
    assert all(torch.equal(value, mean[name]) for name, value in soup.model.state_dict().items())
    assert len(soup.history) == 6 and not torch.equal(mean["head.linear.weight"], runs[0].model.state_dict()["head.linear.weight"])


def test_groups_of_recipes():
    assert recipe_names("article") == GROUPS["article"] and len(GROUPS["article"]) == 7
    assert recipe_names("full,article,full") == ("full", *GROUPS["article"])
    assert recipe_names("all") == tuple(RECIPES)
    assert recipe_names(" full , bn_eval") == ("full", "bn_eval")
    for wrong in ("", "full,", ","):
        with pytest.raises(ValueError, match="name one or more, separated by single commas"): recipe_names(wrong)
    with pytest.raises(ValueError, match="unknown recipe 'al': use some of .*, article, baselines, all"): recipe_names("al")


def test_the_articles_recipes_keep_their_optimizer():
    assert {RECIPES[name].optimizer for name in (*GROUPS["article"], *GROUPS["baselines"])} == {adam_cosine}
    assert all(recipe.optimizer is not adam_cosine for recipe in FINE_TUNING)


@pytest.mark.parametrize("recipe", FINE_TUNING, ids=lambda recipe: recipe.name)
def test_same_seed_same_bits(recipe, images):
    small = SimpleNamespace(folder=images[1], table=images[0])
    one, two = (train_recipe(recipe, SETTINGS, small.table, small.folder, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values()))
