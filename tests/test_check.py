"""transfer_check, driven from outside: every kind of bad file made here, in one folder, and the real photographs."""

import errno
import hashlib
import json
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFilter, ImageOps
from forks import run
from test_commands import REAL, assert_one_line_error

from transfer_nbs import check, commands, examine
from transfer_nbs.files import claim


def picture(number: int, size: int = 96) -> Image.Image:
    "A picture of coloured clouds, another one for each number."
    clouds = np.random.default_rng(number).integers(256, size=(9, 9, 3), dtype=np.uint8)
    return Image.fromarray(clouds).resize((size, size), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def draw(folder: Path, *sides: str, each: int = 12) -> Path:
    "A sound folder of two classes, on the sides of a split or without."
    for number, place in enumerate((side, name) for side in sides or ("",) for name in ("cats", "dogs")):
        for index in range(each): save(picture(1000 * number + index), folder.joinpath(*place) / f"{index:03d}.jpg", quality=90)
    return folder


def state(folder: Path) -> dict:
    "All that is in a folder: kinds, sizes, times, contents and where links lead."
    found = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[os.fsencode(path.relative_to(folder))] = (path.lstat().st_mode, path.lstat().st_mtime_ns, content)
    return found


def checked(folder: Path, tmp_path: Path, *options) -> tuple:
    "What the command prints, and the reports it writes, in which nothing of the folder may have changed."
    before = state(folder)
    done = run("transfer_check", folder, "--csv", tmp_path / "report.csv", "--json", tmp_path / "report.json", *options)
    assert "Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr
    assert state(folder) == before
    return done, pd.read_csv(tmp_path / "report.csv", keep_default_na=False, dtype=str), json.loads((tmp_path / "report.json").read_text())


COLUMNS = ["level", "kind", "file", "class", "split", "detail", "other_file", "other_class", "other_split", "what_to_do"]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int) -> bytes:
    "A PNG file of a hundred bytes that claims to be so large."
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.fixture
def troubled(tmp_path):
    "A folder with every kind of file that the command knows of, and which kind each is; None for those that are all right."
    folder, kinds = draw(tmp_path / "troubled", "train", "valid", each=24), {}
    def add(kind, name, content):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        kinds[name] = kind

    def add_picture(kind, name, image, **options):
        save(image, folder / name, **options)
        kinds[name] = kind
    whole, cats = {}, "train/cats/"
    for format, suffix in {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "WEBP": "webp", "TIFF": "tiff", "PPM": "ppm"}.items():
        save(picture(50), tmp_path / f"whole.{suffix}", format=format)
        whole[suffix] = (tmp_path / f"whole.{suffix}").read_bytes()
        add("truncated", f"{cats}half {suffix}.{suffix}", whole[suffix][:len(whole[suffix]) // 2])
    add("truncated", cats + "a few bytes.jpg", whole["jpg"][:100])
    add("truncated", cats + "last bytes.jpg", whole["jpg"][:-4])
    add("truncated", cats + "a block of zeros.jpg", whole["jpg"][:800] + bytes(len(whole["jpg"]) - 800))
    add("empty file", cats + "empty.jpg", b"")
    add("web page", cats + "page.jpg", b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>")
    add("web page", cats + "denied.png", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>")
    add("bomb", cats + "bomb.png", bomb(60_000, 60_000))
    add("broken", cats + "letter.jpg", b"dear all, " * 100)
    add("broken", cats + "random.png", np.random.default_rng(0).bytes(5000))
    add("broken", cats + "phone.jpg", struct.pack(">I", 24) + b"ftypheic" + bytes(500))
    add("broken", cats + "wrong sum.png", whole["png"][:50] + b"\xff" * 8 + whole["png"][58:])
    add("broken", cats + "\udcffodd\x1b[31m\nname.jpg", b"no picture")
    os.symlink(tmp_path / "gone.jpg", folder / cats / "link.jpg")
    os.mkfifo(folder / cats / "pipe.jpg")
    kinds |= {cats + "link.jpg": "unreadable", cats + "pipe.jpg": "no picture"}
    with open(folder / cats / "huge.jpg", "wb") as file: file.truncate(examine._IN_MEMORY + 10**6)
    kinds[cats + "huge.jpg"] = "broken"

    save(picture(49), tmp_path / "other.jpg")
    add("half empty", cats + "room claimed.jpg", (tmp_path / "other.jpg").read_bytes()[:1200] + bytes(50_000))
    add(None, cats + "zeros behind the end.jpg", (tmp_path / "other.jpg").read_bytes() + bytes(50_000))
    add("no picture", cats + "notes.txt", b"notes")
    add("no picture", cats + "noextension", b"")
    add_picture("skipped picture", cats + "leap.gif", picture(51))
    add("skipped picture", cats + "telephone.heic", struct.pack(">I", 24) + b"ftypheic" + bytes(500))
    add("no picture", cats + "film.mp4", struct.pack(">I", 24) + b"ftypisom" + bytes(500))
    add_picture("outside", "train/stray.jpg", picture(52))
    add_picture("outside", "top.jpg", picture(53))
    add_picture("wrong extension", cats + "png.jpg", picture(54), format="PNG")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 8
    add_picture("turned", cats + "turned.jpg", picture(55), exif=turned)
    add_picture("grey", cats + "grey.jpg", picture(56).convert("L"))
    add_picture("palette", cats + "palette.png", picture(57).convert("P"))
    add_picture("transparent", cats + "transparent.png", picture(58).convert("RGBA"))
    add_picture("CMYK", cats + "print.jpg", picture(59).convert("CMYK"))
    add_picture("16 bit", cats + "scan.png", Image.fromarray(np.asarray(picture(60).convert("L")).astype(np.uint16) * 257))
    add_picture("animated", cats + "film.webp", picture(61), save_all=True, append_images=[picture(62)])
    add_picture("animated", cats + "pages.tif", picture(63), save_all=True, append_images=[picture(64)])
    add_picture("small", cats + "icon.png", picture(65, 16))
    add_picture("large", cats + "poster.jpg", picture(66, 500))
    add_picture(None, cats + "stereo.jpg", picture(67), format="MPO", save_all=True, append_images=[picture(68)])
    add_picture(None, cats + "upper.JPEG", picture(69))
    add_picture(None, cats + ".hidden.jpg", picture(70))
    (folder / cats / "folder.jpg").mkdir()
    sixteen = np.random.default_rng(1).integers(2**16, size=(96, 96, 3)).astype(">u2")  # Pillow can't write it, but reads it as mode RGB
    rows = b"".join(b"\0" + row.tobytes() for row in sixteen)
    add("16 bit", cats + "deep.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 96, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

    add("leak", "valid/cats/copy.jpg", (folder / "train/cats/000.jpg").read_bytes())
    add_picture("leak", "valid/cats/half.jpg", picture(1).reduce(2), quality=50)
    add_picture("leak", "valid/cats/mirrored.png", ImageOps.mirror(picture(2)))
    add("two labels", "train/dogs/cat.jpg", (folder / "train/cats/003.jpg").read_bytes())
    add("copies", "train/cats/again.jpg", (folder / "train/cats/004.jpg").read_bytes())
    return folder, kinds


def kinds_found(table: pd.DataFrame) -> dict:
    "The kinds that were found for each file, whichever place it has in a pair."
    found = {}
    for column in ("file", "other_file"):
        for file, kind in zip(table[column], table["kind"]): found.setdefault(file, set()).add(kind)
    return found


def test_every_kind_of_file_gets_its_line(troubled, tmp_path):
    folder, kinds = troubled
    done, table, report = checked(folder, tmp_path)
    assert done.returncode == 1
    found = kinds_found(pd.DataFrame(report["findings"]))
    for name, kind in kinds.items(): assert found.get(name, set()) == ({kind} if kind else set()), (name, kind, found.get(name))
    assert set(found) == {name for name, kind in kinds.items() if kind} | {f"train/cats/{number:03d}.jpg" for number in (0, 1, 2, 3, 4)} | {""}
    assert report["findings"][0]["kind"] == "leak" and list(table) == COLUMNS and len(table) == len(report["findings"])
    for kind in set(kinds.values()) - {None}: assert f"{kind} (" in done.stdout, kind
    assert "\x1b" not in done.stdout
    assert report["files"] == sum(1 for path in folder.rglob("*") if not path.is_dir() and path.name[0] != ".")


def test_each_file_is_opened_once(troubled, monkeypatch):
    opened = []
    def counting(path, mode):
        opened.append(path)
        return open(path, mode)
    monkeypatch.setattr(examine, "open", counting, raising=False)
    check.check_folder(troubled[0])
    assert len(opened) == len(set(opened)) > 100


def test_sound_folder_passes(tmp_path):
    done, table, report = checked(draw(tmp_path / "sound"), tmp_path)
    assert done.returncode == 0 and table.empty and report["pictures"] == 24, done.stdout
    assert "nothing found" in done.stdout


def test_classes(tmp_path):
    folder = draw(tmp_path / "classes", each=120)
    for number in range(12): save(picture(5000 + number), folder / "birds" / f"{number}.png")
    save(picture(6000), folder / "rare" / "one.png")
    (folder / "none").mkdir()
    done, table, _ = checked(folder, tmp_path)
    assert done.returncode == 1
    assert set(zip(table["kind"], table["class"])) == {("empty class", "none"), ("too few images", "rare"), ("few pictures", "rare"), ("rare class", "rare")}


@pytest.mark.parametrize("names, words", [(["train/cats", "train/dogs"], "no valid"), (["train/cats", "train/dogs", "valid/cats"], "not the classes of train"),
                                          (["only"], "only one class"), (["valid/cats", "test/cats"], "no train")])
def test_layouts_that_others_refuse(names, words, tmp_path):
    for number, name in enumerate(names):
        for index in range(12): save(picture(100 * number + index), tmp_path / "folder" / name / f"{index}.png")
    done, table, _ = checked(tmp_path / "folder", tmp_path)
    assert done.returncode == 1 and any(words in detail for detail in table[table["kind"] == "layout"]["detail"]), table
    assert run("transfer_compare", tmp_path / "folder", "--out", tmp_path / "out").returncode == 2


def test_leaks_are_told_for_every_file(tmp_path):
    "Many copies of one picture: a line for each that is too many, and none of those that leak is forgotten."
    folder = draw(tmp_path / "many", "train", "valid", "test")
    one = (folder / "train/cats/000.jpg").read_bytes()
    copies = [f"{side}/{name}/copy {number}.jpg" for side, name, count in (("train", "cats", 30), ("valid", "cats", 20), ("test", "dogs", 10)) for number in range(count)]
    for name in copies: (folder / name).write_bytes(one)
    _, table, _ = checked(folder, tmp_path)
    found = kinds_found(table)
    assert all("leak" in found[name] for name in copies)
    assert all("two labels" in found[name] for name in copies if name.startswith("test"))
    assert len(table) < 4 * len(copies)
    assert set(table["kind"]) == {"leak", "two labels", "copies"}


def test_quarantine_and_back(troubled, tmp_path):
    folder, kinds = troubled
    before, dest = state(folder), tmp_path / "bad"
    done = run("transfer_check", folder, "--quarantine", dest)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    gone = {name for name, kind in kinds.items() if kind in examine.UNDECODABLE}
    assert {os.fsdecode(name) for name in set(before) - set(state(folder))} == gone
    assert all((dest / name).is_file() for name in gone)
    assert "moved.jsonl" in done.stdout
    assert_one_line_error(run("transfer_check", folder, "--restore", dest / "moved.jsonl", "--quarantine", dest), "--restore")
    assert run("transfer_check", folder, "--restore", dest / "moved.jsonl").returncode == 0
    assert {name: (mode, content) for name, (mode, _, content) in state(folder).items()} == {name: (mode, content) for name, (mode, _, content) in before.items()}
    assert not list(dest.rglob("*"))


def test_quarantine_makes_a_folder_that_others_take(tmp_path):
    "What the check calls broken, transfer_split refuses; what it leaves in place, transfer_split takes."
    folder = draw(tmp_path / "photos")
    whole = (folder / "cats/000.jpg").read_bytes()
    (folder / "cats/000.jpg").write_bytes(whole[:len(whole) // 2])
    assert_one_line_error(run("transfer_split", folder, tmp_path / "first"), "000.jpg")
    assert run("transfer_check", folder).returncode == 1
    assert run("transfer_check", folder, "--quarantine", tmp_path / "bad").returncode == 0
    assert run("transfer_split", folder, tmp_path / "second").returncode == 0
    assert run("transfer_check", tmp_path / "second").returncode == 0


def test_quarantine_overwrites_nothing(tmp_path):
    folder = draw(tmp_path / "photos")
    (folder / "cats/bad.jpg").write_bytes(b"no picture")
    (tmp_path / "bad/cats").mkdir(parents=True)
    (tmp_path / "bad/cats/bad.jpg").write_text("precious")
    assert_one_line_error(run("transfer_check", folder, "--quarantine", tmp_path / "bad"), "bad.jpg", "is there already")
    assert (tmp_path / "bad/cats/bad.jpg").read_text() == "precious" and (folder / "cats/bad.jpg").exists()


def test_bad_input_is_named(tmp_path):
    folder, letter = draw(tmp_path / "photos"), tmp_path / "letter"
    letter.write_text("precious")
    (tmp_path / "hollow").mkdir()
    before = state(folder)
    assert_one_line_error(run("transfer_check", tmp_path / "gone"), tmp_path / "gone")
    assert_one_line_error(run("transfer_check", letter), letter)
    assert_one_line_error(run("transfer_check", tmp_path / "hollow"), "no class folders")
    assert_one_line_error(run("transfer_check", folder, "--csv", letter), letter, "another name")
    assert_one_line_error(run("transfer_check", folder, "--json", folder / "report.json"), "must stay as it is")
    assert_one_line_error(run("transfer_check", folder, "--csv", tmp_path / "no" / "report.csv"), "make it first")
    assert_one_line_error(run("transfer_check", folder, "--quarantine", folder / "cats"), "must stay as it is")
    assert_one_line_error(run("transfer_check", folder, "--restore", letter), letter, "not a list")
    assert state(folder) == before and letter.read_text() == "precious"
    for _ in range(2): assert run("transfer_check", folder, "--csv", tmp_path / "report.csv").returncode == 0  # its own report may be written anew


def found_in(folder: Path) -> dict:
    "The kinds that the check finds for each file, or for each class where the line is about a class."
    found = {}
    for row in check.check_folder(folder).to_dict("records"):
        for where in filter(None, (row["file"] or row["class"] or "folder", row["other_file"] or row["other_class"])): found.setdefault(where, set()).add(row["kind"])
    return found


def test_images_that_show_nothing_are_named_and_are_no_copies(tmp_path):
    folder, expected = draw(tmp_path / "photos"), {}
    def add(name, kind, image):
        save(image, folder / name)
        expected[name] = {kind}
    for name in ("cats", "dogs"):
        add(f"{name}/cap.png", "one colour", Image.new("RGB", (96, 96), "black"))
        add(f"{name}/green.jpg", "one colour", Image.new("RGB", (96, 96), (10, 120, 30)))
        hidden = picture(800 + len(expected))
        hidden.putalpha(0)
        add(f"{name}/hidden.png", "nothing left", hidden)
    add("cats/night.png", "nearly black", picture(900).point(lambda value: value // 10))
    add("cats/day.png", "nearly white", picture(901).point(lambda value: 232 + value // 11))
    assert found_in(folder) == {name: kinds | ({"transparent"} if "hidden" in name else set()) for name, kinds in expected.items()}


def test_a_folder_of_dark_images_is_not_unusual(tmp_path):
    folder = draw(tmp_path / "stars")
    for path in sorted(folder.glob("*/*"))[:16]: save(Image.open(path).point(lambda value: value // 10), path, quality=95)
    assert not set().union(*found_in(folder).values()) & {"nearly black", "out of focus"}


@pytest.mark.parametrize("size", [64, 256])
def test_out_of_focus_among_sharp_images(size, tmp_path):
    def figure(number):
        image = picture(number, size)
        ImageDraw.Draw(image).rectangle((size // 4, size // 5, size // 2, size // 2), fill=(number % 200, 255, 20))
        return image
    for number in range(24): save(figure(number), tmp_path / "sharp" / f"{number % 2}" / f"{number}.jpg", quality=95)
    for number in range(24): save(picture(number, size), tmp_path / "smooth" / f"{number % 2}" / f"{number}.jpg", quality=95)
    for radius in (0.04, 0.08): save(figure(50).filter(ImageFilter.GaussianBlur(radius * size)), tmp_path / "sharp" / "0" / f"blurred {radius}.jpg", quality=95)
    blurred = {name for name, kinds in found_in(tmp_path / "sharp").items() if "out of focus" in kinds}
    assert blurred == {"0/blurred 0.04.jpg", "0/blurred 0.08.jpg"}
    assert not found_in(tmp_path / "smooth")


def letter(random: np.random.Generator, mirrored: bool, flipped: bool = False) -> Image.Image:
    "A stem with a bowl to its right, as in b; mirrored, d; flipped, p."
    image = Image.new("RGB", (64, 64), tuple(int(value) for value in random.integers(180, 256, 3)))
    draw, (x, y), size = ImageDraw.Draw(image), random.integers(14, 30, 2).tolist(), int(random.integers(14, 22))
    ink = tuple(int(value) for value in random.integers(0, 90, 3))
    draw.line((x, y - 10, x, y + size), fill=ink, width=4)
    draw.ellipse((x, y, x + size, y + size), outline=ink, width=4)
    image = image.rotate(float(random.uniform(-8, 8)), fillcolor=image.getpixel((0, 0)))
    if flipped: image = ImageOps.flip(image)
    return ImageOps.mirror(image) if mirrored else image


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_that_mirroring_confuses(seed, tmp_path):
    random = np.random.default_rng(seed)
    for number in range(40):
        for name, options in {"b": (False,), "d": (True,), "p": (False, True)}.items(): save(letter(random, *options), tmp_path / "letters" / name / f"{number}.png")
    findings = check.check_folder(tmp_path / "letters").query("kind == 'mirror classes'")
    assert findings[["class", "other_class", "level"]].to_numpy().tolist() == [["b", "d", "warning"]]
    turned = tmp_path / "turned"
    for path in (tmp_path / "letters").glob("[bd]/*.png"): save(Image.open(path).rotate(90), turned / path.parent.name / path.name)
    assert "mirror classes" not in set(check.check_folder(turned)["kind"])


def test_ends_that_are_never_seen(tmp_path):
    folder = draw(tmp_path / "photos", each=40)
    for path in folder.glob("cats/00*.jpg"): save(picture(int(path.stem)).resize((240, 80)), path)
    save(picture(900).resize((60, 240)), folder / "dogs/tall.png")
    save(picture(901).resize((4000, 1)), folder / "dogs/line.png")
    save(picture(902).resize((30, 900)), folder / "dogs/rule.png")
    found = found_in(folder)
    assert (found["cats"], found["dogs/tall.png"], found["dogs/line.png"] - {"small"}, found["dogs/rule.png"]) == ({"ends cut off"}, {"long image"}, {"strip"}, {"strip"})
    [said] = check.check_folder(folder).query("kind == 'ends cut off'")["detail"]
    assert "10 of 40 images" in said and "3.0 to 1" in said and "26%" in said


@pytest.fixture
def broken(tmp_path):
    "A folder with three files that can't be decoded, and what was found in it."
    folder = draw(tmp_path / "photos", each=4)
    for name in ("cats/a.jpg", "cats/b.jpg", "dogs/inner/c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder, check.check_folder(folder)


def contents(folder: Path) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("disks", [1, 2])
def test_a_quarantine_killed_anywhere_is_gone_on_with(disks, broken, tmp_path, monkeypatch):
    "The n-th call that changes or syncs anything is the last one; then the same once more, there and back."
    folder, findings = broken
    sound, calls = contents(folder), ("fsync", "replace", "unlink", "rmdir", "mkdir", "link", "symlink", "rename")

    def stopping(last):
        count = 0
        def wrap(name, call):
            def counted(*arguments, **options):
                nonlocal count
                count += 1
                if count > last: raise KeyboardInterrupt
                if name == "rename" and disks == 2: raise OSError(errno.EXDEV, "Invalid cross-device link")
                return call(*arguments, **options)
            return counted
        for name in calls: monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))

    def until_done(action, last):
        with monkeypatch.context():
            stopping(last)
            try: action()
            except KeyboardInterrupt: return False
            finally: monkeypatch.undo()
        return True

    check.quarantine_files(folder, findings, tmp_path / "whole")
    moved, left = contents(tmp_path / "whole"), contents(folder)
    check.restore_files(tmp_path / "whole/moved.jsonl", folder)
    for last in range(200):
        done = until_done(lambda: check.quarantine_files(folder, findings, tmp_path / "bad"), last)
        if not done: check.quarantine_files(folder, check.check_folder(folder), tmp_path / "bad")
        assert (contents(tmp_path / "bad"), contents(folder)) == (moved, left), last
        if not until_done(lambda: check.restore_files(tmp_path / "bad/moved.jsonl", folder), last):
            if (tmp_path / "bad/moved.jsonl").exists(): check.restore_files(tmp_path / "bad/moved.jsonl", folder)
            done = False
        assert contents(folder) == sound and not [path for path in (tmp_path / "bad").iterdir() if path.suffix != ".lock"], last
        if done: break
    assert 10 < last < 199


@pytest.fixture
def moved(broken, tmp_path):
    "The list of a quarantine, and another folder with the same classes."
    check.quarantine_files(*broken, tmp_path / "bad")
    return tmp_path / "bad/moved.jsonl", draw(tmp_path / "other", each=4)


def test_a_list_is_restored_to_its_own_folder_alone(broken, moved, tmp_path):
    (folder, findings), (listed, other) = broken, moved
    before = [state(place) for place in (tmp_path / "bad", folder, other)]
    assert_one_line_error(run("transfer_check", other, "--restore", listed), listed, f"lists files of {folder}, not of {other}", "give that folder, or rename it")
    (other / "cats/a.jpg").write_bytes(b"no picture")
    assert_one_line_error(run("transfer_check", other, "--quarantine", listed.parent), listed, "choose another folder for what is moved")
    with pytest.raises(ValueError, match="choose another folder"): check.quarantine_files(other, findings, listed.parent)
    (other / "cats/a.jpg").unlink()
    now = [state(place) for place in (tmp_path / "bad", folder, other)]
    assert [{name: facts[2] for name, facts in found.items()} for found in now] == [{name: facts[2] for name, facts in found.items()} for found in before]
    (tmp_path / "link").symlink_to(folder)
    assert check.restore_files(listed, tmp_path / "link") == ["cats/a.jpg", "cats/b.jpg", "dogs/inner/c.jpg"]


@pytest.mark.parametrize("older", [False, True])
def test_a_renamed_folder_and_an_older_list_are_taken(older, broken, moved, tmp_path):
    "A list of an earlier version names no folder; more is added to it, and what it lists isn't listed twice."
    (folder, _), (listed, _) = broken, moved
    if older: listed.write_text("".join(json.dumps({name: value for name, value in json.loads(line).items() if name != "folder"}) + "\n" for line in listed.read_text().splitlines()))
    else: folder = folder.rename(tmp_path / "renamed")
    os.rename(listed.parent / "cats/a.jpg", folder / "cats/a.jpg")  # as if it had been stopped before the move
    (folder / "dogs/d.jpg").write_bytes(b"no picture")
    check.quarantine_files(folder, check.check_folder(folder), listed.parent)
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["cats/a.jpg", "cats/b.jpg", "dogs/inner/c.jpg", "dogs/d.jpg"] and lines[-1]["folder"] == str(folder)
    assert len(check.restore_files(listed, folder)) == 4 and not listed.exists()


def test_a_file_that_is_gone_is_not_forgotten(broken, moved):
    folder, (listed, _) = broken[0], moved
    os.rename(listed.parent / "cats/a.jpg", folder / "cats/a.jpg")  # as if it had been stopped after the first move
    gone = (listed.parent / "cats/b.jpg").rename(folder.parent / "b.jpg")
    before = contents(listed.parent), contents(folder)
    assert_one_line_error(run("transfer_check", folder, "--restore", listed), listed, "lists cats/b.jpg, which is neither in", "put it back or remove its line")
    assert (contents(listed.parent), contents(folder)) == before
    gone.rename(listed.parent / "cats/b.jpg")
    assert check.restore_files(listed, folder) == ["cats/b.jpg", "dogs/inner/c.jpg"] and not contents(listed.parent)


def test_a_list_does_not_move_itself(broken, moved):
    folder, (listed, _) = broken[0], moved
    renamed, lines = listed.with_name("list"), listed.read_bytes()
    for path, name in ((listed, "moved.jsonl"), (listed, "./moved.jsonl"), (renamed, "list")):
        path.write_bytes(lines + json.dumps({"file": name}).encode() + b"\n")
        with pytest.raises(ValueError, match=r"is not a list .*\(line 4\)"): check.restore_files(path, folder)
        assert path.exists() and (listed.parent / "cats/a.jpg").exists()


def test_half_a_line_of_the_list_is_left_out(broken, tmp_path):
    folder, findings = broken
    moved = check.quarantine_files(folder, findings, tmp_path / "bad")
    listed = tmp_path / "bad/moved.jsonl"
    lines = listed.read_bytes()
    os.rename(tmp_path / "bad" / moved[-1], folder / moved[-1])
    start = lines.index(b"\n", 0, -1)
    for end in (len(lines) - 1, len(lines) - 5, lines.rindex(b"\n", 0, -1) + 1, lines.rindex(b"\n", 0, -1) + 4):
        for zeros in (b"", bytes(30)):
            listed.write_bytes(lines[:end] + zeros)
            assert check.quarantine_files(folder, check.check_folder(folder), tmp_path / "bad") == moved[-1:]
            assert listed.read_bytes() == lines
            os.rename(tmp_path / "bad" / moved[-1], folder / moved[-1])
    for spoilt, number in ((lines[:start - 9] + lines[start:], 1), (lines[:start + 1] + b"\n" + lines[start + 1:], 2), (b"dear all", 1), (lines + b"dear all", 4),
                           (lines[:start + 1] + b'{"file": "/etc/passwd"}\n', 2), (b'{"file": ""}\n', 1), (b"[]\n", 1)):
        listed.write_bytes(spoilt)
        with pytest.raises(ValueError, match=rf"moved.jsonl: is not a list .*\(line {number}\)"): check.restore_files(listed, folder)
        with pytest.raises(ValueError, match=rf"moved.jsonl: is not a list .*\(line {number}\)"): check.quarantine_files(folder, findings[findings["file"] == moved[-1]], tmp_path / "bad")
        assert listed.read_bytes() == spoilt and (tmp_path / "bad" / moved[0]).exists()
    listed.write_bytes(lines[:-9])
    assert check.restore_files(listed, folder) == moved[:-1] and not contents(tmp_path / "bad")


def test_a_full_disk_leaves_the_list_whole(broken, tmp_path, monkeypatch):
    folder, findings = broken
    first, rest = findings[findings["file"] == "cats/a.jpg"], findings
    check.quarantine_files(folder, first, tmp_path / "bad")
    before, sound = contents(tmp_path / "bad"), contents(folder)
    def full(number): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error: check.quarantine_files(folder, rest[rest["file"] != "cats/a.jpg"], tmp_path / "bad")
    assert error.value.filename == str(tmp_path / "bad/moved.jsonl")
    assert (contents(tmp_path / "bad"), contents(folder)) == (before, sound)


def test_one_quarantine_at_a_time(broken, tmp_path):
    folder, findings = broken
    with claim(tmp_path / "bad/moved.jsonl"), pytest.raises(ValueError, match="another program is writing there: wait for it, or choose another folder"):
        check.quarantine_files(folder, findings, tmp_path / "bad")
    check.quarantine_files(folder, findings, tmp_path / "bad")
    with claim(tmp_path / "bad/moved.jsonl"), pytest.raises(ValueError, match="another program is writing there"):
        check.restore_files(tmp_path / "bad/moved.jsonl", folder)


def test_reports_and_quarantine_come_before_the_text(broken, tmp_path, monkeypatch):
    "And the text has no control characters, whatever a folder is called."
    odd = tmp_path / "pho\x1b[31mtos"
    os.rename(broken[0], odd)
    said = []
    def closed(*text, **_):
        said.extend(text)
        raise BrokenPipeError
    for failing in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr("builtins.print", closed if failing else lambda *text, **_: said.extend(text))
            patched.setattr(os, "dup2", lambda *_: None)
            with suppress(SystemExit): commands.transfer_check(str(odd), csv=str(tmp_path / "report\x1b.csv"), json=str(tmp_path / "report.json"), quarantine=str(tmp_path / "bad\x1b"))
        assert (tmp_path / "report\x1b.csv").exists() and (tmp_path / "report.json").exists() and (tmp_path / "bad\x1b/moved.jsonl").exists()
    assert len(said) > 4 and not any("\x1b" in text for text in said)


@pytest.mark.skipif(not (REAL / "clothing").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_clothing_has_one_picture_under_two_labels(tmp_path):
    done = run("transfer_check", REAL / "clothing", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    pairs = [row for row in report["findings"] if row["other_file"]]
    assert done.returncode == 1 and report["pictures"] == 3781
    assert [(row["kind"], {row["class"], row["other_class"]}, row["split"], row["other_split"]) for row in pairs] == [("two labels", {"shorts", "skirt"}, "train", "train")]


@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_hymenoptera_has_a_stray_gif(tmp_path):
    done = run("transfer_check", REAL / "hymenoptera", "--json", tmp_path / "report.json")
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert done.returncode == 0, done.stdout
    assert [(row["kind"], row["file"]) for row in findings if row["level"] == "warning" and row["kind"] != "small"] == [("skipped picture", "train/ants/imageNotFound.gif")]


@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
@pytest.mark.parametrize("kind, change, quality, least", [("half", lambda image: image.resize([side // 2 for side in image.size]), 90, 0.95), ("quality 50", lambda image: image, 50, 0.95),
                                                          ("mirrored", ImageOps.mirror, 90, 0.95)])
def test_planted_copies_are_found(kind, change, quality, least, tmp_path):
    "Copies of 60 photographs in valid, originals and others in train: at least so many are found, and nothing else is taken for a copy."
    photographs = sorted((REAL / "hymenoptera/train").glob("*/*.jpg"))[::2]
    (tmp_path / "folder/train/all").mkdir(parents=True)
    for number, path in enumerate(photographs):
        os.symlink(path, tmp_path / "folder/train/all" / f"{number}.jpg")
        if number < 60: save(change(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), tmp_path / "folder/valid/all" / f"{number}.jpg", quality=quality)
    pairs = check.check_folder(tmp_path / "folder").query("kind == 'leak'")
    right = [Path(first).stem == Path(second).stem for first, second in zip(pairs["file"], pairs["other_file"])]
    assert all(right) and len(right) >= least * 60
