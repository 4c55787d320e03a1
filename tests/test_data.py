"Tables, transforms and loaders: what a page about them has no room for."

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import nn
from torchvision.transforms import v2

from transfer_nbs.batches import ImageDataset, mixing, start_epoch
from transfer_nbs.bundle import load_bundle
from transfer_nbs.chart import show_images
from transfer_nbs.checkpoint import FitSettings
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.commands import transfer_compare, transfer_fit
from transfer_nbs.data import make_loaders, read_folder, train_transform, valid_transform
from transfer_nbs.folders import read_test
from transfer_nbs.images import open_image
from transfer_nbs.named_weights import image_spec
from transfer_nbs.settings import AUGMENTATIONS, RESIZES, TrainSettings
from transfer_nbs.split_folder import split_folder
from transfer_nbs.views import AUGMENTS, ImageSpec, View, denormalize
from transfer_nbs.your_images import fit_bundle

SPEC = ImageSpec(("camouflage_clothes", "normal_clothes"), size=64)


@pytest.fixture(scope="module")
def practice() -> Path: return practice_folder(Camouflage(n=200, size=128, seed=0))


@pytest.fixture(scope="module")
def table(practice) -> pd.DataFrame: return read_folder(practice)


@pytest.fixture(scope="module")
def files(practice) -> list[Path]: return sorted(practice.glob("*/*.jpg"))


@pytest.fixture
def done(practice, tmp_path) -> Path:
    "The practice data, split into train, validation and test, the last with the images of validation."
    split_folder(practice, tmp_path / "done")
    (tmp_path / "done/valid").rename(tmp_path / "done/validation")
    shutil.copytree(tmp_path / "done/validation", tmp_path / "done/test")
    return tmp_path / "done"


def sides(table: pd.DataFrame) -> set[tuple[str, str]]:
    return {(Path(file).name, split) for file, split in zip(table["file"], table["split"])}


def counts(table: pd.DataFrame) -> list[list[int]]: return pd.crosstab(table["class"], table["split"]).to_numpy().tolist()


def epoch_of(loader, epoch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    start_epoch(loader, epoch)
    return list(loader)


def test_a_spec_is_what_json_keeps():
    assert ImageSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    assert ImageSpec(["a", "b"]).class_names == ("a", "b")


def test_denormalised_images_are_as_before():
    colours = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denormalize(v2.Normalize(SPEC.mean, SPEC.std)(colours), SPEC), colours, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no images to show"): show_images([])


def ways_to_save(portrait: Image.Image) -> dict:
    "For each way: what is saved, in which format, with which options, and what should be read."
    grey, size = portrait.convert("L"), portrait.size
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse((8, 8, size[0] - 8, size[1] - 8), fill=255)
    cut_out = Image.composite(portrait, Image.new("RGB", size), mask)
    cut_out.putalpha(mask)
    palette, turned = cut_out.quantize(64), Image.Exif()
    turned[0x0112] = 6
    def on_white(image): return Image.composite(image.convert("RGB"), Image.new("RGB", size, "white"), mask)
    return {"grey": (grey, "png", {}, grey), "1 bit": (portrait.convert("1"), "png", {}, portrait.convert("1")),
            "palette": (palette, "png", {}, on_white(palette.convert("RGBA"))),
            "RGBA": (cut_out, "png", {}, on_white(portrait)),
            "grey + alpha": (cut_out.convert("LA"), "png", {}, on_white(grey)),
            "CMYK": (portrait.convert("CMYK"), "tif", {}, portrait),
            "16 bits": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "png", {}, grey),
            "float": (Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "tif", {}, grey),
            "turned": (portrait.rotate(90, expand=True), "jpg", {"exif": turned, "quality": 95}, portrait)}


def error(image: Image.Image, expected: Image.Image) -> float:
    return np.abs(np.asarray(image, float) - np.asarray(expected.convert("RGB"), float)).mean()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_images_are_read_where_the_usual_line_fails(files, tmp_path):
    wrong = []
    for name, (image, extension, options, expected) in ways_to_save(open_image(files[101])).items():
        path = tmp_path / f"{name}.{extension}"
        image.save(path, **options)
        assert error(open_image(path), expected) < 3 and open_image(path).mode == "RGB"
        if error(Image.open(path).convert("RGB"), expected) > 10: wrong.append(name)
    assert wrong == ["palette", "RGBA", "grey + alpha", "16 bits", "float", "turned"]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_turned_tiff(mode, files, tmp_path):
    "Pillow garbles it when it is given the path."
    portrait, note = open_image(files[101]), Image.Exif()
    note[0x0112] = 6
    portrait.rotate(90, expand=True).convert(mode).save(tmp_path / "turned.tif", exif=note)
    assert error(open_image(tmp_path / "turned.tif"), portrait.convert(mode)) == 0


