"""From a folder to a bundle: killed at any moment, on a full disk, with other settings, from a comparison, and on real photographs."""

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from forks import BIN, run, run_alone
from test_commands import REAL, assert_one_line_error

from transfer_nbs.weight_files import read_weights
from transfer_nbs.bundle import _digest, load_bundle
from transfer_nbs.clothes import Camouflage, make_clothes
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, train_recipe
from transfer_nbs.folders import split_hash
from transfer_nbs.files import claim
from transfer_nbs.split_folder import split_folder
from transfer_nbs.training_run import DivergedError
from transfer_nbs.bundle import checkpoint_path
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.commands import transfer_compare, transfer_fit
from transfer_nbs.fit_command import DEFAULT_RECIPE, choose_settings
from transfer_nbs.tables import read_winner
from transfer_nbs.your_images import fit_bundle, read_parts

KILLS = int(os.environ.get("TRANSFER_KILLS", "1").replace("all", "20"))  # random moments at which a training is killed
SEED = int(os.environ.get("TRANSFER_SEED", random.SystemRandom().randrange(10**6)))  # of these moments
SMALL = ["--recipe", "deeper_head", "--epochs", "4", "--size", "32", "--device", "cpu", "--test_fraction", "0.2"]
ASKED = dict(recipe="deeper_head", epochs=4, size=32, device="cpu", test_fraction=0.2)  # the same, as options of the function
TINY = dict(arch="shufflenet_v2_x0_5", weights="random")  # a thirtieth of a resnet18, with BN layers too
SETTINGS = FitSettings("deeper_head", epochs=4, size=32, device="cpu")


@pytest.fixture(scope="session")
def figures(tmp_path_factory):
    "Ninety drawn figures of 40 pixels, in two classes."
    return make_clothes(tmp_path_factory.mktemp("data") / "figures", Camouflage(n=90, size=40), workers=1)


@pytest.fixture(scope="session")
def table(figures):
    return read_parts(figures, test_fraction=0.2)


@pytest.fixture(scope="session")
def left_alone(figures, tmp_path_factory):
    "A bundle whose training nobody disturbed, and what the command said."
    out = tmp_path_factory.mktemp("fits") / "alone"
    done = run("transfer_fit", figures, *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def halfway(figures, table, tmp_path):
    "A training that stopped after its second of four epochs."
    def stop(line):
        if line.startswith("epoch  2"): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="stopped after epoch 2 of 4; the same command goes on from half.checkpoint"):
        fit_bundle(SETTINGS, table, figures, out=tmp_path / "half", say=stop)
    return tmp_path / "half"


def assert_same_weights(one, other):
    "Equal to the bit, and not only the weights: everything that was measured too."
    first, second = (read_weights(Path(path) / "model.safetensors") for path in (one, other))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert load_bundle(one).results == load_bundle(other).results


