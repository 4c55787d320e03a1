"""Copies and look-alikes: what the check calls a copy the split keeps on one side, and what merely looks alike loses no class."""

import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from test_check import draw, picture, save, state
from forks import run
from test_commands import REAL, assert_one_line_error

from transfer_nbs.check import check_folder, quarantine_files, restore_files, surplus_copies
from transfer_nbs.duplicates import find_alike, find_duplicates, what_differs
from transfer_nbs.split import split_images
from transfer_nbs.split_folder import split_folder


def saved(image: Image.Image, quality: int) -> Image.Image:
    "An image as JPEG leaves it."
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def part(scratch: bool = False) -> Image.Image:
    "A part under a fixed camera, perhaps with a scratch of 3 x 20 pixels."
    image = Image.new("RGB", (256, 256), (70, 75, 80))
    pen = ImageDraw.Draw(image)
    pen.ellipse((50, 50, 206, 206), fill=(150, 150, 155))
    pen.rectangle((120, 40, 136, 60), fill=(180, 180, 185))
    pen.rectangle((90, 150, 110, 175), fill=(60, 60, 60))
    if scratch: pen.line((150, 90, 168, 100), fill=(235, 235, 240), width=3)
    return image


def photograph(image: Image.Image, number: int, shake: float = 3) -> Image.Image:
    "One exposure: noise, light, and a camera that shook."
    lot = np.random.default_rng(number)
    x, y = (float(value) for value in lot.uniform(-shake, shake, 2))
    image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))
    pixels = np.asarray(image) * lot.uniform(0.93, 1.07) + lot.normal(0, 5, (*image.size[::-1], 3))
    return saved(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), 92)


