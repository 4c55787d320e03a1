"A split of a folder: what it promises where a class is small, labels disagree, images look alike or links fail."

import io
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.duplicates import find_duplicates
from transfer_nbs.files import content_hash
from transfer_nbs.folders import find_images
from transfer_nbs.images import open_image
from transfer_nbs.split import split_images
from transfer_nbs.split_folder import split_folder

GREY = Image.new("RGB", (8, 8), "grey")


@pytest.fixture(scope="module")
def practice() -> Path: return practice_folder(Camouflage(n=200, size=128, seed=0))


@pytest.fixture(scope="module")
def files(practice) -> list[Path]: return [file for paths in find_images(practice).values() for file in paths]


def make(folder: Path, contents: dict[str, Image.Image]) -> Path:
    "A folder of images from a path for each."
    for path, image in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)
    return folder


@pytest.fixture
def few(files, tmp_path) -> Path:
    "Three cats and twelve dogs."
    cats = {f"cats/{n}.png": open_image(files[n]) for n in range(3)}
    return make(tmp_path / "few", cats | {f"dogs/{n}.png": open_image(files[n + 100]) for n in range(12)})


def saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def copies_of(image: Image.Image) -> list[Image.Image]:
    "Copies that were saved again, made smaller, lightened and trimmed."
    width, height = image.size
    box = [round(edge) for edge in (0.03 * width, 0.03 * height, 0.97 * width, 0.97 * height)]
    return [saved(image, 60), saved(image.resize((width // 2, height // 2)), 90),
            saved(ImageEnhance.Brightness(image).enhance(1.15), 90), saved(image.crop(box), 90)]


def counts(table: pd.DataFrame) -> list[list[int]]:
    "A row for each class and a column for each split, by name."
    return pd.crosstab(table["class"], table["split"]).to_numpy().tolist()


def held_out(table: pd.DataFrame) -> set[str]: return set(table["hash"][table["split"] == "valid"])


def warned(function) -> tuple[pd.DataFrame, list[str]]:
    "What a function returns, and its warnings."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = function()
    return result, [str(warning.message) for warning in found]


def state(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_the_table(practice):
    table = split_images(practice)
    assert list(table.columns) == ["file", "class", "split", "hash"]
    assert counts(table) == [[80, 20], [80, 20]] and all(content_hash(practice / file) == digest
                                                         for file, digest in zip(table["file"][:9], table["hash"]))
    assert set(table.attrs) == {"duplicates", "alike"}


def test_planted_copies_are_found(files, tmp_path):
    planted = {f"{100 * kind + number}.png": copy for number, file in enumerate(files[:3])
               for kind, copy in enumerate(copies_of(open_image(file)))}
    groups = find_duplicates(files + sorted(make(tmp_path / "planted", planted).iterdir()))
    assert [len(group) for group in groups] == [5, 5, 5]
    assert all({f"{100 * kind + number}.png" for kind in range(4)} < {path.name for path in group} for number, group in enumerate(groups))


def test_the_first_files_by_name(practice):
    table = split_images(practice, order="first")
    for name, paths in find_images(practice).items():
        rows = table[table["class"] == name]
        assert list(rows["split"]) == ["valid"] * 20 + ["train"] * 80
        assert list(rows["file"]) == [f"{name}/{path.name}" for path in paths]
    assert table.attrs == {"duplicates": [], "alike": []}


@pytest.mark.parametrize("order", ["shuffled", "first"])
def test_a_third_part_changes_no_validation_image(order, practice):
    three = split_images(practice, order=order, test_fraction=0.1)
    assert counts(three) == [[10, 70, 20], [10, 70, 20]]
    assert held_out(three) == held_out(split_images(practice, order=order))


@pytest.mark.parametrize(("options", "told"), [
    (dict(valid_fraction=20), "valid_fraction is 20; it must lie between 0 and 1"),
    (dict(test_fraction=0.8), "test_fraction is 0.8; it must be 0 or more and leave something beside valid_fraction 0.2"),
    (dict(order="random"), "it must be 'shuffled' or 'first'"), (dict(seed=-1), "seed is -1; it must be 0 or more"),
    (dict(alike=300), "alike is 300; it must lie between 0 bits")])
def test_options_out_of_range(options, told, few):
    with pytest.raises(ValueError) as error: split_images(few, **options)
    assert told in str(error.value)


def test_small_classes_are_on_both_sides(few): assert counts(split_images(few)) == [[2, 1], [10, 2]]


def test_classes_that_cannot_be_on_both_sides(files, tmp_path):
    single = make(tmp_path / "single", {"cats/1.png": GREY, "dogs/1.png": GREY, "dogs/2.png": open_image(files[1])})
    clones = {f"cats/{n}.png": open_image(files[0]) for n in range(3)}
    clones = make(tmp_path / "clones", clones | {f"dogs/{n}.png": open_image(files[n + 100]) for n in range(3)})
    with pytest.raises(ValueError, match=r"too few images in class cats \(1\)"): split_images(single)
    with pytest.raises(ValueError, match="class cats: its 3 images are copies of one image"): split_images(clones)


def test_one_image_with_two_labels(few):
    (few / "dogs/stray cat.png").write_bytes((few / "cats/0.png").read_bytes())
    table, texts = warned(lambda: split_images(few))
    assert texts == [f"{few}: the same image under two labels: cats/0.png = dogs/stray cat.png"]
    assert table.set_index("file").loc[["cats/0.png", "dogs/stray cat.png"], "split"].nunique() == 1


def test_frames_of_a_film_stay_together_while_the_share_allows_it(files, tmp_path):
    def frame(number, scene):
        image, left = open_image(files[scene]), 20 + 4 * number
        ImageDraw.Draw(image).ellipse((left, 60, left + 8, 68), fill="orange")
        return image
    cats = {f"cats/{n}.png": frame(n, 0) for n in range(12)}  # one scene: it fits into no fifth of its class
    film = make(tmp_path / "film", cats | {f"dogs/{n}.png": frame(n % 2, n // 2 + 100) for n in range(12)})
    table, texts = warned(lambda: split_images(film))
    assert table.attrs["duplicates"] == [] and counts(table) == [[10, 2], [10, 2]]
    split = table.set_index("file")["split"]
    assert all(split[f"dogs/{n}.png"] == split[f"dogs/{n + 1}.png"] for n in range(0, 12, 2))
    assert len(texts) == 1 and "2 held-out images look alike" in texts[0]


def test_mirrored_copies_stay_together(practice, tmp_path):
    pairs = {}
    for name, paths in find_images(practice).items():
        for number, image in enumerate(map(open_image, paths[:40:2])):
            pairs |= {f"{name}/{number} plain.png": image, f"{name}/{number} mirrored.png": ImageOps.mirror(image)}
    split = split_images(make(tmp_path / "pairs", pairs)).set_index("file")["split"]
    assert len(split) == 80 and not [file for file in split.index if split[file] != split[file.replace("mirrored", "plain")]]


def test_written_as_links(few, tmp_path):
    before, dest = state(few), tmp_path / "written"
    table = split_folder(few, dest)
    assert state(few) == before and sorted(path.name for path in dest.iterdir()) == ["split.csv", "split.json", "train", "valid"]
    manifest = pd.read_csv(dest / "split.csv")
    assert manifest.to_numpy().tolist() == table.to_numpy().tolist()
    for file, split in zip(manifest["file"], manifest["split"]):
        link = dest / split / file
        assert link.is_symlink() and link.resolve() == (few / file).resolve()
    assert len(list(dest.glob("*/*/*"))) == len(manifest)
    before = state(dest)
    split_folder(few, dest)
    assert state(dest) == before


def test_another_split_is_refused(few, practice, tmp_path):
    dest = tmp_path / "written"
    split_folder(few, dest)
    refused = [(lambda: split_folder(few, dest, seed=1), "was split with seed 0, not 1; choose"),
               (lambda: split_folder(few, dest, mode="copy"), "was split with mode link, not copy"),
               (lambda: split_folder(few, practice), "is not empty and was not written by transfer_split"),
               (lambda: split_folder(few, few / "sides"), "which must stay as it is"),
               (lambda: split_folder(few, tmp_path / "new", mode="move"), "it must be 'link' or 'copy'")]
    for call, told in refused:
        with pytest.raises(ValueError) as error: call()
        assert told in str(error.value)
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(few / "cats/new.png")
    with pytest.raises(ValueError, match="its split.csv and the images in"): split_folder(few, dest)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "trailing", "[" * 100_000, "\udcff"])
def test_broken_settings_are_named(text, few, tmp_path):
    written = tmp_path / "written/split.json"
    split_folder(few, written.parent)
    content = written.read_text() + text if text == "trailing" else text
    written.write_text(content, errors="surrogateescape")
    before = state(written.parent)
    with pytest.raises(ValueError) as error: split_folder(few, written.parent)
    assert str(error.value) == f"{written}: is broken; choose another folder or delete this one"
    assert state(written.parent) == before


def test_a_file_system_without_links_gets_copies(few, tmp_path):
    with patch("os.symlink", side_effect=OSError("not supported")):
        table, texts = warned(lambda: split_folder(few, tmp_path / "stick"))
    assert texts[-1].endswith("no links can be made here (not supported); copying instead")
    copies = list((tmp_path / "stick").glob("*/*/*"))
    assert {content_hash(path) for path in copies} == set(table["hash"])
    assert len(copies) == len(table) and not any(path.is_symlink() for path in copies)