def start(*command):
    "The command in a process of its own, which hears Ctrl-C even where the tests were told not to, as in the background of a shell."
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([str(BIN / "transfer_fit"), *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hear)


def assert_refused(capsys, folder, *words, **options):
    "The command called within this process, which spares the seconds of its start: exit status 2, and one line that holds all of the words."
    with pytest.raises(SystemExit) as stop: transfer_fit(str(folder), **{name: str(value) if isinstance(value, Path) else value for name, value in options.items()})
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    for word in words: assert str(word) in lines[0], lines[0]


# Killed


@pytest.mark.slow
def test_killed_at_random_moments(figures, left_alone, tmp_path):
    "Killed without warning, again and again, it ends in the weights of a run that was left alone."
    print(f"TRANSFER_SEED={SEED}")
    dice, killed, rounds, begun = random.Random(SEED), 0, 0, time.perf_counter()
    assert run_alone("transfer_fit", figures, *SMALL, "--out", tmp_path / "timed").returncode == 0  # a process of its own, as those that are killed
    whole = time.perf_counter() - begun
    while killed < KILLS:  # a training may end before it was killed so often; then comes another
        out, rounds = tmp_path / f"killed {rounds}", rounds + 1
        while killed < KILLS and not out.exists():
            process = start(figures, *SMALL, "--out", out)
            try: process.wait(timeout=dice.uniform(0.4, 1) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
                print("killed after", len(torch.load(checkpoint_path(out), weights_only=True)["state"]["history"]) if checkpoint_path(out).exists() else 0, "epochs")
        done = run("transfer_fit", figures, *SMALL, "--out", out)
        assert done.returncode == 0, done.stderr
        assert_same_weights(out, left_alone[0])
        assert not checkpoint_path(out).exists()


@pytest.fixture(scope="session")
def undisturbed(figures, table, tmp_path_factory):
    "Settings of a recipe, and the bundle of a training that nobody stopped, made once for all epochs."
    @cache
    def make(recipe):
        settings, out = FitSettings(recipe, epochs=3, size=32, device="cpu", balance="sampling", **TINY), tmp_path_factory.mktemp("fits") / recipe
        fit_bundle(settings, table, figures, out=out, say=lambda line: None)
        return settings, out
    return make


@pytest.mark.parametrize("recipe, epoch", [*product(("feature_extractor", "discriminative_bn_trainable"), (1, 2, 3)),
                                           ("lp_ft", 1), ("l2_sp", 2), ("gradual_unfreezing", 2)])
def test_goes_on_after_each_epoch(recipe, epoch, figures, table, undisturbed, tmp_path):
    "In the middle of a phase and between two, with BN statistics that move and those that don't, and with all that an optimizer keeps."
    settings, alone = undisturbed(recipe)
    def stop(line):
        if line.startswith(f"epoch  {epoch}"): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_bundle(settings, table, figures, out=tmp_path / "stopped", say=stop)
    fit_bundle(settings, table, figures, out=tmp_path / "stopped", say=lambda line: None)
    assert_same_weights(tmp_path / "stopped", alone)


def test_a_soup_goes_on_in_any_of_its_runs(figures, table, tmp_path):
    "A run that is finished isn't trained again, and all checkpoints go when the bundle is there."
    settings, said, out = FitSettings("model_soup", epochs=1, size=32, device="cpu", **TINY), [], tmp_path / "out [1]*"
    def stop(line):
        said.append(line)
        if len(said) == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_bundle(settings, table, figures, out=out, say=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out [1]*.checkpoint-1", "out [1]*.checkpoint-2"]
    said.clear()
    bundle = fit_bundle(settings, table, figures, out=out, say=said.append)
    assert "out [1]*.checkpoint-1 is there, and its training is finished" in said
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and bundle.recipe["soup"] == 3
    fit_bundle(settings, table, figures, out=out, say=said.append)
    assert "nothing was trained" in said[-1]


def test_as_many_epochs_as_the_images_need(figures, tmp_path, capsys):
    "And no more than are needed once the validation loss has stopped falling; what is asked for wins."
    common = dict(size=32, device="cpu", recipe="bn_eval", lr=0.1, out=str(tmp_path / "out"))
    transfer_fit(str(figures), **common)
    said = capsys.readouterr().out
    assert "20 epochs, fewer where 10 in a row don't lower the validation loss: about" in said
    settings = load_bundle(tmp_path / "out").settings
    assert (settings["epochs"], settings["patience"]) == (20, 10) and settings["epochs_run"] < 20
    transfer_fit(str(figures), **{**common, "out": str(tmp_path / "asked")}, epochs="auto", patience=1)
    assert load_bundle(tmp_path / "asked").settings["patience"] == 1
    capsys.readouterr()
    for wrong in ("many", 1.5, True, "1_0", [2]): assert_refused(capsys, figures, f"epochs is {wrong!r}: give a whole number, or auto", epochs=wrong, out=tmp_path / "none")


def test_without_a_recipe_it_is_the_default(figures, tmp_path, capsys):
    transfer_fit(str(figures), size=32, device="cpu", epochs=1, out=str(tmp_path / "out"))
    assert load_bundle(tmp_path / "out").recipe["name"] == DEFAULT_RECIPE
    assert "still learning" not in capsys.readouterr().out  # one epoch shows no fall
    assert_refused(capsys, figures, "unknown recipe ''", recipe="", out=tmp_path / "none")


@pytest.mark.parametrize("first, second, left", [("model_soup", "lp_ft", "out.checkpoint-1"), ("lp_ft", "model_soup", "out.checkpoint")])
def test_a_soup_and_another_recipe_see_each_others_checkpoints(first, second, left, figures, table, tmp_path):
    def stop(line): raise KeyboardInterrupt
    def fit(recipe): fit_bundle(FitSettings(recipe, epochs=2, size=32, device="cpu", **TINY), table, figures, out=tmp_path / "out", say=stop)
    with pytest.raises(KeyboardInterrupt): fit(first)
    with pytest.raises(ValueError, match=f"{left} holds a training with recipe {first}, not {second}"): fit(second)
    assert [path.name for path in tmp_path.iterdir()] == [left]


def test_interrupt_finishes_the_epoch(figures, left_alone, tmp_path):
    out = tmp_path / "stopped"
    process = start(figures, *SMALL, "--epochs", "40", "--out", out)
    while process.poll() is None and not checkpoint_path(out).exists(): time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "finishing this epoch" in said and "Traceback" not in said
    epochs = len(torch.load(checkpoint_path(out), weights_only=True)["state"]["history"])
    assert f"stopped after epoch {epochs} of 40; the same command goes on from stopped.checkpoint" in said.splitlines()[-1]
    assert not out.exists()


# Disks and folders


def test_goes_on_without_room_for_the_cache(figures, table, halfway, left_alone, tmp_path, monkeypatch):
    "Decoded pictures and features were kept on disk when it began, and can't be any more."
    monkeypatch.setattr("transfer_nbs.cache.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr("transfer_nbs.cache._CACHE_GB", 0)
    fit_bundle(SETTINGS, table, figures, out=halfway, say=lambda line: None)
    assert {path.name.split("-")[0] for path in (tmp_path / "cache" / "computed").iterdir()} <= {"precision"}  # some bytes
    assert_same_weights(halfway, left_alone[0])


def test_full_disk_keeps_the_last_checkpoint(figures, table, halfway, left_alone, capsys):
    "No file may grow beyond a megabyte, so that the next checkpoint can't be written."
    before = checkpoint_path(halfway).read_bytes()
    beside = sorted(path.name for path in halfway.parent.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try: assert_refused(capsys, figures, "half.checkpoint: can't be written (File too large), and what was there is as it was; "
                        "make room, and the same command goes on from it", **ASKED, out=halfway)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_path(halfway).read_bytes() == before
    assert sorted(path.name for path in halfway.parent.iterdir()) == beside
    transfer_fit(str(figures), **ASKED, out=str(halfway))
    assert_same_weights(halfway, left_alone[0])


def test_full_disk_in_the_end_keeps_the_training(figures, table, halfway, left_alone, monkeypatch):
    "The training is over, and then the bundle can't be written."
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("transfer_nbs.bundle.save_file", full)
    with pytest.raises(OSError, match="No space left on device.*the training is kept"): fit_bundle(SETTINGS, table, figures, out=halfway)
    assert not halfway.exists() and torch.load(checkpoint_path(halfway), weights_only=True)["finished"]
    monkeypatch.undo()
    monkeypatch.setattr("transfer_nbs.checkpoint.train_recipe", None)  # nothing is left to train
    fit_bundle(SETTINGS, table, figures, out=halfway)
    assert_same_weights(halfway, left_alone[0])


def test_nothing_that_was_there_is_lost(figures, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert_one_line_error(run("transfer_fit", figures, *SMALL, "--out", tmp_path / "mine"), "thesis.txt", "choose another folder")
    assert_refused(capsys, figures, "thesis.txt", **ASKED, out=tmp_path / "mine" / "thesis.txt" / "model")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "thesis.txt"]


@pytest.mark.parametrize("change, words", [(dict(epochs=5), "epochs 4, not 5"), (dict(lr=0.01), "lr 0.004, not 0.01"), (dict(balance="weights"), "balance none, not weights"),
                                           (dict(seed=1), "seed 0, not 1"), (dict(test_fraction=0.3), "with split"), (dict(valid_fraction=0.3), "with split")])
def test_half_done_with_other_settings_is_refused(change, words, figures, table, halfway, capsys):
    before = checkpoint_path(halfway).read_bytes()
    assert_refused(capsys, figures, "half.checkpoint holds a training", words, "choose another --out", **{**ASKED, **change}, out=halfway)
    assert checkpoint_path(halfway).read_bytes() == before


def touch_all(folder):
    "What a backup by hard links and an unpacked archive do: rights, times and numbers of links change, contents don't."
    for number, file in enumerate(sorted(folder.glob("*/*.jpg"))):
        file.chmod(0o600)
        os.utime(file, (number, number))
        os.link(file, file.with_suffix(".backup"))


def replace_one(folder, table, side):
    "Put the content of one image under the name of another of the same side."
    first, second = table["file"][table["split"] == side].iloc[:2]
    shutil.copy(folder / first, folder / second)


def test_contents_decide_whether_a_training_goes_on(figures, halfway, left_alone, tmp_path, capsys):
    others = Path(shutil.copytree(figures, tmp_path / "others"))
    touch_all(others)
    for backup in others.glob("*/*.backup"): backup.unlink()
    transfer_fit(str(others), **ASKED, out=str(halfway))
    assert "going on after epoch 2" in capsys.readouterr().out
    assert_same_weights(halfway, left_alone[0])
    transfer_fit(str(others), **ASKED, out=str(halfway))
    assert "is there already, made by the same command: nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["train", "valid", "test"])
def test_another_image_under_the_same_name_is_noticed(side, figures, table, halfway, left_alone, tmp_path):
    others = Path(shutil.copytree(figures, tmp_path / "others"))
    replace_one(others, table, side)
    for out in (halfway, left_alone[0]):
        with pytest.raises(ValueError, match="images that were other ones then"): fit_bundle(SETTINGS, table, others, out=out)


def test_a_bundle_of_an_earlier_version_cannot_be_told(figures, table, left_alone, tmp_path):
    out = Path(shutil.copytree(left_alone[0], tmp_path / "early"))
    facts = json.loads((out / "bundle.json").read_text())
    del facts["images"]
    (out / "bundle.json").write_text(json.dumps({**facts, "sha256": _digest(facts)}))
    with pytest.raises(ValueError, match="earlier transfer_nbs, which didn't note what was in its images"): fit_bundle(SETTINGS, table, figures, out=out)


def test_how_it_computes_belongs_to_a_training_and_not_to_a_bundle(figures, table, halfway, left_alone, monkeypatch):
    kept = torch.load(checkpoint_path(halfway), weights_only=True)["computing"]
    other = "float32" if kept["numbers"] == "bfloat16" else "bfloat16"
    with pytest.raises(ValueError, match=f"numbers {kept['numbers']}, not {other}"): fit_bundle(replace(SETTINGS, precision=other), table, figures, out=halfway)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=f"threads {threads}, not {threads + 1}.*set OMP_NUM_THREADS={threads}"): fit_bundle(SETTINGS, table, figures, out=halfway)
        fit_bundle(replace(SETTINGS, device="auto"), table, figures, out=left_alone[0])
    finally: torch.set_num_threads(threads)
    with pytest.raises(ValueError, match=f"precision {kept['numbers']}, not {other}"): fit_bundle(replace(SETTINGS, precision=other), table, figures, out=left_alone[0])
    fast, slow = {name: 1.0 if (other in name) else 9.0 for name in ("float32", "bfloat16")}, []
    monkeypatch.setattr("transfer_nbs.hardware.measured_precisions", lambda device: fast)  # the cache was deleted, and now the other one is faster
    fit_bundle(SETTINGS, table, figures, out=halfway, say=slow.append)
    assert f"in {kept['numbers']}" in slow[0] and "as it began" in slow[0]
    assert_same_weights(halfway, left_alone[0])


def test_broken_checkpoint_is_refused(figures, halfway, capsys):
    path = checkpoint_path(halfway)
    path.write_bytes(path.read_bytes()[:5000])
    assert_refused(capsys, figures, path, "delete it to begin anew", **ASKED, out=halfway)


def test_a_checkpoint_that_is_no_file_is_refused(figures, table, tmp_path):
    os.mkfifo(tmp_path / "out.checkpoint")
    with pytest.raises(ValueError, match="out.checkpoint: is no file"): fit_bundle(SETTINGS, table, figures, out=tmp_path / "out")


@pytest.mark.parametrize("place, words", [("file", "no folder"), ("file/model", "file"), ("/dev/null", "no folder"), ("circle", "no folder"), ("n" * 300, "too long"), ("n" * 250, "too long"), (".", "in use as a whole")])
def test_places_that_cannot_be_a_bundle_are_refused_first(place, words, figures, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transfer_nbs.checkpoint.train_recipe", None)
    Path("file").write_text("mine")
    Path("circle").symlink_to("circle")
    assert_refused(capsys, figures, words, **ASKED, out=place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]


def test_a_second_program_is_told(figures, table, tmp_path):
    with claim(checkpoint_path(tmp_path / "out")):
        with pytest.raises(ValueError, match="another program is writing there: wait for it, or choose another --out"):
            fit_bundle(SETTINGS, table, figures, out=tmp_path / "out")


def test_the_bundle_is_on_the_disk_before_its_checkpoint_goes(figures, table, halfway, monkeypatch):
    events, fsync, unlink = [], os.fsync, Path.unlink
    def note_sync(number):
        events.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)
    def note_unlink(path, **options):
        events.append(path.name)
        unlink(path, **options)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "unlink", note_unlink)
    fit_bundle(SETTINGS, table, figures, out=halfway, say=lambda line: None)
    gone = events.index("half.checkpoint")
    assert {Path(event).name for event in events[:gone]} >= {"model.safetensors", "bundle.json", "README.md"}
    assert events[gone - 1] == str(halfway.parent)


# A training that diverges


def test_a_training_that_diverges_says_so(figures, tmp_path, capsys):
    asked = dict(recipe="bn_trainable", epochs=1, size=32, device="cpu")
    assert_refused(capsys, figures, "is no finite number after epoch 1 at learning rate 1e+30", "smaller --lr", **asked, lr=1e30, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_later_leaves_nothing_in_the_way(figures, table, halfway, monkeypatch):
    def diverges(*_, **__): raise DivergedError("the training loss", epoch=3, lr=0.004, history=[])
    monkeypatch.setattr("transfer_nbs.checkpoint.train_recipe", diverges)
    with pytest.raises(DivergedError, match=r"after epoch 3 .*smaller --lr.*epoch \d was the best before, and isn't kept"): fit_bundle(SETTINGS, table, figures, out=halfway)
    monkeypatch.undo()
    fit_bundle(replace(SETTINGS, lr=0.001, epochs=1), table, figures, out=halfway, say=lambda line: None)


# What is in the bundle


def test_bundle_says_what_chose_and_what_judged(figures, table, left_alone):
    out, said = left_alone
    bundle = load_bundle(out)
    history, counts = pd.DataFrame(bundle.results["valid"]["epochs"]), table.groupby("split").size()
    assert len(history) == bundle.settings["epochs_run"] == 4
    assert bundle.settings["kept_epoch"] == history.valid_loss.argmin() + 1
    assert {name: result["images"] for name, result in bundle.results.items()} == {"valid": counts["valid"], "test": counts["test"]}
    assert bundle.split == split_hash(table[table["split"] != "test"])
    rows = table[table["split"] == "test"]
    answers = bundle.predict([figures / file for file in rows["file"]], device="cpu").idxmax(axis=1).to_numpy()
    assert (answers == rows["class"].to_numpy()).sum() == bundle.results["test"]["correct"]
    card = (out / "README.md").read_text()
    assert "The images called test took no part in any choice" in card and f"Of 4 epochs, number {bundle.settings['kept_epoch']} is kept" in card
    assert "judge the model by them" in card
    review, result = (out / "review.html").read_text(encoding="utf-8"), bundle.results["test"]
    assert f"{result['correct']} of {result['images']}" in review and "<script" not in review and 'src="http' not in review
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "bundle.json", "model.safetensors", "review.html"]
    assert "took no part in any choice" in said and "which chose" in said


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_said_of_an_epoch_holds_for_its_bundle(precision, figures, table, tmp_path):
    "One model, one number: an epoch is measured as the bundle will predict."
    said = []
    bundle = fit_bundle(FitSettings("bn_eval", epochs=1, size=32, device="cpu", precision=precision), table, figures, out=tmp_path / "out", say=said.append)
    row, result = bundle.results["valid"]["epochs"][0], bundle.results["valid"]
    assert row["valid_accuracy"] == pytest.approx(result["accuracy"], abs=1e-6) and f"validation accuracy {result['accuracy']:.3f}" in said[0]
    valid = table[table["split"] == "valid"]
    logits, labels = bundle.logits([figures / file for file in valid["file"]], device="cpu")[0], [bundle.spec.class_names.index(name) for name in valid["class"]]
    assert row["valid_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item(), rel=1e-4)


def test_how_close_onnx_came_is_said(left_alone, figures, tmp_path, monkeypatch, capsys):
    out = Path(shutil.copytree(left_alone[0], tmp_path / "out"))
    def export(path, images):
        (path / "model.onnx").touch()
        return 1.234e-6
    monkeypatch.setattr("transfer_nbs.fit_command.export_onnx", export)
    monkeypatch.setattr("transfer_nbs.fit_command.check_onnx", lambda: None)
    for words in ("on 18 validation images no logit differs by more than 1e-06", "model.onnx is there already"):
        transfer_fit(str(figures), **ASKED, onnx=True, out=str(out))
        assert words in capsys.readouterr().out


def test_weights_are_those_of_the_best_epoch(figures, table, tmp_path):
    "The state after the epoch with the lowest validation loss, BN statistics among it."
    states = []
    train_recipe(RECIPES["feature_extractor"], CompareSettings(epochs=3, size=32, device="cpu", lr=0.05), table, figures,
                 after_epoch=lambda state: states.append({**state, "model": {name: value.clone() for name, value in state["model"].items()}}))
    bundle = fit_bundle(FitSettings("feature_extractor", epochs=3, size=32, device="cpu", lr=0.05), table, figures, out=tmp_path / "out")
    losses = [row["valid_loss"] for row in states[-1]["history"]]
    best = states[losses.index(min(losses))]["model"]
    assert all(torch.equal(best[name], value) for name, value in bundle.model.state_dict().items())


def test_without_a_test_side_the_card_says_so(figures, tmp_path):
    transfer_fit(str(figures), recipe="bn_eval", epochs=1, size=32, device="cpu", out=str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert list(load_bundle(tmp_path / "out").results) == ["valid"]
    assert "comes from images that chose" in card and "epochs, number" not in card


def test_test_side_of_a_folder(figures, tmp_path, capsys):
    "A folder with train, valid and test is taken as it is, and its test is measured."
    split_folder(figures, tmp_path / "split", mode="copy")
    for name in ("camouflage_clothes", "normal_clothes"):
        (tmp_path / "split" / "test" / name).mkdir(parents=True)
        for file in sorted((tmp_path / "split" / "train" / name).iterdir())[:5]: file.rename(tmp_path / "split" / "test" / name / file.name)
    asked = dict(recipe="bn_eval", epochs=1, size=32, device="cpu")
    transfer_fit(str(tmp_path / "split"), **asked, out=str(tmp_path / "out"))
    assert load_bundle(tmp_path / "out").results["test"]["images"] == 10
    capsys.readouterr()
    assert_refused(capsys, tmp_path / "split", "has a test side already", **asked, test_fraction=0.2, out=tmp_path / "other")
    (tmp_path / "split" / "test" / "normal_clothes" / file.name).write_text("no picture")
    assert_refused(capsys, tmp_path / "split", file.name, "can't be decoded", **asked, out=tmp_path / "other")


def test_same_request_again_changes_nothing(figures, left_alone, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in left_alone[0].iterdir()}
    done = run("transfer_fit", figures, *SMALL, "--out", left_alone[0])
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == left_alone[1].splitlines()[-1]
    assert f"{left_alone[0]} is there already, made by the same command: nothing was trained" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in left_alone[0].iterdir()} == before
    assert_refused(capsys, figures, "epochs 4, not 5", **{**ASKED, "epochs": 5}, out=left_alone[0])


def test_patience_stops_early(figures, table, tmp_path):
    bundle = fit_bundle(FitSettings("bn_eval", epochs=30, size=32, device="cpu", lr=0.1, patience=2), table, figures, out=tmp_path / "out", say=lambda line: None)
    assert bundle.settings["epochs_run"] == bundle.settings["kept_epoch"] + 2 < 30


def test_tensorboard(figures, table, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    history = fit_bundle(SETTINGS, table, figures, out=tmp_path / "out", tensorboard=tmp_path / "logs", say=lambda line: None).results["valid"]["epochs"]
    log = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.value for event in log.Scalars("loss/valid")] == pytest.approx([row["valid_loss"] for row in history])


# From a comparison


@pytest.fixture(scope="session")
def compared(figures, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "compared"
    done = run("transfer_compare", figures, "--recipes", "bn_eval,feature_extractor", "--seeds", "1", "--epochs", "1", "--size", "32", "--lr", "0.01",
               "--device", "cpu", "--test_fraction", "0.2", "--out", out)
    assert done.returncode == 0 and "18 set aside" in done.stdout, done.stderr
    return out


def test_best_of_a_comparison(figures, table, compared, tmp_path):
    "Recipe, settings and split come from the comparison; with as many epochs it ends where the comparison ended."
    assert json.loads((compared / "run.json").read_text())["data"]["split"] == split_hash(table[table["split"] != "test"])
    done = run("transfer_fit", figures, "--recipe", "best", "--from", compared, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    bundle, (winner, _) = load_bundle(tmp_path / "out"), read_winner(compared)
    assert (bundle.settings["recipe"], bundle.settings["size"], bundle.settings["lr"], bundle.settings["epochs"]) == (winner, 32, 0.01, 1)
    assert bundle.results["test"]["images"] == 18
    row = json.loads((compared / "runs" / f"{winner}-0.json").read_text())
    assert bundle.results["valid"]["epochs"] == row["history"]
    assert "chosen by them too, as the most accurate of 2 recipes" in (tmp_path / "out" / "README.md").read_text()


def test_a_named_recipe_with_the_settings_of_a_comparison(figures, compared, tmp_path):
    "The cheapest instead of the winner, say: settings and split are the comparison's, and the card doesn't call it the most accurate."
    loser = next(name for name in ("bn_eval", "feature_extractor") if name != read_winner(compared)[0])
    done = run("transfer_fit", figures, "--recipe", loser, "--from", compared, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "out")
    assert (bundle.settings["recipe"], bundle.settings["size"], bundle.settings["lr"], bundle.results["test"]["images"]) == (loser, 32, 0.01, 18)
    assert bundle.results["valid"]["epochs"] == json.loads((compared / "runs" / f"{loser}-0.json").read_text())["history"]
    assert "most accurate" not in (tmp_path / "out" / "README.md").read_text()


def test_a_comparison_of_other_images_under_the_same_names_is_refused(figures, table, compared, tmp_path, capsys):
    others, best = Path(shutil.copytree(figures, tmp_path / "others")), dict(recipe="best", from_run=compared, out=tmp_path / "out")
    replace_one(others, table, "valid")
    assert_refused(capsys, others, "on images that were other ones then, under the same names", **best)


def test_best_is_refused_where_it_does_not_fit(figures, compared, tmp_path, capsys):
    out, best = dict(out=tmp_path / "out"), dict(recipe="best", from_run=compared, out=tmp_path / "out")
    assert_one_line_error(run("transfer_fit", figures, "--recipe", "best", "--out", tmp_path / "out"), "--from RUN")
    assert_refused(capsys, figures, "no comparison there", recipe="best", from_run=tmp_path, **out)
    assert_refused(capsys, figures, "lr is 0.5", "compared with 0.01", **best, lr=0.5)
    assert_refused(capsys, figures, "on other images", "another split", **best, test_fraction=0.1)
    shutil.copytree(figures, tmp_path / "fewer")
    next(iter((tmp_path / "fewer").glob("*/*.jpg"))).unlink()
    assert_refused(capsys, tmp_path / "fewer", "on other images", **best)
    shutil.copytree(compared, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "runs" / "bn_eval-0.json").unlink()
    assert_refused(capsys, figures, "isn't finished (bn_eval to come)", **{**best, "from_run": tmp_path / "unfinished"})
    assert not (tmp_path / "out").exists() and not checkpoint_path(tmp_path / "out").exists()


def changed(record: dict, part: str, name: str | None = None, value=None) -> dict:
    "A record with another value of a part, or of one name in it."
    return {**record, part: value if name is None else {**record[part], name: value}}


@pytest.mark.parametrize("part, name, value", [
    ("settings", None, {}), ("settings", "recipes", 5), ("settings", "recipes", []), ("settings", "recipes", [5]), ("settings", "seeds", "a"),
    ("settings", "seeds", 10**20), ("settings", "size", "a"), ("settings", "lr", None), ("settings", "arch", 5), ("data", None, {}), ("data", "split", 7),
    ("split", None, 7), ("split", "alike", "a"), ("split", "by", 1), ("computing", None, []), ("computing", "numbers", []), ("environment", None, 7)])
def test_a_record_of_the_wrong_shape_is_broken(part, name, value, figures, compared, tmp_path, capsys):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    (run / "run.json").write_text(json.dumps(changed(json.loads((run / "run.json").read_text()), part, name, value)))
    assert_refused(capsys, figures, f"{run}: its run.json is broken", "with another --out", recipe="best", from_run=run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, added", [("lr", False), ("weights", False), ("augment", True), ("resize", True), ("patience", True)])
def test_a_record_without_a_setting(name, added, figures, compared, tmp_path, capsys):
    "One that earlier versions didn't have is taken as it was then; without any other the record is broken."
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    del record["settings"][name]
    (run / "run.json").write_text(json.dumps(record))
    if added: assert getattr(choose_settings("best", run, {})[0], name) == getattr(FitSettings, name)
    else: assert_refused(capsys, figures, "its run.json is broken", recipe="best", from_run=run, out=tmp_path / "out")


def test_a_learning_rate_of_nan_in_a_record(figures, compared, tmp_path, capsys):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    (run / "run.json").write_text(json.dumps(changed(json.loads((run / "run.json").read_text()), "settings", "lr", math.nan)))
    assert_refused(capsys, figures, "lr is nan: it must be above 0", recipe="best", from_run=run, out=tmp_path / "out")


@pytest.mark.parametrize("part", ["computing", "split"])
def test_a_comparison_with_a_broken_record_does_not_go_on(part, figures, compared, tmp_path, capsys):
    "Its runs are gone, and its tables are there."
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    (run / "run.json").write_text(json.dumps(changed(json.loads((run / "run.json").read_text()), part, None, [])))
    shutil.rmtree(run / "runs")
    with pytest.raises(SystemExit) as stop: transfer_compare(str(figures), recipes="bn_eval,feature_extractor", seeds=1, epochs=1, size=32, lr=0.01, device="cpu", test_fraction=0.2, out=str(run))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and "its run.json is broken" in lines[0]


def test_what_onnx_needs_is_asked_for_before_the_training(figures, tmp_path, capsys):
    with patch.dict(sys.modules, onnx=None):
        assert_refused(capsys, figures, "onnx isn't installed", "transfer_nbs[onnx]", recipe="bn_eval", onnx=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not checkpoint_path(tmp_path / "out").exists()


def test_fit_names_what_is_wrong(figures, tmp_path, capsys):
    out = dict(out=tmp_path / "out")
    assert_refused(capsys, tmp_path / "gone", tmp_path / "gone", recipe="bn_eval", **out)
    assert_refused(capsys, figures, "did you mean bn_eval?", recipe="bn_evil", **out)
    assert_refused(capsys, figures, "balance", "weights", recipe="bn_eval", balance="fair", **out)
    assert_refused(capsys, figures, "epochs is 0", recipe="bn_eval", epochs=0, **out)
    assert_refused(capsys, figures, "bundled weights are resnet18's", recipe="bn_eval", arch="resnet34", **out)
    assert_refused(capsys, figures, "test_fraction is 0.9", recipe="bn_eval", test_fraction=0.9, **out)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (REAL / "clothing").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_real_clothing(tmp_path):
    "A few photographs of each of ten classes, with the folder's own test side."
    for side, most in (("train", 12), ("valid", 4), ("test", 8)):
        for name in sorted(path.name for path in (REAL / "clothing" / side).iterdir() if path.is_dir()):
            (tmp_path / "clothing" / side / name).mkdir(parents=True)
            for file in sorted((REAL / "clothing" / side / name).iterdir())[:most]: (tmp_path / "clothing" / side / name / file.name).symlink_to(file)
    done = run("transfer_fit", tmp_path / "clothing", "--recipe", "bn_eval", "--epochs", "2", "--arch", "mobilenet_v2", "--weights", REAL / "weights" / "mobilenet_v2_imagenet.pth",
               "--size", "160", "--device", "cpu", "--balance", "weights", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "out")
    assert len(bundle.spec.class_names) == 10 and bundle.settings["weights"] == "mobilenet_v2_imagenet.pth"
    assert bundle.results["test"]["images"] >= 70 and bundle.results["test"]["accuracy"] > 0.3  # a tenth by chance
