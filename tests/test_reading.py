"What a file's numbers become: formats, depth, colours, grounds, strips, and the memory that it takes."

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw, ImageOps
from torchvision.transforms import v2

from transfer_nbs.inference import prepare_image
from transfer_nbs.check import check_folder
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.compare import CompareSettings
from transfer_nbs.named_weights import image_spec
from transfer_nbs.batches import ImageDataset
from transfer_nbs.views import ImageSpec, centre_view, draw_views, random_crops, scale_down, shorten
from transfer_nbs.duplicates import find_duplicates
from transfer_nbs.examine import examine
from transfer_nbs.images import open_image
from transfer_nbs.images import _MEMORY, Ranges, _decoding_bytes, find_ranges, range_of, to_rgb, used_range

ROOT = Path(__file__).resolve().parent.parent
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read(path, ranges=None):
    return np.asarray(open_image(path, ranges))


def save(values, path, **options):
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def number(value):
    return struct.pack(">i", round(value * 65536))


def profile(primaries, gamma=2.2, space=b"RGB "):
    "An ICC profile of three primaries (X, Y, Z of each), or of greys, with a power as its curve; gamma 0: sRGB's curve."
    powers = (gamma,) if gamma else (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = b"para" + bytes(4) + struct.pack(">HH", 0 if gamma else 3, 0) + b"".join(map(number, powers))
    def xyz(values): return b"XYZ " + bytes(4) + b"".join(map(number, values))
    def text(name): return b"mluc" + bytes(4) + struct.pack(">II2sIII", 1, 12, b"en", 0x5553, 2 * len(name), 28) + name.encode("utf-16-be")
    tags = {b"desc": text("of a test"), b"cprt": text("none"), b"wtpt": xyz((0.9642, 1, 0.8249))}
    for letter, primary in zip("rgb", primaries): tags |= {f"{letter}XYZ".encode(): xyz(primary), f"{letter}TRC".encode(): curve}
    if space == b"GRAY": tags[b"kTRC"] = curve
    table, data = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content
    head = b"\4\x20\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28) + b"".join(map(number, (0.9642, 1, 0.8249))) + bytes(48)
    body = bytes(4) + head + struct.pack(">I", len(tags)) + table + data
    return struct.pack(">I", len(body) + 4) + body


SRGB = profile([(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)], gamma=0)
P3 = profile([(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)], gamma=0)
ADOBE = profile([(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)])
PROPHOTO = profile([(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)], gamma=1.8)
GREY = profile([], gamma=1.0, space=b"GRAY")


# Formats

HELD = {"EPS": lambda file: Image.new("RGB", (8, 8)).save(file, format="EPS"), "PDF": lambda file: Image.new("RGB", (8, 8)).save(file, format="PDF"),
        "FITS": lambda file: file.write(b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + b"END".ljust(2720)),
        "ICO": lambda file: Image.new("RGB", (16, 16)).save(file, format="ICO"), "TGA": lambda file: Image.new("RGB", (8, 8)).save(file, format="TGA"),
        "WMF": lambda file: file.write(b"\xd7\xcd\xc6\x9a" + bytes(100))}


@pytest.mark.parametrize("kind", HELD)
def test_other_formats_are_none_whatever_their_name(kind, tmp_path):
    with open(tmp_path / "photo.jpg", "wb") as file: HELD[kind](file)
    with pytest.raises(ValueError, match="photo.jpg: can't be decoded as an image"): open_image(tmp_path / "photo.jpg")
    (trouble, said), = examine(tmp_path / "photo.jpg").troubles
    assert trouble == "broken"
    if kind != "TGA": assert {"EPS": "PostScript"}.get(kind, kind) in said


def test_no_other_program_is_started(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.eps")
    os.rename(tmp_path / "photo.eps", tmp_path / "photo.jpg")
    def started(*_, **__): raise AssertionError("a program was started")
    for name in ("Popen", "run", "check_call", "check_output"): monkeypatch.setattr(subprocess, name, started)
    monkeypatch.setattr(os, "system", started)
    examine(tmp_path / "photo.jpg")
    examine(Path(os.rename(tmp_path / "photo.jpg", tmp_path / "photo.ps") or tmp_path / "photo.ps"))
    with pytest.raises(ValueError): open_image(tmp_path / "photo.ps")


def test_every_opening_names_the_formats():
    for path in (ROOT / "transfer_nbs").glob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(r"\bImage\.open\(", line): assert "formats=" in line, f"{path.name}: {line}"


def test_a_gif_under_another_name_is_read_and_named(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.gif")
    os.rename(tmp_path / "a.gif", tmp_path / "a.jpg")
    assert open_image(tmp_path / "a.jpg").getpixel((0, 0)) == (255, 0, 0)
    assert ("wrong extension", "GIF, not JPEG") in examine(tmp_path / "a.jpg").troubles


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="not a regular file"): open_image(tmp_path / "a.jpg")
    assert find_ranges([tmp_path / "a.jpg"]) is None


def test_open_files_are_read_too(tmp_path):
    path = save((RAMP * 4095).astype(np.uint16), tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(io.BytesIO(path.read_bytes()))), read(path))


# Deep images

@pytest.mark.parametrize(("values", "suffix", "white"), [
    ((RAMP * 4095).astype(np.uint16), "png", 4095), ((RAMP * 4095).astype(np.uint16), "tif", 4095), ((RAMP * 1023).astype(np.uint16), "png", 1023),
    ((RAMP * 16383).astype(np.uint16), "tif", 16383), ((RAMP * 65535).astype(np.uint16), "png", 65535), ((RAMP * 255).astype(np.uint16), "png", 255),
    ((RAMP * 255).astype(np.int32), "tif", 255), ((RAMP * 4095).astype(np.int32), "tif", 4095), ((RAMP * 1.001).astype(np.float32), "tif", 1),
    (RAMP.astype(np.float32), "tif", 1), ((RAMP * 255).astype(np.float32), "tif", 255), ((RAMP * 4095).astype(np.float32), "tif", 4095)])
def test_deep_images_have_their_full_range(values, suffix, white, tmp_path):
    seen = read(save(values, tmp_path / f"a.{suffix}"))
    np.testing.assert_allclose(seen[..., 0], (values.astype(float) / white * 255).clip(0, 255), atol=0.51)


@pytest.mark.parametrize("stray", [1.5, 7.0, 300.0, 1e9, np.inf, -np.inf, np.nan, -0.001, -3.4e38])
def test_one_strange_float_changes_nothing_else(stray, tmp_path):
    values = RAMP.astype(np.float32)
    values[3, 3] = stray
    seen, expected = read(save(values, tmp_path / "a.tif")).astype(int), (RAMP * 255).round()
    expected[3, 3] = seen[3, 3, 0]
    np.testing.assert_allclose(seen[..., 0], expected, atol=1)


@pytest.mark.parametrize("stray", [256, 1000, 65536, 2**31 - 1])
def test_one_high_integer_changes_nothing_else(stray, tmp_path):
    values = (RAMP * 255).round().astype(np.int32)
    values[3, 3] = stray
    assert 120 < read(save(values, tmp_path / "a.tif")).mean() < 135


def test_narrow_and_negative_ranges_are_stretched(tmp_path):
    for name, values in {"thermal.png": (29000 + RAMP * 2000).astype(np.uint16), "signed.tif": (RAMP * 4000 - 1000).astype(np.float32),
                         "mask.png": (RAMP > 0.5).astype(np.uint16), "small.tif": (RAMP * 0.01).astype(np.float32)}.items():
        seen = read(save(values, tmp_path / name))
        assert seen.min() == 0 and seen.max() == 255 and 120 < seen.mean() < 135, name


def tiff(values, tags):
    "A TIFF file of one strip, little-endian, with these tags."
    data = values.tobytes()
    entries = {256: values.shape[1], 257: values.shape[0], 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: values.shape[0], 279: len(data), **tags}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + bytes(4)


def test_numbers_without_and_with_a_sign(tmp_path):
    kinds = {"uint32": ((RAMP * (2**32 - 1)).astype("<u4"), 1), "int16": ((RAMP * 4000 - 1000).astype("<i2"), 2), "float64": (RAMP.astype("<f8"), 3)}
    for name, (values, kind) in kinds.items():
        (tmp_path / name).write_bytes(tiff(values, {339: kind}))
        try: seen = read(tmp_path / name)
        except ValueError: assert name == "float64"  # older Pillows don't read it, and say so
        else: np.testing.assert_allclose(seen[..., 0], RAMP * 255, atol=1, err_msg=name)


def test_white_as_zero_is_no_negative(tmp_path):
    for name, values, kind in (("8", (RAMP * 255).astype(np.uint8), 1), ("16", (RAMP * 65535).astype("<u2"), 1), ("12", (RAMP * 4095).astype("<u2"), 1),
                               ("float", RAMP.astype("<f4"), 3)):
        (tmp_path / name).write_bytes(tiff(values, {262: 0, 339: kind}))
        np.testing.assert_allclose(read(tmp_path / name)[..., 0], 255 - RAMP * 255, atol=1, err_msg=name)
    Image.fromarray(RAMP > 0.5).save(tmp_path / "1.tif", tiffinfo={262: 0}, compression="group4")
    assert read(tmp_path / "1.tif")[[0, -1], 0, 0].tolist() in ([0, 255], [255, 0])


def png16(channels, pixel, transparent):
    "A PNG file of 8 x 8 pixels and 16 bits a channel, whose left half is of the transparent colour."
    def chunk(name, content): return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    row = b"\0" + struct.pack(f">{channels}H", *transparent) * 4 + struct.pack(f">{channels}H", *pixel) * 4
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 0 if channels == 1 else 2, 0, 0, 0))
            + chunk(b"tRNS", struct.pack(f">{channels}H", *transparent)) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b""))


