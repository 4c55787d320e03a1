"""A comparison that is stopped, damaged, taken up elsewhere or goes wrong: what it says, and what stays in its folder."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import models

from transfer_nbs.bundle import make_bundle
from transfer_nbs.chart import conclusion, format_table, plot_compare
from transfer_nbs.commands import transfer_compare
from transfer_nbs.compare import CompareSettings, compare, run_recipe
from transfer_nbs.recipes import BASELINES, RECIPES, train_recipe
from transfer_nbs.run_folder import read_record, read_result, read_run
from transfer_nbs.time_left import expected_work, seconds_left
from transfer_nbs.data import read_folder
from transfer_nbs.files import claim
from transfer_nbs.hardware import choose_precision
from transfer_nbs.training_run import DivergedError
from transfer_nbs.tables import read_winner, summarize, write_tables

ROOT = Path(__file__).parents[1]
SMALL = dict(recipes="bn_eval,random_features", seeds=1, epochs=1, size=32, device="cpu", order="first")
SETTINGS = CompareSettings(recipes=("bn_eval", "random_features"), seeds=1, epochs=1, size=32, device="cpu")


def draw(folder, counts):
    "A folder of noise: each class has a colour of its own, or nearly."
    dice = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = dice.integers(0, 200, (36, 36, 3)) + 55 * (np.arange(3) == number)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("data") / "images", {"left": 15, "right": 15})


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    transfer_compare(str(images), **SMALL, out=str(out))
    return out


@pytest.fixture
def stopped(finished, tmp_path):
    "A comparison whose second run is still to come."
    out = shutil.copytree(finished, tmp_path / "stopped")
    (out / "runs" / "random_features-0.json").unlink()
    return out


def status_and_lines(capsys, folder, **options):
    "Exit status of the command, called in this process, and its lines on standard error."
    capsys.readouterr()
    try: transfer_compare(str(folder), **{**SMALL, **options, "out": str(options["out"])})
    except SystemExit as stop: return stop.code, capsys.readouterr().err.strip().splitlines()
    return 0, capsys.readouterr().out.splitlines()


def assert_refused(capsys, folder, *words, **options):
    status, lines = status_and_lines(capsys, folder, **options)
    assert status == 2 and len(lines) == 1, lines
    for word in words: assert str(word) in lines[0], lines[0]


def answers(out):
    return [(read_result(out, name, 0)["correct"], read_result(out, name, 0)["history"]) for name in SETTINGS.recipes]


# Other images, another machine


def test_images_replaced_under_their_names(images, stopped, capsys, tmp_path):
    other = shutil.copytree(images, tmp_path / "other")
    for file in (other / "left").iterdir():
        stat = file.stat()
        Image.open(file).rotate(90).save(file)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_refused(capsys, other, stopped, "contents have changed", "another --out", out=stopped)
    assert not (stopped / "runs" / "random_features-0.json").exists()


def test_the_same_images_with_other_times_rights_and_names_of_their_folder(images, stopped, finished, tmp_path):
    shutil.copytree(images, tmp_path / "linked", copy_function=os.link)
    for number, file in enumerate(sorted((tmp_path / "linked").rglob("*.png"))):
        file.chmod(0o444)
        os.utime(file, (number, number))
    transfer_compare(str(tmp_path / "linked"), **SMALL, out=str(stopped))
    assert answers(stopped) == answers(finished)


@pytest.mark.parametrize("name, value, remedy", [("threads", 64, "OMP_NUM_THREADS=64"), ("torch", "1.13.1", "install torch 1.13.1"), ("processor", "riscv64 DEFAULT", "another --out"),
                                                 ("device", "cuda", "another --out")])
def test_begun_on_a_machine_that_computes_differently(images, stopped, capsys, name, value, remedy):
    record = read_record(stopped)
    record["computing"][name] = value
    (stopped / "run.json").write_text(json.dumps(record))
    assert_refused(capsys, images, name, value, remedy, out=stopped)


def test_a_finished_comparison_is_printed_anywhere(images, finished, capsys, tmp_path):
    out = shutil.copytree(finished, tmp_path / "elsewhere")
    record = read_record(out)
    record["computing"].update(threads=64, torch="1.13.1", processor="riscv64 DEFAULT")
    (out / "run.json").write_text(json.dumps(record))
    status, lines = status_and_lines(capsys, images, out=out)
    assert status == 0 and any("nothing was left to train" in line for line in lines)
    assert (out / "summary.csv").read_text() == (finished / "summary.csv").read_text()


def test_begun_by_a_version_that_kept_less(images, finished, stopped, capsys, tmp_path):
    whole = shutil.copytree(finished, tmp_path / "whole")
    for out in (whole, stopped):
        record = read_record(out)
        del record["computing"], record["data"]["images"]
        (out / "run.json").write_text(json.dumps(record))
    assert status_and_lines(capsys, images, out=whole)[0] == 0
    assert_refused(capsys, images, "earlier transfer_nbs", out=stopped)


def test_the_choice_of_numbers_never_flips(images, stopped, finished):
    "Measured again, the other precision would win; the comparison goes on as it began."
    begun = read_record(finished)["computing"]
    slow, fast = dict(float32=1.0, bfloat16=3.0), dict(float32=3.0, bfloat16=1.0)
    with patch("transfer_nbs.hardware.measured_precisions", lambda device: slow if begun["numbers"] == "bfloat16" else fast):
        assert str(choose_precision(torch.device("cpu")).dtype) != f"torch.{begun['numbers']}"
        transfer_compare(str(images), **SMALL, out=str(stopped))
    assert answers(stopped) == answers(finished) and read_record(stopped)["computing"] == begun


# Killed, stopped, two at once


@pytest.mark.parametrize("left", [[], [".run.json-0a1b2c3d.part", ".run.json.lock", "runs/"], ["run.json", "runs/", "split.csv"]])
def test_begins_after_a_kill_before_its_first_run(images, finished, left, tmp_path):
    "Names that end in / are folders; run.json is there and empty, as after a power cut."
    out = tmp_path / "out"
    out.mkdir()
    for name in left: (out / name).mkdir() if name.endswith("/") else (out / name).touch()
    transfer_compare(str(images), **SMALL, out=str(out))
    assert answers(out) == answers(finished) and not list(out.rglob("*.part"))


def test_a_broken_run_is_made_anew(images, stopped, finished):
    file = stopped / "runs" / "random_features-0.json"
    for content in (b"", b"\0" * 300, b"[]", b'{"row": {"valid_total": 6}, "correct": "01"}', b"\xff", b'{"row": {"recipe": "ra'):
        file.write_bytes(content)
        assert read_result(stopped, "random_features", 0) is None
        with pytest.raises(ValueError, match="isn't finished"): read_winner(stopped)
    (stopped / "runs" / ".bn_eval-0.json-0a1b2c3d.part").touch()
    transfer_compare(str(images), **SMALL, out=str(stopped))
    assert answers(stopped) == answers(finished) and not list(stopped.rglob("*.part"))


def test_a_broken_record_is_named(images, stopped, capsys):
    (stopped / "run.json").write_text('{"settings": ')
    assert_refused(capsys, images, stopped, "run.json is broken", "another --out", out=stopped)


def test_runs_without_a_record_are_not_taken_for_ours(images, stopped, capsys):
    (stopped / "run.json").unlink()
    assert_refused(capsys, images, "other files", out=stopped)


@pytest.mark.parametrize("options", [{}, {"lr": 0.1}])
def test_two_at_once(images, stopped, capsys, options):
    "Whoever writes there is not disturbed, with the same settings or with others."
    before = {path: path.read_bytes() for path in stopped.rglob("*.*")}
    with claim(stopped / "run.json"): assert_refused(capsys, images, "another program is writing there", "another --out", out=stopped, **options)
    assert {path: path.read_bytes() for path in stopped.rglob("*.*")} == before


def test_stopped_by_the_user(images, finished, capsys, tmp_path):
    from transfer_nbs import compare as module
    asked = []
    def once(*arguments, **options):
        asked.append(1)
        if len(asked) == 2: raise KeyboardInterrupt
        return run_recipe(*arguments, **options)
    run_recipe, out = module.run_recipe, tmp_path / "out"
    with patch.object(module, "run_recipe", once):
        assert status_and_lines(capsys, images, out=out) == (130, ["transfer_compare: stopped after 1 of 2 runs; the same command goes on from there"])
    status, lines = status_and_lines(capsys, images, out=out)
    assert status == 0 and any("1 of 2 runs are there already" in line for line in lines)
    assert answers(out) == answers(finished)


def test_a_full_disk_says_how_to_go_on(images, stopped, capsys):
    from transfer_nbs import runs as module
    write_file = module.write_file
    def full(path, content):
        if "runs" in str(path.parent.name): raise OSError(28, "No space left on device")
        write_file(path, content)
    with patch.object(module, "write_file", full): assert_refused(capsys, images, "random_features-0.json", "No space left", "goes on from there", out=stopped)


# Diverged


def test_one_recipe_diverges_and_the_others_go_on(images, capsys, tmp_path):
    out, options = tmp_path / "out", dict(recipes="bn_trainable,bn_eval", lr=1e30)
    status, lines = status_and_lines(capsys, images, out=out, **options)
    assert status == 0 and any("diverged" in line and "after epoch 1" in line and "1e+30" in line for line in lines), lines
    assert any(line.startswith("diverged at learning rate 1e+30: bn_trainable; try a smaller --lr") for line in lines)
    summary, results = pd.read_csv(out / "summary.csv").set_index("recipe"), pd.read_csv(out / "results.csv").set_index("recipe")
    assert dict(summary.verdict) == {"bn_trainable": "diverged", "bn_eval": "best"} and dict(results.diverged) == {"bn_trainable": True, "bn_eval": False}
    for path in out.rglob("*.json"): json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path.name} holds {name}"))
    assert read_winner(out)[0] == "bn_eval"
    made = (out / "runs" / "bn_trainable-0.json").stat().st_mtime_ns
    assert status_and_lines(capsys, images, out=out, **options)[0] == 0 and (out / "runs" / "bn_trainable-0.json").stat().st_mtime_ns == made


def test_every_recipe_diverges(images, capsys, tmp_path):
    status, lines = status_and_lines(capsys, images, out=tmp_path / "out", recipes="bn_trainable", lr=1e30)
    assert status == 0 and any(line.startswith("bn_trainable diverged (1 seed") for line in lines)
    with pytest.raises(ValueError, match="every recipe diverged"): read_winner(tmp_path / "out")


def test_diverged_in_the_last_batch(images):
    "The losses of all batches were numbers, and the last step made the weights none."
    table, step = read_folder(images), torch.optim.Adam.step
    def spoil(self, *arguments, **options):
        step(self, *arguments, **options)
        spoil.left -= 1
        if not spoil.left:
            with torch.no_grad(): self.param_groups[0]["params"][0].fill_(float("nan"))
    spoil.left = 2  # batches of 16 and 8
    with patch.object(torch.optim.Adam, "step", spoil), pytest.raises(DivergedError, match="a weight is no finite number after epoch 1 at learning rate 0.004") as caught:
        train_recipe(RECIPES["from_scratch"], replace(SETTINGS, precision="float32"), table, images)
    assert caught.value.epoch == 1 and np.isfinite(caught.value.history[0]["train_loss"])


# One model, one number


@pytest.mark.parametrize("recipe", ["bn_eval", "bn_trainable"])
def test_evaluated_as_its_bundle_predicts(images, recipe):
    "Trained in bfloat16, on stored features and without: loss and answers are those that the bundle gives."
    table, settings = read_folder(images, valid_fraction=0.5), replace(SETTINGS, precision="bfloat16")
    trained = train_recipe(RECIPES[recipe], settings, table, images)
    bundle = make_bundle(trained.model, trained.spec, recipe=RECIPES[recipe], settings=dict(arch="resnet18"), table=table, folder=images)
    valid = table[table["split"] == "valid"]
    logits, _ = bundle.logits([images / file for file in valid["file"]], device="cpu")
    labels = torch.tensor([trained.spec.class_names.index(name) for name in valid["class"]])
    assert (trained.correct == (logits.argmax(1) == labels).numpy()).all()
    assert trained.history["valid_accuracy"].iloc[-1] == pytest.approx(bundle.results["valid"]["accuracy"])
    assert trained.history["valid_loss"].iloc[-1] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


# How long it will take


def test_time_left_is_weighed_by_recipe():
    "After the cheapest of four recipes, the three dear ones are not expected to be as quick."
    names = ("random_features", "bn_trainable", "from_scratch", "discriminative_bn_trainable")
    work = {name: expected_work(RECIPES[name], 2, train=1000, valid=1000, stored=False) for name in names}
    real = dict(random_features=3.0, bn_trainable=6.0, from_scratch=9.0, discriminative_bn_trainable=8.0)
    finished = []
    for done, name in enumerate(names[:-1], start=1):
        finished.append((name, real[name]))
        left = sum(real[name] for name in names[done:])
        assert left / 2 < seconds_left(names[done:], finished, work=work, earlier={}) < 2 * left


def test_time_left_after_features_that_were_there():
    "A run that found its features says little about one that has none, and the other way round."
    stored, fresh = (expected_work(RECIPES["bn_eval"], 2, train=1000, valid=1000, stored=there) for there in (True, False))
    work, kinds = {("bn_eval", True): stored, ("bn_eval", False): fresh}, [("bn_eval", True)]
    assert seconds_left(kinds, [(("bn_eval", False), 10.0)], work=work, earlier={}) < 2
    assert seconds_left([("bn_eval", False)], [(kinds[0], 1.0)], work=work, earlier={("bn_eval", False): 10.0}) == pytest.approx(10)


# The common class


def test_the_commonest_class_stands_beside_the_accuracies(capsys, tmp_path):
    images, out = draw(tmp_path / "images", {"common": 45, "rare": 5}), tmp_path / "out"
    status, lines = status_and_lines(capsys, images, out=out)
    assert status == 0 and "always answering common would be right in 90.0%" in lines
    assert any(line.startswith("recall of each class with ") and "common " in line and "rare " in line for line in lines)
    (_, correct), summary = read_run(out), pd.read_csv(out / "summary.csv").set_index("recipe")
    rare = np.array([file.startswith("rare") for file in pd.read_csv(out / "split.csv").query("split == 'valid'")["file"]])
    for name, right in correct.items(): assert summary.balanced_accuracy[name] == pytest.approx((right[:, rare].mean() + right[:, ~rare].mean()) / 2)
    with patch("transfer_nbs.tables.plot_compare", wraps=plot_compare) as plot: write_tables(out)
    assert plot.call_args.kwargs["commonest"] == pytest.approx(0.9)


# Settings, runs and tables


@pytest.fixture(scope="module")
def without_bn(images, tmp_path_factory):
    "A comparison on a network that has no BN layer, and its settings."
    weights = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1().state_dict(), weights)
    names = ("feature_extractor", "bn_eval", "discriminative_bn_frozen", "bn_trainable", "discriminative_bn_trainable", "random_features")
    settings = CompareSettings(recipes=names, seeds=2, epochs=2, size=64, device="cpu", arch="squeezenet1_1", weights=str(weights))
    out, said = tmp_path_factory.mktemp("runs") / "without_bn", []
    compare(settings, read_folder(images), images, out=out, say=said.append)
    return settings, out, said


def test_recipes_that_are_the_same_training_are_run_once(images, without_bn, capsys):
    "They aren't ranked against each other, nor counted in the correction for many comparisons."
    settings, out, said = without_bn
    same = dict(bn_eval="feature_extractor", bn_trainable="feature_extractor", discriminative_bn_trainable="discriminative_bn_frozen")
    assert read_record(out)["same"] == same and len([line for line in said if "/6" in line]) == 6
    summary, (results, correct) = write_tables(out).set_index("recipe"), read_run(out)
    assert set(results.recipe) == set(correct) == set(settings.recipes) - set(same) and len(results) == 6
    assert set(summary.index) == set(settings.recipes)
    alone = summarize(results, correct).set_index("recipe")
    for name, first in same.items():
        assert summary.verdict[name] == f"same as {first}" and summary.verdict[first] == alone.verdict[first]
        assert summary["mean"][name] == summary["mean"][first]
    told = conclusion(summary.reset_index())
    assert told.endswith("; on this network, bn_eval and bn_trainable the same as feature_extractor, "
                         "discriminative_bn_trainable the same as discriminative_bn_frozen")
    assert max(map(len, format_table(summary.reset_index()).splitlines())) <= 100
    assert read_winner(out)[0] in correct
    compare(settings, read_folder(images), images, out=out, say=said.append)
    assert said[-1] == "all 6 runs are there already: nothing was left to train"


@pytest.mark.parametrize("name, first", [("bn_eval", "feature_extractor"), ("bn_trainable", "feature_extractor"), ("discriminative_bn_trainable", "discriminative_bn_frozen")])
def test_the_same_training_gives_the_same_bits(images, without_bn, name, first):
    settings, out, _ = without_bn
    made = run_recipe(RECIPES[name], settings, read_folder(images), images, seed=1)
    there = read_result(out, first, 1)
    assert (made["correct"], made["history"]) == (there["correct"], there["history"])


def test_a_comparison_that_began_without_goes_on_without(images, without_bn, tmp_path):
    "Of an earlier version: every recipe has runs of its own there."
    settings, out, _ = without_bn
    out, said = shutil.copytree(out, tmp_path / "old"), []
    record = read_record(out)
    del record["same"]
    (out / "run.json").write_text(json.dumps(record))
    compare(settings, read_folder(images), images, out=out, say=said.append)
    assert "6 of 12 runs are there already, going on" in said and len(read_run(out)[1]) == 6


def test_settings_that_cannot_work_are_refused():
    for wrong, words in ((dict(recipes=("bn_evil",)), "unknown recipe 'bn_evil': did you mean bn_eval?"), (dict(seeds=0), "seeds is 0: it must be above 0"),
                         (dict(size=16), "size is 16: most networks divide it by 32")):
        with pytest.raises(ValueError, match=re.escape(words)): CompareSettings(**wrong)


def test_a_run_that_diverges_keeps_what_it_has(images):
    table = read_folder(images)
    lost = run_recipe(RECIPES["bn_trainable"], replace(SETTINGS, lr=1e30), table, images)
    assert "no finite number after epoch 1 at learning rate 1e+30: try a smaller --lr" in lost["diverged"]
    assert lost["history"][-1]["valid_loss"] is None and len(lost["correct"]) == (table["split"] == "valid").sum()
    json.dumps(lost, allow_nan=False)
    assert "diverged" not in run_recipe(RECIPES["bn_eval"], SETTINGS, table, images)


def test_a_finished_comparison_goes_on_nowhere(images, finished, tmp_path):
    "Nothing is left to train, so another number of threads doesn't matter; for a run that is missing it does."
    out, table, threads = shutil.copytree(finished, tmp_path / "out"), read_folder(images, order="first"), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        said = []
        compare(SETTINGS, table, images, out=out, say=said.append)
        assert said == ["all 2 runs are there already: nothing was left to train"]
        (out / "runs" / "random_features-0.json").unlink()
        with pytest.raises(ValueError, match=f"set OMP_NUM_THREADS={threads}"): compare(SETTINGS, table, images, out=out, say=said.append)
    finally: torch.set_num_threads(threads)


def test_columns_of_the_tables(finished):
    columns = "recipe,seed,valid_accuracy,valid_correct,valid_total,trained_parameters,seconds,images_per_second,peak_memory_mb,balanced_accuracy,diverged"
    assert (finished / "results.csv").read_text().splitlines()[0] == columns
    assert (finished / "summary.csv").read_text().splitlines()[0] == "recipe,runs,mean,low,high,errors,seconds,verdict,balanced_accuracy"
    assert (finished / "compare.png").stat().st_size > 10_000
    results, correct = read_run(finished)
    for row in results.itertuples(): assert row.valid_accuracy == pytest.approx(correct[row.recipe][row.seed].mean())


def test_recipes_that_diverged_in_table_and_chart():
    common = np.arange(100) < 93
    correct = {"lazy": common[None], "keen": np.array([np.arange(100) % 10 > 0])}
    results = pd.DataFrame(dict(recipe=["lazy", "keen"], seed=0, valid_accuracy=[0.93, 0.9], seconds=1.0, diverged=[True, False]))
    one, both = summarize(results, correct), summarize(results.assign(diverged=True), correct)
    assert one.verdict.tolist() == ["diverged", "best"] and conclusion(one) == "keen is left; lazy diverged"
    assert format_table(one).splitlines()[1].split()[0] == "keen"
    assert both.verdict.tolist() == ["diverged"] * 2 and conclusion(both) == "every recipe diverged"
    for summary in (one, both):
        ax = plot_compare(summary, results, commonest=0.93)
        assert "dotted" in ax.get_xlabel() and ax.get_xlim()[1] > 0.93
        plt.close(ax.figure)


@pytest.mark.parametrize("run", ["practice", "practice_unseen", "camouflage"])
def test_table_and_chart_of_the_committed_comparisons(run):
    "The baselines are far behind, the table fits 100 columns, and the chart says the same in the same order."
    results, correct = read_run(ROOT / "nbs" / "results" / run)
    summary, baselines = summarize(results, correct), {recipe.name for recipe in BASELINES}
    means = summary.set_index("recipe")["mean"]
    assert means.max() - means[list(baselines)].max() > 0.05 and means.max() < 0.995
    assert summary.verdict[summary.recipe.isin(baselines)].str.startswith("worse").all()
    long = summary.assign(recipe=["a_recipe_with_a_name_that_is_far_too_long_to_print", *summary.recipe[1:]])
    for table in (summary, long): assert max(map(len, format_table(table).splitlines())) <= 100
    assert format_table(summary).splitlines()[1].split()[-1] == "best"
    ax = plot_compare(summary, results)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0] == summary.recipe[summary.verdict == "best"].iloc[0] and set(names[-2:]) == baselines
    assert ax.get_title(loc="left").replace("\n", " ") == conclusion(summary)
    plt.close(ax.figure)
