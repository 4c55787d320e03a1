"""Two programs that write to one place: the second is told so, or both end with the whole set; never a mixture."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from transfer_nbs.clothes import Camouflage, Patterns, make_clothes, practice_folder
from transfer_nbs.files import claim, is_unfinished
from transfer_nbs.formulas import BankSettings, draw_bank
from transfer_nbs.pretrain import PretrainSettings, pretrain
from transfer_nbs.split_folder import split_folder

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def figures(tmp_path_factory): return make_clothes(tmp_path_factory.mktemp("data") / "figures", Camouflage(n=20, size=40), workers=1)


def answer(function, barrier, answers):
    barrier.wait()
    try:
        function()
        answers.put("")
    except Exception as error: answers.put(f"{type(error).__name__}: {error}")


def at_once(function, count=3):
    "What some processes say that call a function at the same time; \"\" where all went well."
    barrier, answers = FORK.Barrier(count), FORK.Queue()
    processes = [FORK.Process(target=answer, args=(function, barrier, answers)) for _ in range(count)]
    for process in processes: process.start()
    said = [answers.get(timeout=60) for _ in processes]
    for process in processes: process.join()
    return said


def assert_told(said):
    "One at least went through, and the others were told why not."
    assert "" in said
    assert all("another program is writing there: wait for it" in line for line in said if line), said


def content(folder): return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_two_splits(mode, figures, tmp_path):
    assert_told(at_once(lambda: split_folder(figures, tmp_path / "split", mode=mode)))
    split_folder(figures, tmp_path / "alone", mode=mode)
    assert content(tmp_path / "split") == content(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "split"]


def test_two_with_other_settings(figures, tmp_path):
    "One of the two is refused, and what is there is one of the two splits."
    for seed in (0, 1): split_folder(figures, tmp_path / str(seed), seed=seed)
    seeds = FORK.Queue()
    for seed in (0, 1): seeds.put(seed)
    said = at_once(lambda: split_folder(figures, tmp_path / "split", seed=seeds.get()), count=2)
    assert sorted(map(bool, said)) == [False, True], said
    assert content(tmp_path / "split") in [content(tmp_path / str(seed)) for seed in (0, 1)]


@pytest.mark.parametrize("task", [Camouflage(n=20, size=40), Patterns(n=20, n_valid=10, size=40, wrong_labels=0.5)], ids=["camouflage", "patterns"])
def test_two_sets_of_clothes(task, tmp_path):
    assert_told(at_once(lambda: make_clothes(tmp_path / "clothes", task, workers=1)))
    assert content(tmp_path / "clothes") == content(make_clothes(tmp_path / "alone", task, workers=1))


def test_practice_data_asked_for_twice(tmp_path, monkeypatch):
    "Both get all of it: nobody who asks for practice data should have to ask again."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert at_once(lambda: practice_folder(Camouflage(n=20, size=40))) == ["", "", ""]
    folder = practice_folder(Camouflage(n=20, size=40))
    assert len(list(folder.glob("*/*.jpg"))) == 20 and not list(filter(is_unfinished, Path(folder.parent).rglob("*")))


def test_two_banks(tmp_path):
    settings = BankSettings(surfaces=3, shapes=3, drawings=2, size=32)
    draw = lambda: draw_bank(tmp_path / "bank", settings, workers=1)
    assert at_once(draw) == ["", "", ""]
    alone = draw_bank(tmp_path / "alone", settings, workers=1)
    for first, other in zip(draw(), alone): np.testing.assert_array_equal(first, other)
    assert not list(filter(is_unfinished, tmp_path.rglob("*")))


def test_pretraining_is_claimed(tmp_path):
    settings = PretrainSettings(surfaces=2, shapes=2, drawings=6, views=8, batch_size=4, size=48)
    with claim(tmp_path / "out"):
        with pytest.raises(ValueError, match="another program is writing there"): pretrain(tmp_path / "out", settings, device="cpu")
    assert not (tmp_path / "out").exists()