def form(number: int) -> Image.Image:
    "A form that is filled in differently each time."
    lot, page = np.random.default_rng(number), Image.new("RGB", (210, 297), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((15, 15, 100, 30), fill=(40, 40, 40))
    pen.rectangle((125, 220, 195, 260), outline=(0, 0, 0), width=3)
    for line in range(14):
        y = 55 + 15 * line
        pen.line((15, y, 195, y), fill=(180, 180, 180))
        for x in range(16, 16 + int(lot.integers(20, 170)), 4): pen.line((x, y - 2, x + 2, y - 2 - int(lot.integers(2, 8))), fill=(30, 30, 30))
    return page


COPIES = {"quality 60": lambda image: saved(image, 60), "half": lambda image: saved(image.resize([side // 2 for side in image.size]), 90),
          "lighter": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.15), 90),
          "grey": lambda image: saved(image.convert("L").convert("RGB"), 85),
          "trimmed on one side": lambda image: saved(image.crop((round(0.04 * image.width), 0, image.width, image.height)), 90),
          "trimmed, half, quality 60": lambda image: saved(image.crop((3, 2, image.width - 2, image.height - 3)).resize([side // 2 for side in image.size]), 60)}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_the_same_image(kind):
    for image in (picture(1, 256), picture(2, 200), photograph(part(), 0), form(0)):
        copy = COPIES[kind](image)
        assert what_differs(image, copy) == what_differs(copy, image) == ""


def test_look_alikes_are_not():
    clean, page = photograph(part(), 1, shake=0), form(1)
    changed = page.copy()
    ImageDraw.Draw(changed).text((30, 268), "7", fill=(30, 30, 30), font_size=14)
    assert what_differs(clean, photograph(part(scratch=True), 2, shake=0)) == "differ in places"
    assert what_differs(saved(part(), 80), saved(part(scratch=True), 80)) == "differ in places"
    assert what_differs(clean, photograph(part(), 3, shake=0)) == "other noise"
    assert what_differs(clean, photograph(part(), 4)) in ("moved", "other noise")
    assert what_differs(form(2), form(3)) == what_differs(page, changed) == what_differs(saved(page, 60), saved(changed, 75)) == "differ in places"


def test_a_hash_alone_joins_nothing(tmp_path):
    "Forms, parts and blank images among copies: the copies are found, mirrored and transitive ones too, and nothing else."
    images = {f"form {number}": form(number) for number in range(5)} | {f"part {number}": photograph(part(number % 2), number) for number in range(4)}
    images |= {f"white {number}": Image.new("RGB", (64, 60 + number), "white") for number in range(4)}
    images |= {"cloud": picture(5, 128), "cloud half": COPIES["half"](picture(5, 128)), "cloud mirrored": saved(ImageOps.mirror(picture(5, 128)), 70),
               "form 0 again": saved(form(0), 60), "form 0 once more": saved(saved(form(0), 60), 50)}
    for name, image in images.items(): save(image, tmp_path / f"{name}.png")
    copies, alike = find_alike(sorted(tmp_path.glob("*.png")))
    assert [sorted(path.stem for path in group) for group in copies] == [["cloud", "cloud half", "cloud mirrored"], ["form 0", "form 0 again", "form 0 once more"]]
    assert all(not path.stem.startswith(("white", "cloud")) for group in alike for path in group) and any(len(group) >= 5 for group in alike)
    files = sorted(tmp_path.glob("*.png"))
    assert find_duplicates(files, threshold=0) == [] == find_alike(files, threshold=0)[1]


def test_forms_can_be_trained_on(tmp_path):
    "A class of forms keeps its share, and what looks alike on both sides is said with a way out."
    for name, first in (("invoice", 0), ("letter", 100)):
        for number in range(10): save(form(first + number), tmp_path / "forms" / name / f"{number}.png")
    with pytest.warns(UserWarning, match=r"4 held-out images look alike to images that are trained on.*--alike"): table = split_images(tmp_path / "forms")
    assert table["split"].value_counts().to_dict() == {"train": 16, "valid": 4} and table.attrs["duplicates"] == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert split_images(tmp_path / "forms", alike=0)["split"].value_counts().to_dict() == {"train": 16, "valid": 4}
    findings = check_folder(tmp_path / "forms").query("other_file != ''")
    assert set(findings["kind"]) == {"alike in two classes"} and len(findings) >= 18 and set(findings["level"]) == {"note"}
    assert not findings["what_to_do"].str.contains("remove").any()
    assert check_folder(tmp_path / "forms", alike=0).query("other_file != ''").empty


def test_look_alikes_stay_together_where_the_share_allows(tmp_path):
    "Ten scenes of two images in each class: no scene is parted."
    def scene(number, moved):
        image = Image.fromarray(np.random.default_rng(number).integers(256, size=(24, 24, 3), dtype=np.uint8)).resize((144, 144), Image.Resampling.BICUBIC)
        ImageDraw.Draw(image).ellipse((40 + moved, 60, 44 + moved, 64), fill="orange")
        return image
    for name, first in (("cats", 0), ("dogs", 50)):
        for number in range(20): save(scene(first + number // 2, 8 * (number % 2)), tmp_path / "scenes" / name / f"{number:02d}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = split_images(tmp_path / "scenes")
    assert len(table.attrs["alike"]) == 20 and pd.crosstab(table["class"], table["split"]).to_numpy().tolist() == [[16, 4], [16, 4]]
    side = dict(zip(table["file"], table["split"]))
    assert all(len({side[file] for file in group}) == 1 for group in table.attrs["alike"])


def test_a_missed_share_is_said(tmp_path):
    "Half of a class is one image: a fifth can't be held out of it in small steps."
    folder = draw(tmp_path / "photos", each=6)
    for number in range(3): (folder / "cats" / f"copy {number}.jpg").write_bytes((folder / "cats/000.jpg").read_bytes())
    for number in range(1, 6): (folder / "cats" / f"00{number}.jpg").unlink()
    for number in range(3): save(saved(picture(99), 50 + number), folder / "cats" / f"other {number}.jpg")
    with pytest.warns(UserWarning, match=r"shares are not what was asked for: 43% of cats in valid, not 20%"): split_images(folder)


def test_mirrored_copies_stay_on_one_side(tmp_path):
    folder = draw(tmp_path / "photos", each=20)
    for path in sorted(folder.glob("*/0[01]*.jpg")): save(ImageOps.mirror(Image.open(path)), path.with_name(f"mirrored {path.name}"), quality=80)
    split_folder(folder, tmp_path / "split", mode="copy")
    table = split_images(folder)
    side = dict(zip(table["file"], table["split"]))
    assert len(table.attrs["duplicates"]) == 40
    assert all(side[file] == side[file.replace("/mirrored ", "/")] for file in side)
    assert not {"leak", "two labels"} & set(check_folder(tmp_path / "split")["kind"])


def test_leaks_are_mended_and_brought_back(tmp_path):
    "The copies in train go, those that are held out stay; no leak is left, labels are for people to decide, and all comes back."
    folder = draw(tmp_path / "photos", "train", "valid", "test")
    whole = (folder / "train/cats/000.jpg").read_bytes()
    for name in ("train/cats/again.jpg", "valid/cats/copy.jpg"): (folder / name).write_bytes(whole)
    save(ImageOps.mirror(Image.open(folder / "train/cats/001.jpg")), folder / "test/cats/mirrored.jpg", quality=80)
    save(saved(Image.open(folder / "valid/dogs/002.jpg"), 60), folder / "test/dogs/saved.jpg")
    before, dest = state(folder), tmp_path / "aside"
    findings = check_folder(folder)
    assert set(surplus_copies(findings)["file"]) == {"train/cats/000.jpg", "train/cats/again.jpg", "train/cats/001.jpg", "valid/dogs/002.jpg"}
    done = run("transfer_check", folder, "--mend_leaks", dest)
    assert done.returncode == 0 and "4 files" in done.stdout and "nothing would spoil a result any more" in done.stdout, done.stdout
    assert set(check_folder(folder)["kind"]) == set()
    assert len([json.loads(line) for line in (dest / "moved.jsonl").read_text().splitlines()]) == 4
    restore_files(dest / "moved.jsonl", folder)
    assert {name: content for name, (_, _, content) in state(folder).items()} == {name: content for name, (_, _, content) in before.items()}
    assert not list(dest.iterdir())
    (folder / "valid/dogs/a cat.jpg").write_bytes(whole)  # a leak under two labels
    findings = check_folder(folder)
    assert "valid/dogs/a cat.jpg" not in set(surplus_copies(findings)["file"])
    quarantine_files(folder, findings, dest, rows=surplus_copies(findings))
    assert set(check_folder(folder)["kind"]) == {"two labels"}


def test_bits_out_of_range(tmp_path):
    folder = draw(tmp_path / "photos")
    for command in (["transfer_check", folder], ["transfer_split", folder, tmp_path / "split"]):
        assert_one_line_error(run(*command, "--alike", "300"), "alike is 300", "between 0")
    split_folder(folder, tmp_path / "split")
    with pytest.raises(ValueError, match="was split with alike 36, not 8"): split_folder(folder, tmp_path / "split", alike=8)


@pytest.mark.skipif(not (REAL / "hymenoptera").is_dir(), reason=f"the real photographs are not at {REAL}")
def test_mirrored_photographs_stay_on_one_side(tmp_path):
    for number, path in enumerate(sorted((REAL / "hymenoptera/val").glob("*/*.jpg"))[::4]):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image.thumbnail((320, 320))
        save(image, tmp_path / path.parent.name / f"{number}.jpg", quality=90)
        save(ImageOps.mirror(image), tmp_path / path.parent.name / f"{number} mirrored.jpg", quality=90)
    table = split_images(tmp_path)
    pairs = table.groupby(table["file"].str.extract(r"(\w+/\d+)", expand=False))["split"].nunique()
    assert len(pairs) > 30 and (pairs == 1).all()
