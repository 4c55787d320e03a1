"""Parts of the training images: what they hold, that nothing else is trained on, and one folder for all of them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from forks import run
from PIL import Image

from transfer_nbs.compare import CompareSettings, compare
from transfer_nbs.fractions import fraction_folder, read_curves
from transfer_nbs.recipes import RECIPES, train_recipe
from transfer_nbs.runs import nested_part

SMALL = ("--recipes", "bn_eval,lp_ft", "--seeds", "2", "--epochs", "2", "--size", "32", "--device", "cpu")


@pytest.mark.parametrize("name", ["bn_eval", "lp_ft", "full", "model_soup", "from_scratch"])
def test_images_that_were_not_drawn_change_nothing(name, figures, tmp_path):
    "Neither a batch nor the probe of lp_ft sees them; bn_eval takes the features of all out of one store."
    folder, table = figures
    part = nested_part(table, 0.3, 0)
    other = shutil.copytree(folder, tmp_path / "figures")
    for file in part["file"][part["split"] == "spare"]:
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(other / file)
    settings = CompareSettings(size=32, epochs=2, device="cpu")
    first, second = (train_recipe(RECIPES[name], settings, part, images) for images in (folder, other))
    assert first.history.equals(second.history)
    without = train_recipe(RECIPES[name], settings, table, folder)
    assert not first.history.equals(without.history)


def test_all_of_the_images_are_no_part(figures, tmp_path):
    "The comparison on all images gives the same with and without smaller ones beside it; each seed draws its own part."
    folder, table = figures
    done = run("transfer_compare", folder, *SMALL, "--fractions", "0.5,1,0.1", "--valid-fraction", "0.4", "--out", tmp_path / "curves")
    assert done.returncode == 0, done.stderr
    plain = run("transfer_compare", folder, *SMALL, "--valid-fraction", "0.4", "--out", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    for name in ("bn_eval", "lp_ft"):
        for seed in (0, 1):
            results = [json.loads((at / "runs" / f"{name}-{seed}.json").read_text()) for at in (tmp_path / "curves" / "1", tmp_path / "plain")]
            assert results[0]["correct"] == results[1]["correct"] and results[0]["history"] == results[1]["history"]
    curves = pd.read_csv(tmp_path / "curves" / "fractions.csv")
    assert list(curves.images) == [4, 4, 18, 18, 36, 36] and list(curves.per_class) == [2, 2, 9, 9, 18, 18]
    assert "images of each class" in done.stdout and "From 9 to 18 images of each class" in done.stdout.replace("\n  ", " ")
    assert (tmp_path / "curves" / "fractions.png").read_bytes().startswith(b"\x89PNG")
    parts = [set(nested_part(table, 0.5, seed).query("split == 'train'")["file"]) for seed in (0, 1)]
    assert parts[0] != parts[1]

    before = (tmp_path / "curves" / "fractions.csv").read_bytes()
    again = run("transfer_compare", folder, *SMALL, "--fractions", "0.1,0.5,1", "--valid-fraction", "0.4", "--out", tmp_path / "curves")
    assert again.returncode == 0 and again.stdout.count("nothing was left to train") == 3
    assert (tmp_path / "curves" / "fractions.csv").read_bytes() == before

    for options, said in (((*SMALL, "--lr", "0.1"), "1 holds a comparison with lr 0.004, not 0.1"),
                          ((*SMALL, "--epochs", "1"), "1 holds a comparison with epochs 2, not 1"), ((*SMALL, "--order", "first"), "1 holds a comparison of other images"),
                          ((*SMALL[:2], *SMALL[4:]), "1 holds a comparison with seeds 2, not 3")):
        done = run("transfer_compare", folder, *options, "--fractions", "0.2,1", "--valid-fraction", "0.4", "--out", tmp_path / "curves")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and said in done.stderr
        assert not (tmp_path / "curves" / "0.2").exists()
    for at, said in (("plain", "holds other files (compare.png)"), ("curves", None)):
        done = run("transfer_compare", folder, *SMALL, *(("--fractions", "0.5") if said else ()), "--valid-fraction", "0.4", "--out", tmp_path / at)
        assert done.returncode == 2 and (said or "holds other files (0.1)") in done.stderr
    for at, said in (("curves", "give " + str(tmp_path / "curves" / "1")), ("curves/0.5", "it compared on a part of the images")):
        done = run("transfer_fit", folder, "--from", tmp_path / at, "--valid-fraction", "0.4", "--out", tmp_path / "bundle")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and said in done.stderr


@pytest.mark.parametrize("given, said", [("0", "above 0"), ("1.5", "up to 1"), ("a,1", "'a'"), ("1,1.0", "each part once"),
                                         ("0.01,0.02", "are both 2 images")])
def test_parts_that_can_not_be(given, said, figures, tmp_path):
    done = run("transfer_compare", figures[0], *SMALL, "--fractions", given, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and said in done.stderr
    assert not list(tmp_path.glob("out/*/run.json"))


def test_goes_on_where_it_was_killed(figures, tmp_path):
    "A part whose record is broken before its first run begins again; one that has runs goes on."
    folder, table = figures
    settings = CompareSettings(recipes=("bn_eval",), seeds=2, epochs=1, size=32, device="cpu", fraction=0.5)
    at = fraction_folder(tmp_path, 0.5)
    compare(settings, table, folder, out=at)
    (at / "runs" / "bn_eval-1.json").unlink()
    assert read_curves_or_none(tmp_path) is None
    said = []
    compare(settings, table, folder, out=at, say=said.append)
    assert said[0] == "1 of 2 runs are there already, going on"
    assert list(read_curves(tmp_path, (0.5,)).runs) == [2]


def read_curves_or_none(out):
    try: return read_curves(out, (0.5,))
    except FileNotFoundError: return None


def test_all_may_diverge_and_threads_must_stay(figures, tmp_path):
    "A part that is begun later is drawn beside the others, so this machine must compute as it did for them."
    options = ("transfer_compare", figures[0], "--recipes", "full", "--seeds", "1", "--epochs", "1", "--size", "32", "--device", "cpu", "--out", tmp_path / "out å")
    done = run(*options, "--fractions", "0.3,0.6", "--lr", "1e30")
    assert done.returncode == 0 and "All recipes diverged" in done.stdout and "changed by" not in done.stdout
    assert (tmp_path / "out å" / "fractions.png").exists()
    for count, status in (("2", 2), ("1", 0)):
        done = run(*options, "--fractions", "0.3,1", "--lr", "1e30", OMP_NUM_THREADS=count)
        assert done.returncode == status and (status == 0 or "OMP_NUM_THREADS=1" in done.stderr), done.stderr
    assert sorted(path.name for path in (tmp_path / "out å").iterdir()) == ["0.3", "0.6", "1", "fractions.csv", "fractions.png"]