def test_transparent_values_of_16_bits(tmp_path):
    for name, content in {"grey.png": png16(1, (40000,), (500,)), "rgb.png": png16(3, (40000, 100, 100), (300, 200, 100)), "above.png": png16(3, (0, 0, 0), (40000, 300, 300))}.items():
        (tmp_path / name).write_bytes(content)
        seen = read(tmp_path / name)
        assert seen[0, 0].tolist() == [255] * 3 and seen[0, -1, 1] < 160, name
        assert not [kind for kind, _ in examine(tmp_path / name).troubles if kind == "broken"]


# One range for a folder

def deep_folder(folder):
    "A dark and a bright image of 12 bits in each of two classes and on each side."
    for side in ("train", "valid"):
        for name in "ab":
            (folder / side / name).mkdir(parents=True)
            for file, part in (("bright", 1), ("dark", 4)): save((RAMP * 4095 / part).astype(np.uint16), folder / side / name / f"{file}.png")
    return folder


def test_a_folder_has_one_range_and_the_spec_keeps_it(tmp_path):
    from transfer_nbs.data import make_loaders, read_folder
    folder = deep_folder(tmp_path / "d")
    table = read_folder(folder)
    spec = image_spec(CompareSettings(size=32), table, folder)
    assert spec.ranges == Ranges(integers=(0, 4095)) and ImageSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    bright, dark = (read(folder / f"train/a/{name}.png", spec.ranges).mean() for name in ("bright", "dark"))
    assert bright / dark == pytest.approx(4, abs=0.1)
    _, loader = make_loaders(table, folder, spec)
    files = [folder / file for file in table["file"][table["split"] == "valid"]]
    views = np.stack([prepare_image(file, spec) for file in files])
    np.testing.assert_array_equal(loader.dataset.pictures(range(len(files))), views)
    np.testing.assert_array_equal(prepare_image(Image.open(files[1]), spec), views[1])  # in memory too
    own = ImageSpec(spec.class_names, size=32)
    assert ImageDataset(files, [0] * 4, spec, augment=False).view_key(0) != ImageDataset(files, [0] * 4, own, augment=False).view_key(0)
    above = save(np.full((8, 8), 60000, np.uint16), tmp_path / "above.png")
    assert read(above, spec.ranges).min() == 255  # brighter than white


