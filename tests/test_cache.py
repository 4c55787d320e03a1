"""A cache that was damaged, deleted, or can't be written never changes a number and never ends a training."""

import errno
import json
import multiprocessing
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
import torchvision

import transfer_nbs.cache as cache
from transfer_nbs.cache import _DIGESTS, cached
from transfer_nbs.clothes import Camouflage, make_clothes
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, train_recipe
from transfer_nbs.data import read_folder

MEASURED = lambda device: {"float32": 1, "bfloat16": 2}  # seconds


@pytest.fixture(scope="module")
def figures(tmp_path_factory): return make_clothes(tmp_path_factory.mktemp("data") / "figures", Camouflage(n=16, size=40), workers=1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    "A small network, whose weights are random."
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
    return CompareSettings(recipes=("bn_eval",), seeds=1, epochs=1, size=32, arch="shufflenet_v2_x0_5", weights=str(weights), device="cpu")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    "An empty cache; and how fast the machine is doesn't decide how it computes."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("transfer_nbs.hardware._measure_precisions", MEASURED)
    return tmp_path / "cache" / "transfer_nbs" / "computed"


@pytest.fixture(scope="module")
def train(figures, settings):
    "A training in small, as in a program of its own: the history of its losses."
    def train(**how):
        cache._checked.clear()
        table = read_folder(figures)
        return train_recipe(RECIPES["bn_eval"], settings, table, figures, **how).history.to_dict("records")
    return train


@pytest.fixture(scope="module")
def first(train, tmp_path_factory):
    "What a training with an empty cache computes, and the cache that it leaves."
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr("transfer_nbs.hardware._measure_precisions", MEASURED)
        return train(), folder / "transfer_nbs" / "computed"


@pytest.fixture
def expected(first): return first[0]


@pytest.fixture
def filled(first, root):
    "The cache that such a training leaves."
    shutil.copytree(first[1], root)
    return root


pytestmark = pytest.mark.filterwarnings("ignore:pictures are decoded each time", "ignore:images are decoded each time")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "shorter by a byte": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "half": lambda file: file.write_bytes(file.read_bytes()[:file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a bit flipped": flip,
    "a folder": make_folder,
    "missing": lambda file: file.unlink(),
    "a file more": lambda file: file.with_name("more").touch(),
}
DIGEST_DAMAGES = {
    "of nothing": lambda text: "{}", "a list": lambda text: "[]", "of other files": lambda text: json.dumps({"other.bin": [3, "abc"]}),
    "half": lambda text: text[:len(text) // 2], "of other form": lambda text: json.dumps(dict.fromkeys(json.loads(text), 7)),
}


def entries(root): return sorted(path for path in root.iterdir() if not path.name.startswith("."))


def damage(entry: Path, which: int, how: str) -> None:
    files = [path for path in sorted(entry.iterdir()) if path.name != _DIGESTS]
    DAMAGES[how](files[which % len(files)])


@pytest.mark.parametrize("which", range(2))
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_entries_heal(how, which, filled, train, expected):
    "In every entry a file is damaged; the next program computes the same, to the bit, and leaves the cache sound."
    before = [path.name for path in entries(filled)]
    assert {name.split("-")[0] for name in before} == {"hashes", "looks", "numbers", "ranges", "pictures", "features"}
    for entry in entries(filled): damage(entry, which, how)
    assert train() == expected
    assert [path.name for path in entries(filled)] == before
    cache._checked.clear()
    assert all(map(cache._is_sound, entries(filled)))


@pytest.mark.parametrize("kind", ["hashes", "looks", "numbers", "ranges", "pictures", "features"])
def test_one_damaged_entry_heals(kind, filled, train, expected):
    "All others are sound, so that nothing else gives the damage away."
    for entry in filled.glob(f"{kind}-*"): damage(entry, 0, "zeros")
    assert train() == expected


@pytest.mark.parametrize("how", DIGEST_DAMAGES)
def test_damaged_digests_heal(how, filled, train, expected):
    for entry in entries(filled):
        (entry / _DIGESTS).write_text(DIGEST_DAMAGES[how]((entry / _DIGESTS).read_text()))
        damage(entry, 0, "zeros")
    assert train() == expected
    cache._checked.clear()
    assert all(map(cache._is_sound, entries(filled)))


def test_entry_that_is_a_file(filled, train, expected):
    for entry in entries(filled):
        shutil.rmtree(entry)
        entry.write_text("no folder")
    assert train() == expected


def test_deleted_after_each_epoch(root, train, expected):
    "The README allows it at any time."
    def delete(state): shutil.rmtree(root.parent)
    assert train(after_epoch=delete) == expected


def test_deleted_all_the_time(root, train, expected):
    "A thread deletes the cache again and again while a training runs."
    over = threading.Event()
    def delete():
        while not over.is_set(): shutil.rmtree(root.parent, ignore_errors=True)
    thread = threading.Thread(target=delete)
    thread.start()
    try: assert train() == expected
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("number", ["EROFS", "ENOSPC", "EACCES", "EDQUOT", "EIO"])
def test_cache_that_cant_be_written(number, train, expected, monkeypatch):
    def refuse(path, *_): raise OSError(getattr(errno, number), "refused", str(path))
    monkeypatch.setattr("transfer_nbs.cache.write_folder", refuse)
    assert train() == expected


@pytest.mark.parametrize("call", ["numpy.save", "numpy.savez", "transfer_nbs.cache._write_digests"])
def test_disk_that_fills_up(call, train, expected, monkeypatch):
    "NumPy's message has no number; the text is that of a real full disk."
    def refuse(*_, **__): raise OSError("4096 requested and 0 written")
    monkeypatch.setattr(call, refuse)
    assert train() == expected


def test_root_that_is_a_file(root, train, expected):
    root.parent.mkdir(parents=True)
    root.write_text("no folder")
    assert train() == expected


def test_what_isnt_the_caches_fault_is_told(tmp_path):
    "An image that is gone is no cache that is full."
    with pytest.raises(FileNotFoundError, match="gone.jpg"): cached("demo", "gone", lambda folder: open(tmp_path / "gone.jpg"), megabytes=lambda: 0, read=Path)
    (tmp_path / "gone.jpg").mkdir()
    with pytest.raises(IsADirectoryError): cached("demo", "gone", lambda folder: open(tmp_path / "gone.jpg"), megabytes=lambda: 0, read=Path)


def make_often(barrier, answers):
    "The same twenty entries as two other processes, at the same time."
    def write(folder):
        time.sleep(0.002)
        (folder / "value").write_text("the same")
    try:
        for key in range(20):
            barrier.wait()
            answers.put(cached("race", str(key), write, megabytes=lambda: 0, read=lambda folder: (folder / "value").read_text()))
    except Exception as error: answers.put(repr(error))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_make_one_entry(damaged, root):
    fork = multiprocessing.get_context("fork")
    if damaged:
        for key in range(20): cached("race", str(key), lambda folder: (folder / "value").write_text("the same"), megabytes=lambda: 0, read=Path)
        cache._checked.clear()
        for entry in entries(root): damage(entry, 0, "zeros")
    barrier, answers = fork.Barrier(3), fork.Queue()
    processes = [fork.Process(target=make_often, args=(barrier, answers)) for _ in range(3)]
    for process in processes: process.start()
    assert [answers.get(timeout=30) for _ in range(60)] == ["the same"] * 60
    for process in processes: process.join()
    assert len(entries(root)) == 20 and not list(root.glob(".*"))