def test_what_is_no_image_is_named(files, tmp_path):
    whole = files[0].read_bytes()
    for name, content in {"cut off.jpg": whole[:len(whole) // 2], "empty.png": b"", "page.jpg": b"<html>not found</html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: can't be decoded as an image"): open_image(tmp_path / name)


def test_a_folder_of_classes_is_split(practice, table):
    assert counts(table) == [[80, 20], [80, 20]] and list(table.columns) == ["file", "class", "split"]
    assert len(read_test(practice)) == 0


@pytest.mark.parametrize("name", ["valid", "val", "validation", "VAL"])
def test_a_split_folder_is_taken_as_it_is(name, done, table):
    (done / "validation").rename(done / "other")
    (done / "other").rename(done / name)
    again = read_folder(done)
    assert sides(again) == sides(table) and again["file"].iloc[-1] == f"{name}/normal_clothes/00199.jpg"
    (done / "train").rename(done / "Training")
    (done / "test").rename(done / "Testing")
    assert sides(read_folder(done)) == sides(table)
    assert len(read_test(done)) == 40 and read_test(done)["file"][0].split("/")[0] == "Testing"


def test_a_test_folder_is_left_alone(done, table):
    test = read_test(done)
    assert len(read_folder(done)) == len(table) and (len(test), set(test["split"])) == (40, {"test"})
    with pytest.raises(ValueError, match="has a test side already; leave test_fraction out"): read_folder(done, test_fraction=0.1)
    shutil.copytree(done / "test/normal_clothes", done / "test/hats")
    with pytest.raises(ValueError, match=r"has classes that train lacks \(hats\); remove them"): read_test(done)


def test_some_of_train_is_set_aside(done, table):
    shutil.rmtree(done / "test")
    aside = read_folder(done, test_fraction=0.1)
    assert counts(aside) == [[8, 72, 20], [8, 72, 20]]
    assert sides(aside[aside["split"] == "valid"]) == sides(table[table["split"] == "valid"])


@pytest.mark.parametrize(("lost", "told"), [
    ("validation", "has train but no valid, val or validation beside it"), ("train", "has test, validation but no train"),
    ("validation/normal_clothes", "missing: normal_clothes; not in"),
    ("train/normal_clothes", "missing: none; not in train: normal_clothes")])
def test_sides_that_do_not_fit_together(lost, told, done):
    shutil.rmtree(done / lost)
    with pytest.raises(ValueError) as error: read_folder(done)
    assert told in str(error.value)


@pytest.mark.parametrize(("name", "source", "told"), [
    ("Training", "train", "has Training and train; keep one of them to train on"),
    ("val", "validation", "has val and validation; keep one of them")])
def test_two_folders_for_one_side(name, source, told, done):
    shutil.copytree(done / source, done / name)
    with pytest.raises(ValueError, match=told): read_folder(done)


def test_a_folder_without_images(done, tmp_path):
    shutil.rmtree(done / "validation")
    for name in SPEC.class_names: (done / "validation" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="no images in class"): read_folder(done)
    with pytest.raises(FileNotFoundError, match="no such folder"): read_folder(tmp_path / "nowhere")


def test_transforms(files):
    image, crop = open_image(files[0]), train_transform(SPEC)
    torch.manual_seed(0)
    crops = [crop(image) for _ in range(8)]
    assert {(crop.shape, crop.dtype) for crop in crops} == {((3, 64, 64), torch.float32)} and not torch.equal(*crops[:2])
    view = valid_transform(SPEC)(image)
    assert view.shape == (3, 64, 64) and view.dtype == torch.float32 and torch.equal(view, valid_transform(SPEC)(image))
    torch.testing.assert_close(ImageDataset(files[:1], [0], SPEC, augment=False)[0][0], view, atol=1e-5, rtol=0)
    tall = valid_transform(ImageSpec(("cats", "dogs"), size=224))(Image.new("RGB", (300, 900), "white"))
    assert tall.shape == (3, 224, 224)
    white = (1 - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    torch.testing.assert_close(tall[:, 0, 0], white, atol=1e-5, rtol=0)


def test_crops_of_an_epoch_follow_from_seed_and_epoch(files):
    dataset = ImageDataset(files, [0] * len(files), SPEC, augment=True)
    first, epochs = dataset[5][0], []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        epochs.append(dataset[5][0])
    assert len({epoch.sum().item() for epoch in epochs}) == 4
    dataset.set_epoch(0)
    assert torch.equal(dataset[5][0], first)
    assert not torch.equal(ImageDataset(files, [0] * len(files), SPEC, augment=True, seed=1)[5][0], first)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_each_augmentation_does_to_a_view(name, tmp_path):
    """A bright left half tells whether a view is mirrored, its mean how much of the image it shows."""
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[:, :40] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    data = ImageDataset([tmp_path / "half.png"] * 64, [0] * 64, SPEC, augment=AUGMENTS[name])
    views = denormalize(data[range(64)][0], SPEC)
    turned = (views[:, :, :, :8].mean((1, 2, 3)) < views[:, :, :, -8:].mean((1, 2, 3)) - 0.5).sum()
    assert (turned == 0) == (name in ("crop", "none"))
    whole = ((views > 0.9) | (views < 0.1)).float().mean((1, 2, 3)) > 0.8
    uniform = (views.amax((1, 2, 3)) - views.amin((1, 2, 3)) < 0.1).sum()  # crops of one half alone
    assert uniform == 0 if name in ("light", "none") else uniform > 0
    assert whole.all() == (name != "trivial")
    again = ImageDataset(data.files, data.labels, SPEC, augment=AUGMENTS[name])
    assert torch.equal(again[[7, 3]][0], data[[7, 3]][0])  # whatever else is in the batch
    again.set_epoch(1)
    assert torch.equal(again[range(64)][0], data[range(64)][0]) == (name == "none")
    assert (again.view_key(1) == data.view_key(0)) == (name == "none")


def test_the_articles_augmentation_is_the_default(files):
    plain, named = (ImageDataset(files[:4], [0] * 4, SPEC, augment=augment) for augment in (True, AUGMENTS["article"]))
    assert plain.view_key(2) == named.view_key(2) and torch.equal(plain[range(4)][0], named[range(4)][0])
    assert len({ImageDataset(files[:4], [0] * 4, SPEC, augment=augment).view_key(0) for augment in AUGMENTS.values()}) == len(AUGMENTS)


@pytest.fixture
def arrows(tmp_path) -> Path:
    "Arrows to the left and to the right, in train and valid."
    random = np.random.default_rng(3)
    for number in range(60):
        image = Image.new("RGB", (80, 64), tuple(random.integers(60, 180, 3).tolist()))
        x, y, size = (int(value) for value in (*random.integers(28, 50, 2), random.integers(10, 20)))
        ImageDraw.Draw(image).polygon([(x - size, y), (x + size, y - size), (x + size, y + size)], fill="white")
        for name, drawn in dict(left=image, right=ImageOps.mirror(image)).items():
            (place := tmp_path / "arrows" / ("valid" if number % 3 == 0 else "train") / name).mkdir(parents=True, exist_ok=True)
            drawn.save(place / f"{number}.png")
    return tmp_path / "arrows"


def test_classes_that_mirroring_would_confuse_are_named_before_training(arrows, tmp_path, capsys):
    run, common = str(tmp_path / "run"), dict(size=32, seeds=1, epochs=1, recipes="bn_eval", device="cpu", arch="shufflenet_v2_x0_5", weights="random")
    told = "left and right are each other's mirror images: "
    for augment, warned in dict(article=True, light=True, trivial=True, crop=False, none=False).items():
        transfer_compare(str(arrows), **common, augment=augment, out=f"{run}-{augment}")
        said = capsys.readouterr()
        assert (told in said.out + said.err) == warned, augment
    assert json.loads(Path(f"{run}-crop", "run.json").read_text())["settings"]["augment"] == "crop"
    transfer_fit(str(arrows), from_run=f"{run}-crop", out=str(tmp_path / "bundle"))
    assert told not in capsys.readouterr().out and load_bundle(tmp_path / "bundle").settings["augment"] == "crop"
    transfer_fit(str(arrows), size=32, epochs=1, device="cpu", recipe="bn_eval", out=str(tmp_path / "mirrored"))
    assert told in capsys.readouterr().out
    with pytest.raises(SystemExit): transfer_fit(str(arrows), from_run=f"{run}-crop", augment="light", out=str(tmp_path / "other"))
    assert "augment is light, but" in capsys.readouterr().err
    for side in ("train", "valid"): (arrows / side / "left").rename(arrows / side / "left\x1b[31m")
    transfer_compare(str(arrows), **common, out=f"{run}-odd")
    said = capsys.readouterr()
    assert "left\\x1b[31m and right are each other's mirror images" in said.out + said.err and "\x1b[31m" not in said.out + said.err
    with pytest.raises(SystemExit): transfer_compare(str(arrows), **common, augment="heavy", out=f"{run}-heavy")
    assert "augment is 'heavy': use one of article, crop, light, trivial, none" in capsys.readouterr().err


@pytest.fixture
def pens(tmp_path) -> Path:
    "Long images, upright and lying, whose class is the colour of one end."
    random = np.random.default_rng(5)
    for number in range(48):
        for name, colour in dict(blue=(40, 60, 220), red=(220, 40, 40)).items():
            pixels = random.integers(90, 160, (40, 200, 3), dtype=np.uint8)
            pixels[:, -24:] = colour
            if number % 2: pixels = pixels.transpose(1, 0, 2)
            (place := tmp_path / "pens" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(place / f"{number}.png")
    return tmp_path / "pens"


def test_long_images_keep_their_ends(pens, tmp_path):
    "In training, validation and prediction alike; by their centres the classes can't be told apart."
    accuracies = {}
    for resize in RESIZES:
        settings = FitSettings("lp_ft", size=64, device="cpu", resize=resize, augment="none")
        bundle = fit_bundle(settings, read_folder(pens, valid_fraction=0.5), pens, out=tmp_path / resize, say=lambda line: None)
        again = load_bundle(tmp_path / resize)
        table = read_folder(pens, valid_fraction=0.5).query("split == 'valid'")
        answers = again.predict([pens / file for file in table["file"]]).idxmax(axis=1)
        accuracies[resize] = bundle.results["valid"]["accuracy"]
        right = (answers.to_numpy() == table["class"].to_numpy()).mean()
        assert again.spec.view == {"crop": None}.get(resize, View(crop=1.0, squash=resize == "squish", pad=resize == "pad"))
        assert right == pytest.approx(accuracies[resize])
    assert accuracies["crop"] < 0.75 < 0.95 < min(accuracies["squish"], accuracies["pad"])
    squeezed = FitSettings("lp_ft", size=64, weights=str(tmp_path / "pad"), resize="squish")
    assert image_spec(squeezed, table).view == View(crop=1.0, squash=True)
    assert image_spec(replace(squeezed, resize="crop"), table).view == View(crop=1.0, pad=True)  # as the weights saw images


def test_stored_images_are_squares_where_the_view_makes_them(tmp_path):
    Image.new("RGB", (400, 100), "red").save(tmp_path / "long.png")
    for view in (View(crop=1.0, squash=True), View(crop=1.0, pad=True)):
        spec = ImageSpec(SPEC.class_names, size=64, view=view)
        train, valid = (ImageDataset([tmp_path / "long.png"], [0], spec, augment=augment) for augment in (True, False))
        stored, fixed = train.pictures([0])[0], valid.pictures([0])[0]
        assert stored.shape == (96, 96, 3) and fixed.shape == (64, 64, 3)
        red = [(image == (255, 0, 0)).all(2).mean() for image in (stored, fixed)]
        assert red == ([1, 1] if view.squash else pytest.approx([0.25, 0.25], abs=0.02))
        assert train.view_key(0) != ImageDataset([tmp_path / "long.png"], [0], SPEC, augment=True).view_key(0)
    with pytest.raises(ValueError, match="view is"): ImageSpec(SPEC.class_names, view=View(squash=True, pad=True))


def test_mixed_images_and_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    assert mixing(TrainSettings(), 3) is None
    for how in (dict(mixup=0.5), dict(cutmix=1.0), dict(mixup=0.5, cutmix=1.0)):
        torch.manual_seed(0)
        mixed, shares = mixing(TrainSettings(**how), 3)(images, labels)
        own = shares[0, 0].item()  # image 0 is mixed with image 3, of its own class, image 1 with image 0
        assert shares.shape == (4, 3) and torch.allclose(shares.sum(1), torch.ones(4)) and own == pytest.approx(1)
        part = shares[1, 1].item()
        if "cutmix" not in how: torch.testing.assert_close(mixed[1], part * images[1] + (1 - part) * images[0])
        if "mixup" not in how: assert (mixed[1] == images[1]).float().mean().item() == pytest.approx(part, abs=1e-6)


def test_batches(practice, table):
    train, valid = make_loaders(table, practice, SPEC, batch_size=16)
    images, labels = next(iter(train))
    assert (images.shape, labels.shape, labels.dtype) == ((16, 3, 64, 64), (16,), torch.int64)
    assert (len(train.dataset), len(valid.dataset)) == (160, 40)
    in_order = [SPEC.class_names.index(name) for name in table["class"][table["split"] == "valid"]]
    assert torch.cat([labels for _, labels in valid]).tolist() == in_order


def equal(batches, others) -> bool:
    "Whether images and labels of all batches agree bit by bit."
    return all(torch.equal(one, other) for batch, its in zip(batches, others, strict=True) for one, other in zip(batch, its, strict=True))


def test_an_epoch_is_the_same_whatever_came_before(practice, table):
    alone, other, seeded = (make_loaders(table, practice, SPEC, seed=seed)[0] for seed in (0, 0, 1))
    second, before = epoch_of(alone, 1), torch.get_rng_state()
    assert equal(epoch_of(other, 0), epoch_of(alone, 0)) and equal(epoch_of(other, 1), second)
    assert not equal(epoch_of(alone, 0), second)
    assert torch.equal(torch.get_rng_state(), before)  # so that dropout goes on undisturbed
    def sums(loader): return torch.cat([images.sum((1, 2, 3)) for images, _ in epoch_of(loader, 0)]).sort().values
    assert not torch.equal(sums(seeded), sums(alone))


@pytest.mark.parametrize(("images", "sizes"), [(33, [16, 16]), (32, [16, 16]), (34, [16, 16, 2]), (10, [10])])
def test_a_last_batch_of_one_is_left_out(images, sizes, practice, table):
    rows = pd.concat([table[table["split"] == "train"][:images], table[table["split"] == "valid"]])
    assert [len(labels) for _, labels in make_loaders(rows, practice, SPEC, batch_size=16)[0]] == sizes
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"): nn.BatchNorm1d(8)(torch.zeros(1, 8))


@pytest.mark.parametrize(("given", "told"), [
    (dict(batch_size=1), "so give 2 or more"), (dict(spec=ImageSpec(("cats", "normal_clothes"))), "but not ['camouflage_clothes']"),
    (dict(split="train"), "no image of the table has split 'valid'"), (dict(split="valid"), "no image of the table has split 'train'")])
def test_loaders_that_cannot_be_made(given, told, practice, table):
    if "split" in given: table = table[table["split"] == given["split"]]
    options = {"batch_size": given["batch_size"]} if "batch_size" in given else {}
    with pytest.raises(ValueError) as error: make_loaders(table, practice, given.get("spec", SPEC), **options)
    assert told in str(error.value)


@pytest.mark.parametrize(("dtype", "told"), [(torch.uint8, "uint8"), (torch.float64, "float64")])
def test_a_transform_must_give_float32(dtype, told, practice, table):
    augment = v2.Compose([v2.RandomResizedCrop(64), v2.PILToTensor(), v2.ToDtype(dtype)])
    loader, _ = make_loaders(table, practice, SPEC, augment=augment)
    with pytest.raises(ValueError) as error: next(iter(loader))
    shape = "a tensor (3, 64, 64) of "
    assert str(error.value) == f"the transform gives {shape}{told}, and must give {shape}float32"


@pytest.mark.parametrize("augment", [None, "flip", 1])
def test_what_is_no_transform_is_refused_at_once(augment, practice, table):
    with pytest.raises(ValueError, match=f"augment is {augment!r}; give True, False or a transform"):
        make_loaders(table, practice, SPEC, augment=augment)


def test_balanced_classes(practice, table):
    normal, train = table["class"] == "normal_clothes", table["split"] == "train"
    rare = pd.concat([table[~normal | ~train], table[normal & train][:8]])
    def share(**options):
        loader, _ = make_loaders(rare, practice, SPEC, **options)
        batches = sum((epoch_of(loader, epoch) for epoch in range(10)), [])
        return torch.cat([labels for _, labels in batches]).float().mean().item()
    assert abs(share(balanced=True) - 0.5) < 0.1 < 0.5 - share()