def test_ranges_of_ordinary_folders_are_none_and_looked_up(tmp_path, monkeypatch):
    files = [save((RAMP * 255).astype(np.uint8), tmp_path / f"{number}.png") for number in range(3)]
    assert find_ranges(files) is None and "ranges" not in ImageSpec(("a", "b")).to_dict()
    files.append(save(RAMP.astype(np.float32), tmp_path / "f.tif"))
    assert find_ranges(files) == Ranges(floats=(0, 1))
    monkeypatch.setattr("transfer_nbs.images._deep_range", lambda file: pytest.fail("looked at again"))
    assert find_ranges(files) == Ranges(floats=(0, 1))


def test_a_bundle_without_ranges_is_read_as_before():
    values = {"class_names": ["a", "b"], "size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert ImageSpec.from_dict(values).ranges is None and ImageSpec.from_dict(values).to_dict() == values
    for ranges in ({}, {"integers": [1, 0], "floats": None}, {"integers": [0, "1"], "floats": None}, {"integers": [0, float("nan")], "floats": None}, [1], "x"):
        with pytest.raises(ValueError, match="ranges"): ImageSpec.from_dict({**values, "ranges": ranges})


def test_the_check_names_depth_and_dark_images(tmp_path):
    folder = deep_folder(tmp_path / "d")
    save((RAMP * 65535).astype(np.uint16), folder / "train/a/sixteen.png")
    found = check_folder(folder)
    said, = found["detail"][found["kind"] == "range"]
    assert "9 images" in said and "white is 65535" in said
    assert set(found["file"][found["kind"] == "dark"]) == {f"{side}/{name}/{file}.png" for side in ("train", "valid") for name in "ab" for file in ("bright", "dark")}


# Grounds

def drawing(colour, mode="RGBA", ground=(255, 255, 255, 0)):
    image = Image.new("RGBA", (64, 64), ground)
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=colour)
    return image.convert(mode)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_drawings_are_seen(mode, suffix, tmp_path):
    if mode == "LA" and suffix == "webp": return
    for colour in ("white", (250, 250, 250, 255), (255, 255, 255, 200)):
        drawing(colour, mode).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        seen = read(tmp_path / f"a.{suffix}").astype(int)
        assert np.abs(seen[0, 0] - seen[30, 30]).max() > 150, colour


