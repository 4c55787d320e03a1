"""Folders as people bring them: whatever the check says of one, the commands that train do too."""

import contextlib
import os
import signal
import socket
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfer_nbs.bundle import load_bundle
from transfer_nbs.predict import list_images
from transfer_nbs.check import check_folder
from transfer_nbs.commands import transfer_check
from transfer_nbs.commands import transfer_compare
from transfer_nbs.folders import _alike_names, find_images, find_troubles, read_layout
from transfer_nbs.commands import transfer_split
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.commands import transfer_fit
from transfer_nbs.tables import check_compared, read_winner
from transfer_nbs.your_images import fit_bundle, read_parts

NFC, NFD = (unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD"))
BOTH = dict(train=4, valid=2)
TINY = dict(epochs=1, size=32, device="cpu")


def picture(number: int) -> Image.Image:
    "An image of coloured clouds, another one for each number."
    clouds = np.random.default_rng(number).integers(256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(clouds).resize((40, 40), Image.Resampling.BICUBIC)


def make(folder: Path, counts: dict[str, int], suffix: str = ".jpg") -> Path:
    "A folder with so many images, all different, in each of its sub-folders."
    for kind, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count): picture(100 * kind + number).save(folder / name / f"{number}{suffix}", format="JPEG")
    return folder


def sides(counts: dict[str, int], *classes: str) -> dict[str, int]:
    return {f"{side}/{name}": count for side, count in counts.items() for name in classes}


def status(command, *places, capsys, **options) -> tuple[int, str]:
    "Exit status of a command called within this process, and what it said on standard error; of the check, on standard output."
    try: command(*map(str, places), **{name: str(value) if isinstance(value, Path) else value for name, value in options.items()})
    except SystemExit as stop: code = stop.code
    else: code = 0
    said = capsys.readouterr()
    return code, said.out if command is transfer_check else said.err


@contextlib.contextmanager
def seconds(most: int):
    "For a `with` block that could wait for ever."
    def stop(*_): raise TimeoutError(f"still waiting after {most} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(most)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


LAYOUTS = {  # what a folder holds, and words that every command says of it; None: it can be trained on
    "classes": (dict(a=3, b=3), None),
    "two images": (dict(a=3, b=2), None),
    "one image": (dict(a=3, b=3, rare=1), "too few images in class rare (1)"),
    "empty class": (dict(a=3, b=3, none=0), "no images in class none"),
    "one class": (dict(a=3), "only one class (a)"),
    "classes one deeper": ({"all/a": 3, "all/b": 3}, "all if its sub-folders are the classes"),
    "sides": (sides(BOTH, "a", "b"), None),
    "one image a side": (sides(dict(train=1, valid=1), "a", "b"), None),
    "other names of sides": (sides(dict(Train=3, VAL=2, Testing=2), "a", "b"), None),
    "no valid": (sides(dict(train=3), "a", "b"), "has train but no valid"),
    "Training and Testing": (sides(dict(Training=3, Testing=3), "a", "b"), "has Training but no valid"),
    "no train": (sides(dict(valid=3, test=3), "a", "b"), "no train"),
    "two valid": (sides(dict(train=3, val=2, Valid=2), "a", "b"), "keep one of them to validate on"),
    "two train": (sides(dict(train=3, training=3, valid=2), "a", "b"), "train and training; keep one of them to train on"),
    "two test": (sides(dict(train=3, valid=2, test=2, Test=2), "a", "b"), "keep one of them to test on"),
    "valid lacks a class": ({**sides(BOTH, "a", "b"), "train/c": 3}, "missing: c; not in train: none"),
    "valid without classes": ({**sides(dict(train=3), "a", "b"), "valid": 3}, "no class folders in it"),
    "train of one class": (sides(BOTH, "a"), "only one class (a)"),
    "empty class in valid": ({**sides(BOTH, "a", "b"), "train/c": 3, "valid/c": 0}, "no images in class c"),
    "test of one class": ({**sides(BOTH, "a", "b"), "test/a": 3}, None),
    "flat test": ({**sides(BOTH, "a", "b"), "test": 3}, None),
    "empty test": ({**sides(BOTH, "a", "b"), "test": 0}, None),
    "strange test": ({**sides(BOTH, "a", "b"), "test/hats": 3}, "has classes that train lacks (hats)"),
    "case": (dict(Cat=3, cat=3), None),
    "blank": ({"cat": 3, "cat ": 3, "dog": 3}, "the class folders 'cat' and 'cat ' look alike, differ in blanks"),
    "blank between sides": ({**sides(BOTH, "b"), "train/a": 3, "valid/a ": 3}, "'a ' and train's 'a' look alike and differ in blanks"),
    "Unicode form": ({NFC: 3, NFD: 3}, "'Blu\\u0308te' and 'Bl\\xfcte' look alike, differ in their Unicode form (NFC and NFD)"),
    "Unicode form between sides": ({**sides(BOTH, "a"), f"train/{NFC}": 3, f"valid/{NFD}": 3}, None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_check_and_training_agree(name, tmp_path):
    counts, words = LAYOUTS[name]
    folder = make(tmp_path / "folder", counts)
    found = check_folder(folder)
    refused = found[(found["level"] == "spoils") & ~found["kind"].isin(["leak", "two labels"])]
    for read in (read_parts, lambda folder: read_parts(folder, order="first")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try: read(folder)
            except ValueError as error: said = str(error)
            else: said = None
        assert (said is None) == (words is None) == refused.empty, (said, refused)
        assert words is None or words in said
    if words: assert any(words in detail for detail in refused["detail"]), refused["detail"].tolist()


def test_a_class_of_copies_alone(tmp_path):
    folder = make(tmp_path / "folder", dict(a=4, b=3))
    for number in range(1, 3): (folder / "b" / f"{number}.jpg").write_bytes((folder / "b/0.jpg").read_bytes())
    found = check_folder(folder)
    assert found[found["kind"] == "too few images"]["class"].tolist() == ["b"]
    with pytest.raises(ValueError, match="class b: its 3 images are copies"): read_parts(folder)


def test_quarantine_that_leaves_too_few(tmp_path, capsys):
    "After the broken ones have gone, one image of a class is left: nothing can be trained, and the check says so."
    folder = make(tmp_path / "folder", dict(a=4, b=3))
    for number in range(2): (folder / "b" / f"{number}.jpg").write_bytes(b"")
    code, said = status(transfer_check, folder, quarantine=tmp_path / "bad", capsys=capsys)
    assert code == 1 and "too few images in class b (1)" in said


def test_everything_is_said_at_once(tmp_path):
    folder = make(tmp_path / "folder", {"a": 3, "b": 1, "c": 0, "a ": 2, "d": 1, "e": 0, "f": 0})
    with pytest.raises(ValueError, match=r"folder: no images in class c; .* in class e; .* in class f; .*; and 2 more, which transfer_check .* lists"): read_parts(folder)
    assert len(find_troubles(read_layout(folder))) == 6


def test_sides_of_any_name_are_the_same_split(tmp_path):
    plain = make(tmp_path / "plain", sides(dict(train=4, valid=2, test=2), "a", "b"))
    other = make(tmp_path / "other", sides(dict(TRAINING=4, Val=2, Testing=2), "a", "b"))
    first, second = read_parts(plain), read_parts(other)
    assert second["split"].tolist() == first["split"].tolist() and second["class"].tolist() == first["class"].tolist()
    assert {file.split("/")[0] for file in second["file"]} == {"TRAINING", "Val", "Testing"}
    assert all((other / file).is_file() for file in second["file"])
    found = check_folder(make(tmp_path / "rare", sides(dict(Train=2, Val=2), "a") | sides(dict(Train=30, Val=3), "b")))
    assert found[found["kind"] == "rare class"][["class", "split"]].values.tolist() == [["a", "train"]]  # learned from under any name


def test_some_of_train_is_set_aside(tmp_path):
    folder = make(tmp_path / "folder", {**sides(dict(Train=6, Val=2), "a", "b"), "test": 3})
    with pytest.warns(UserWarning, match="no labels to measure by"): table = read_parts(folder, test_fraction=0.34)
    aside = table[table["split"] == "test"]
    assert aside["class"].value_counts().to_dict() == {"a": 2, "b": 2} and all(file.startswith("Train/") for file in aside["file"])


def test_a_test_side_without_labels_is_left_out_everywhere(tmp_path, capsys):
    folder = make(tmp_path / "folder", {**sides(BOTH, "a", "b"), "test": 3})
    code, said = status(transfer_compare, folder, recipes="bn_eval", seeds=1, out=tmp_path / "run", **TINY, capsys=capsys)
    assert code == 0 and said.count("no labels to measure by") == 1
    with pytest.warns(UserWarning, match="no labels to measure by"): table = read_parts(folder)  # as transfer_fit does
    assert set(table["split"]) == {"train", "valid"}
    check_compared(table, folder, tmp_path / "run", read_winner(tmp_path / "run")[1])
    code, said = status(transfer_check, folder, capsys=capsys)
    assert code == 0 and "no labels to measure by" in said


def test_a_test_side_that_lacks_a_class_is_measured(tmp_path):
    folder = make(tmp_path / "folder", {**sides(BOTH, "a", "b"), "test/a": 3})
    with pytest.warns(UserWarning, match="test: no images of class b in it"): table = read_parts(folder)
    bundle = fit_bundle(FitSettings("bn_eval", **TINY), table, folder, out=tmp_path / "model", say=lambda line: None)
    assert bundle.results["test"]["images"] == 3


def test_a_strange_test_side_is_refused_before_anything_is_trained(tmp_path, capsys):
    folder = make(tmp_path / "folder", {**sides(BOTH, "a", "b"), "test/B": 3})
    for command, options in ((transfer_compare, dict(recipes="bn_eval")), (transfer_fit, dict(recipe="bn_eval"))):
        code, said = status(command, folder, out=tmp_path / "out", **options, **TINY, capsys=capsys)
        assert code == 2 and "has classes that train lacks (B); remove them; 'B' and train's 'b' look alike" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jfi"])
def test_other_extensions_of_jpeg(suffix, tmp_path):
    folder = make(tmp_path / "folder", dict(a=3, b=3), suffix=suffix)
    assert len(read_parts(folder)) == 6 and set(check_folder(folder)["kind"]) == {"few pictures"}


def test_endings_that_are_not_read_are_counted(tmp_path):
    folder = make(tmp_path / "folder", dict(a=3, b=3))
    for number in range(3): (folder / "b" / f"{number}.jpg").rename(folder / "b" / f"{number}.{'heic' if number else 'gif'}")
    with pytest.raises(ValueError, match=r"no images in class b \(2 files end in .heic, 1 file ends in .gif, which isn't read"): read_parts(folder)


@pytest.mark.parametrize("one, other, way", [("Cat", "cat", "case"), (" cat", "cat", "blanks"), ("hot  dog", "hot dog", "blanks"), ("a\u00a0b", "a b", "blanks"), (NFC, NFD, "NFD"),
                                             ("ｃａｔ", "cat", "same"), ("c\u200bat", "cat", "no room"), ("cat\ufeff", "cat", "no room"), ("сat", "cat", "same"), ("ﬁsh", "fish", "same")])
def test_names_that_look_alike(one, other, way):
    assert way in _alike_names(one, other) and _alike_names(one, other) == _alike_names(other, one)


@pytest.mark.parametrize("one, other", [("cat", "cats"), ("m2", "m²"), ("o", "ö"), ("hot dog", "hotdog"), ("a-b", "a_b"), ("1", "l")])
def test_names_that_do_not(one, other): assert not _alike_names(one, other)


def test_letters_in_two_cases_are_warned_of(tmp_path, capsys):
    folder = make(tmp_path / "folder", dict(A=3, a=3))
    with pytest.warns(UserWarning, match="'A' and 'a' look alike, differ in upper and lower case and are trained as two classes"): find_images(folder)
    code, said = status(transfer_check, folder, capsys=capsys)
    assert code == 0 and "case of names" in said and "'A' and 'a' look alike" in said


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    folder = make(tmp_path / "folder", {**sides(BOTH, "a"), f"train/{NFD}": 3, f"valid/{NFC}": 2, f"test/{NFC}": 2})
    with pytest.warns(UserWarning, match="no images of class a in it"): table = read_parts(folder)
    assert set(table["class"]) == {"a", NFD} and all((folder / file).is_file() for file in table["file"])
    assert {row["class"] for row in check_folder(folder).attrs["classes"]} == {"a", NFD}


def test_nothing_but_files_is_opened(tmp_path, monkeypatch):
    "Pipes, sockets and devices, and links to them, among the images of a class and beside it."
    folder = make(tmp_path / "folder", dict(a=3, b=3))
    for place in ("a/pipe.jpg", "pipe.jpg"): os.mkfifo(folder / place)
    os.symlink(folder / "a/pipe.jpg", folder / "b/link.jpg")
    os.symlink("/dev/zero", folder / "b/zero.png")
    monkeypatch.chdir(folder / "b")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as there: there.bind("socket.jpg")
    strange = {"a/pipe.jpg", "b/link.jpg", "b/zero.png", "b/socket.jpg"}
    with seconds(20):
        with pytest.warns(UserWarning) as said: table = read_parts(folder)
        assert len(table) == 6 and all(name in str(said[0].message) for name in strange | {"pipe.jpg"})
        found = check_folder(folder)
        with pytest.warns(UserWarning, match="pipe.jpg"): assert len(list_images([str(folder)])) == 6
    assert set(found[found["kind"] == "no picture"]["file"]) == strange and "spoils" not in set(found["level"])


def test_links_to_nothing_are_named_together(tmp_path):
    folder = make(tmp_path / "folder", dict(a=3, b=3))
    for number in range(2): os.symlink("/gone", folder / "a" / f"link {number}.jpg")
    with pytest.raises(ValueError, match="can't be reached: a/link 0.jpg, a/link 1.jpg; mend the links"): read_parts(folder)
    found = check_folder(folder)
    assert found[found["level"] == "spoils"]["kind"].tolist() == ["unreadable", "unreadable"]


def test_nothing_is_written_into_the_data(tmp_path, capsys):
    folder = make(tmp_path / "folder", dict(a=3, b=3))
    (tmp_path / "link").symlink_to(folder)
    before = sorted(folder.rglob("*"))
    for out in (folder / "run", folder, tmp_path / "link/a/run"):
        for command, options in ((transfer_compare, dict(recipes="bn_eval")), (transfer_fit, dict(recipe="bn_eval"))):
            code, said = status(command, folder, out=out, **options, **TINY, capsys=capsys)
            assert code == 2 and "lies inside" in said and "choose a place outside" in said
    assert status(transfer_fit, folder, recipe="bn_eval", out=tmp_path / "out", tensorboard=folder / "log", **TINY, capsys=capsys)[0] == 2
    assert sorted(folder.rglob("*")) == before


def test_names_that_are_no_utf8(tmp_path, capsys):
    folder = make(tmp_path / "folder", {"caf\udce9": 4, "b": 4})
    (folder / "b/0.jpg").rename(folder / "b/\udcff.jpg")
    for _ in range(2): assert status(transfer_split, folder, tmp_path / "split", capsys=capsys)[0] == 0
    table = pd.read_csv(tmp_path / "split/split.csv")
    assert set(table["class"]) == {"b", r"caf\udce9"} and r"b/\udcff.jpg" in set(table["file"])
    assert status(transfer_compare, tmp_path / "split", recipes="bn_eval", seeds=1, out=tmp_path / "run", **TINY, capsys=capsys)[0] == 0
    assert len(pd.read_csv(tmp_path / "run/split.csv")) == 8
    code, said = status(transfer_fit, tmp_path / "split", from_run=tmp_path / "run", out=tmp_path / "model", capsys=capsys)
    assert code == 0, said
    assert load_bundle(tmp_path / "model").spec.class_names == ("b", r"caf\udce9") and (tmp_path / "model/review.html").is_file()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("command, options", [(transfer_compare, dict(recipes="bn_eval")), (transfer_fit, dict(recipe="bn_eval"))])
def test_all_broken_images_are_named_at_once(split, command, options, tmp_path, capsys):
    "On both sides, before the first epoch and before anything is written; whether a split is made, by name, or there already."
    folder = make(tmp_path / "folder", sides(dict(train=5, valid=5), "a", "b") if split else dict(a=5, b=5))
    names = [f"{place}/{number}.jpg" for place in (("train/a", "valid/b") if split else ("a", "b")) for number in (0, 2, 4)]
    for name in names: (folder / name).write_bytes(b"no picture")
    for order in ("first", "shuffled"):
        code, said = status(command, folder, out=tmp_path / "out", order=order, **options, **TINY, capsys=capsys)
        assert code == 2 and len(said.splitlines()) == 1 and "6 images can't be read" in said and f"transfer_check {folder}" in said
        assert all(name in said for name in names)
    assert not [path for path in (tmp_path / "out").rglob("*")] and not (tmp_path / "out.checkpoint").exists()