def test_white_in_palettes_and_in_one_bit(tmp_path):
    image = Image.new("P", (64, 64), 0)
    image.putpalette([255, 255, 255, 254, 254, 254])
    ImageDraw.Draw(image).rectangle((10, 10, 50, 50), fill=1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png")[[0, 30], [0, 30], 0].tolist() == [0, 254]
    save(np.where(RAMP > 0.5, 65535, 0).astype(np.uint16), tmp_path / "b.png", transparency=0)
    assert read(tmp_path / "b.png")[[0, -1], 0, 0].tolist() == [0, 255]


def test_other_grounds_stay_white(tmp_path):
    "Drawings that are seen on white, and images of which nothing is transparent, or everything."
    for name, image in {"black": drawing("black"), "yellow": drawing("yellow"), "faint": drawing((0, 0, 0, 100)), "opaque": drawing("white", ground=(255,) * 4),
                        "nothing": Image.new("RGBA", (64, 64), (0, 0, 0, 0))}.items():
        image.save(tmp_path / "a.png")
        white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(white), err_msg=name)


def test_the_check_says_what_became_of_white_drawings(tmp_path):
    dice = np.random.default_rng(0)
    for name in ("circle", "square"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for number in range(10):
            icon = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
            x, y, side = (int(value) for value in (*dice.integers(4, 18, 2), dice.integers(20, 40)))
            pen = ImageDraw.Draw(icon)
            (pen.ellipse if name == "circle" else pen.rectangle)((x, y, x + side, y + side), fill="white")
            icon.save(tmp_path / "d" / name / f"{number}.png")
    kinds = check_folder(tmp_path / "d")["kind"].value_counts()
    assert kinds.get("white drawing") == 20 and "two labels" not in kinds


# Colour profiles

def by_lcms(image, content, mode):
    return np.asarray(ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB"), outputMode="RGB"))


@pytest.mark.parametrize("content", [P3, ADOBE, PROPHOTO], ids=["Display P3", "Adobe RGB", "ProPhoto"])
def test_wide_colours_become_srgb(content, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png", icc_profile=content)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), by_lcms(image, content, "RGB"))
    clear = image.copy()
    clear.putalpha(Image.fromarray((RAMP > 0.5).astype(np.uint8) * 255))
    clear.save(tmp_path / "b.png", icc_profile=content)
    seen = read(tmp_path / "b.png")
    np.testing.assert_array_equal(seen[-1], by_lcms(image, content, "RGB")[-1])
    assert (seen[0] == 255).all()
    image.quantize(32).save(tmp_path / "c.png", icc_profile=content)
    np.testing.assert_array_equal(read(tmp_path / "c.png"), by_lcms(image.quantize(32).convert("RGB"), content, "RGB"))


def test_grey_profiles(tmp_path):
    grey = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    grey.save(tmp_path / "a.png", icc_profile=GREY)
    linear = np.asarray(grey) / 255
    expected = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear**(1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(read(tmp_path / "a.png")[..., 0], expected, atol=1.5)
    save(np.asarray(grey).astype(np.uint16) * 257, tmp_path / "b.png", icc_profile=GREY)
    np.testing.assert_array_equal(read(tmp_path / "b.png"), read(tmp_path / "a.png"))


def print_profile():
    "A profile for print: no ink is white, and black ink alone darkens, in equal steps of lightness."
    lightness = b"".join(bytes([0 if node % 2 else 255, 128, 128]) for node in range(16))  # black ink varies fastest
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + b"".join(map(number, (1, 0, 0, 0, 1, 0, 0, 0, 1))) + bytes(range(256)) * 4 + lightness + bytes(range(256)) * 3
    content = profile([], space=b"CMYK").replace(b"mntr", b"prtr").replace(b"CMYKXYZ ", b"CMYKLab ")
    count, = struct.unpack(">I", content[128:132])
    entries = [struct.unpack(">4sII", content[132 + 12 * n:144 + 12 * n]) for n in range(count)]
    entries = [(name, place + 12, size) for name, place, size in entries] + [(b"A2B0", len(content) + 12, len(table))]
    listed = b"".join(struct.pack(">4sII", *entry) for entry in entries)
    content = content[:128] + struct.pack(">I", count + 1) + listed + content[132 + 12 * count:] + table
    return struct.pack(">I", len(content)) + content[4:]


def test_profiles_for_print(tmp_path):
    image = Image.merge("CMYK", [Image.new("L", (256, 8))] * 3 + [Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(8, 0))])
    image.save(tmp_path / "a.tif", icc_profile=print_profile())
    seen = read(tmp_path / "a.tif").astype(int)
    assert seen[0, 0].min() > 250 and seen[0, 255].max() < 5
    assert abs(seen[0, 128, 1] - 118) < 4, "half of the lightness, which is 118 in sRGB; without the profile it would be 127"
    assert not examine(tmp_path / "a.tif").troubles


def test_srgb_and_broken_profiles_change_no_bit(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content in {"sRGB": SRGB, "of littleCMS": built_in, "cut": P3[:300], "noise": b"no profile at all", "for greys": GREY, "for print": P3.replace(b"RGB ", b"CMYK")}.items():
        image.save(tmp_path / "a.png", icc_profile=content)
        np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(image), err_msg=name)
        noted = "broken profile" in dict(examine(tmp_path / "a.png").troubles)
        assert noted == (name not in ("sRGB", "of littleCMS")), name


def test_profiles_of_threads(tmp_path):
    images = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in range(8)]
    for number, image in enumerate(images): image.save(tmp_path / f"{number}.png", icc_profile=(P3, ADOBE)[number % 2])
    wrong = []
    def check(number):
        for _ in range(20):
            if not np.array_equal(read(tmp_path / f"{number}.png"), by_lcms(images[number], (P3, ADOBE)[number % 2], "RGB")): wrong.append(number)
    threads = [threading.Thread(target=check, args=(number,)) for number in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not wrong


# What stays

def old_to_rgb(image):
    "How modes of 8 bits were read before there was a list of formats."
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def test_ordinary_images_are_read_as_ever(tmp_path):
    photograph = Image.open(next(practice_folder(Camouflage(n=20, size=128)).rglob("*.jpg"))).convert("RGB")
    ways = {"a.jpg": photograph, "b.png": photograph, "c.png": photograph.convert("L"), "d.png": photograph.quantize(64), "e.png": photograph.convert("1"),
            "f.tif": photograph.convert("CMYK"), "g.webp": photograph, "h.bmp": photograph, "i.ppm": photograph, "k.png": photograph.convert("RGBA"),
            "l.tif": photograph.convert("YCbCr"), "m.jpg": photograph.convert("CMYK")}
    turned = Image.Exif()
    for orientation in range(1, 9):
        turned[0x0112] = orientation
        for name, image in ways.items():
            image.save(tmp_path / name, **({"exif": turned} if name[-3:] in ("jpg", "png", "tif") else {}))
            with open(tmp_path / name, "rb") as file:
                expected = old_to_rgb(ImageOps.exif_transpose(Image.open(file)))
            seen = open_image(tmp_path / name)
            assert type(seen) is Image.Image and seen.size == expected.size and seen.tobytes() == expected.tobytes(), (name, orientation)
            assert ImageOps.exif_transpose(seen).tobytes() == seen.tobytes(), "turned once, not twice"


# Strips

def test_views_of_ordinary_images_are_as_ever():
    dice = np.random.default_rng(0)
    for width, height in ((500, 375), (640, 33), (33, 640), (20, 1), (1, 1), (97, 101)):
        image = Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for size in (32, 224):
            before = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])
            assert centre_view(size)(image) == before(image) and shorten(image) is image


@pytest.mark.parametrize("size", [(60000, 1), (1, 60000), (3000, 2), (30, 20000)])
def test_strips_are_read_by_all(size, tmp_path):
    for side, count in (("train", 3), ("valid", 2)):
        for name in "ab":
            (tmp_path / "d" / side / name).mkdir(parents=True)
            for number in range(count): Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "d" / side / name / f"{number}.png")
    strip = tmp_path / "d/train/a/strip.png"
    Image.new("RGB", size, (90, 120, 30)).save(strip)
    spec = ImageSpec(("a", "b"), size=96)
    assert (prepare_image(strip, spec) == (90, 120, 30)).all() and (prepare_image(Image.open(strip), spec) == (90, 120, 30)).all()
    assert max(scale_down(open_image(strip), 96).size) <= 20 * 1.5 * 96
    assert {kind for kind, _ in examine(strip).troubles} == {"one colour"}
    find_duplicates([strip, tmp_path / "d/train/a/0.png"])
    data = ImageDataset([strip], [0], spec, augment=True)
    for epoch in range(5):
        data.set_epoch(epoch)
        images, _ = data[[0]]
        assert images.shape == (1, 3, 96, 96) and torch.isfinite(images).all()


def test_crops_of_the_thinnest_images_hold_a_pixel():
    for shape in ((1, 20), (20, 1), (1, 1), (2, 40), (1, 2)):
        boxes = random_crops(np.tile(shape, (1000, 1)), draw_views(1000, seed=0, epoch=0))
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all() and (boxes[:, :2] + boxes[:, 2:] <= shape).all(), shape


def test_strips_show_their_middle():
    values = np.zeros((10, 4001, 3), np.uint8)
    values[:, 1998:2003] = 255
    view = np.asarray(centre_view(64)(Image.fromarray(values)))
    assert view[:, 32].min() > 200 and view[:, 0].max() == 0 and view[:, -1].max() == 0


# Memory

PROBE = """
import resource, sys
from pathlib import Path
from transfer_nbs.inference import image_batches
from transfer_nbs.examine import examine
from transfer_nbs.batches import ImageStore
from transfer_nbs.views import ImageSpec
from transfer_nbs.images import find_ranges

def read(files):
    for file in files: assert not any(kind in ("broken", "bomb") for kind, _ in examine(Path(file)).troubles), file
    ImageStore(files, size=96, crops=True, keep=False)(range(len(files)))
    for kept, _, errors in image_batches(files, ImageSpec(("a", "b"), size=96, ranges=find_ranges(files))): assert not errors, errors

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

read(sys.argv[1:2])
before = peak()
read(sys.argv[2:])
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_of_hostile_images(tmp_path):
    "Images that are small as files and large in memory: checked, stored for training, and predicted, several at a time."
    Image.new("RGB", (64, 64)).save(tmp_path / "tiny.png")
    hostile = [tmp_path / f"deep{number}.png" for number in range(3)]
    Image.fromarray(np.full((5600, 5600), 30000, np.uint16)).save(hostile[0], compress_level=1)
    for copy in hostile[1:]: os.link(hostile[0], copy)
    hostile += [tmp_path / name for name in ("float.tif", "clear.png", "strip.png")]
    Image.fromarray(np.full((5000, 5000), 0.5, np.float32)).save(hostile[3], compression="tiff_deflate", tiffinfo={278: 5000})
    Image.new("RGBA", (5000, 5000), (9, 9, 9, 9)).save(hostile[4], compress_level=1)
    Image.new("RGB", (60000, 1)).save(hostile[5])
    done = subprocess.run([sys.executable, "-c", PROBE, tmp_path / "tiny.png", *hostile], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < _MEMORY / 2**20, "megabytes beyond what a tiny image takes"


def test_what_needs_more_is_refused(tmp_path):
    "The size that Pillow takes from the header is enough; nothing is decoded."
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="WEBP", lossless=True)
    image = Image.open(file)
    image._size = (12000, 12000)
    with pytest.raises(Image.DecompressionBombError, match="12000 x 12000 pixels"): _decoding_bytes(image)
    assert _decoding_bytes(Image.new("RGB", (13000, 13000))) < _MEMORY
    Image.new("RGB", (64, 64)).save(tmp_path / "a.tif", compression="tiff_deflate", tiffinfo={278: 64})
    image = Image.open(tmp_path / "a.tif")
    image.tag_v2[322], image.tag_v2[323] = 40000, 40000  # one tile, far larger than the image
    with pytest.raises(Image.DecompressionBombError): _decoding_bytes(image)


def test_ranges_by_hand():
    assert range_of(0, 4095, floats=False) == (0, 4095) and range_of(0, 0.2, floats=True) == (0, 1) and range_of(-5, 5, floats=True) == (-5, 5)
    values = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    assert used_range(Image.fromarray(values)) == (10, 9989)
    assert to_rgb(Image.fromarray(values), Ranges(integers=(0, 9999))).getpixel((99, 99)) == (255, 255, 255)
