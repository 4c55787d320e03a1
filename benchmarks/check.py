"""How fast transfer_check reads a folder, which planted copies it finds, how often it is wrong, whether it tells copies from look-alikes, and how its memory grows.

    python benchmarks/check.py PHOTOGRAPHS/clothing PHOTOGRAPHS/hymenoptera --out nbs/results/check"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import Param, call_parse
from measuring import measured
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from transfer_nbs import examine
from transfer_nbs.check import check_folder
from transfer_nbs.console import user_errors
from transfer_nbs.duplicates import what_differs
from transfer_nbs.folders import read_layout
from transfer_nbs.images import open_image

LONG_SIDE, FILES = 500, (1000, 10_000, 100_000)  # pixels of the photographs that speed is measured on; files for which memory is measured


def half(image: Image.Image) -> Image.Image: return image.resize([max(1, side // 2) for side in image.size], Image.Resampling.LANCZOS)


def trimmed(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop([round(side) for side in (0.03 * width, 0.03 * height, 0.97 * width, 0.97 * height)])


COPIES = {  # name -> how a picture is changed, and the quality of the JPEG it is saved as; None: the very bytes
    "identical file": (None, None), "half the size": (half, 90), "quality 50": (lambda image: image, 50), "half the size, quality 50": (half, 50),
    "mirrored": (ImageOps.mirror, 90), "mirrored, half the size, quality 50": (lambda image: ImageOps.mirror(half(image)), 50),
    "lighter by 15%": (lambda image: ImageEnhance.Brightness(image).enhance(1.15), 90), "trimmed by 3% on each side": (trimmed, 90),
    "mirrored, trimmed by 3% on each side": (lambda image: ImageOps.mirror(trimmed(image)), 90)}


def blurred(share: float) -> Callable:
    "Out of focus: the radius is a share of the short side."
    return lambda image: image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def exposed(factor: float) -> Callable: return lambda image: ImageEnhance.Brightness(image).enhance(factor)


FAINT = {  # name -> how an image is changed so that it shows little, and the kinds that it may be called
    **{f"blurred by {share:.0%} of the short side": (blurred(share), {"out of focus"}) for share in (0.01, 0.02, 0.04)},
    **{f"{factor:g} times the light": (exposed(factor), {"nearly black", "one colour"}) for factor in (0.3, 0.1, 0.03)},
    **{f"{factor} times the light": (exposed(factor), {"nearly white", "one colour"}) for factor in (10, 30, 100)}}


def pictures(folder: Path) -> list[Path]:
    "The pictures of a folder's classes."
    found = []
    for classes in read_layout(folder).images.values():
        for files in classes.values(): found += files
    return found


def measure_speed(files: list[Path], rounds: int) -> Iterator[dict]:
    "Files a second on photographs of one size, decoded as far as needed and decoded whole."
    with tempfile.TemporaryDirectory() as room:
        for number, file in enumerate(files):
            image = open_image(file)
            scale = LONG_SIDE / max(image.size)
            path = Path(room) / f"class {number % 2}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS).save(path, quality=90)
        look = examine._LOOK
        for turn in range(rounds):
            for decoded, examine._LOOK in (("as far as needed", look), ("whole", 10**6)):
                start = time.process_time()
                with measured() as result: check_folder(room)
                processor = time.process_time() - start
                yield dict(long_side=LONG_SIDE, decoded=decoded, round=turn, files=len(files), cores=len(os.sched_getaffinity(0)), seconds=result["seconds"],
                           files_per_second=round(len(files) / result["seconds"], 1), files_per_processor_second=round(len(files) / processor, 1))
        examine._LOOK = look


@contextmanager
def planted(files: list[Path], chosen: np.ndarray, change: Callable | None, quality: int | None) -> Iterator[Path]:
    "A folder with links to the files in train, and changed copies of some of them in valid."
    with tempfile.TemporaryDirectory() as room:
        train, valid = Path(room) / "train" / "all", Path(room) / "valid" / "all"
        for folder in (train, valid): folder.mkdir(parents=True)
        for number, file in enumerate(files): os.symlink(file.resolve(), train / f"{number}{file.suffix}")
        for number in chosen:
            if change is None: (valid / f"{number}{files[number].suffix}").write_bytes(files[number].read_bytes())
            else: change(open_image(files[number])).save(valid / f"{number}.jpg", quality=quality)
        yield Path(room)


def measure_copies(name: str, files: list[Path], most: int) -> Iterator[dict]:
    "How many planted copies are found, and how many lines are wrong: two pictures of which neither is a copy of the other."
    chosen = np.sort(np.random.default_rng(0).choice(len(files), min(most, len(files)), replace=False))
    for kind, (change, quality) in COPIES.items():
        with planted(files, chosen, change, quality) as folder: rows = check_folder(folder).query("kind == 'leak'")
        pairs = {tuple(Path(file).stem for file in pair) for pair in rows[["file", "other_file"]].to_numpy()}
        found = sum((str(number),) * 2 in pairs for number in chosen)
        yield dict(photographs=name, copy=kind, planted=len(chosen), found=found, share=round(found / len(chosen), 4), others_taken_for_copies=len(pairs) - found)


def saved(image: Image.Image, quality: int) -> Image.Image:
    "An image as JPEG leaves it."
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cut(image: Image.Image, lot: np.random.Generator) -> Image.Image:
    "Up to 4% off each side."
    (width, height), (left, top, right, bottom) = image.size, lot.uniform(0, 0.04, 4)
    return image.crop([round(side) for side in (left * width, top * height, (1 - right) * width, (1 - bottom) * height)])


SAVED = {  # name -> the same image, saved again
    "quality 60": lambda image, lot: saved(image, 60), "quality 30": lambda image, lot: saved(image, 30), "half the size": lambda image, lot: saved(half(image), 90),
    "a quarter of the size": lambda image, lot: saved(half(half(image)), 80), "lighter by 15%": lambda image, lot: saved(ImageEnhance.Brightness(image).enhance(1.15), 90),
    "darker by 20%": lambda image, lot: saved(ImageEnhance.Brightness(image).enhance(0.8), 90), "more contrast": lambda image, lot: saved(ImageEnhance.Contrast(image).enhance(1.2), 85),
    "in grey": lambda image, lot: saved(image.convert("L").convert("RGB"), 85), "trimmed": lambda image, lot: saved(cut(image, lot), 90),
    "trimmed, half the size, quality 60": lambda image, lot: saved(half(cut(image, lot)), 60), "trimmed and scaled back, quality 60": lambda image, lot: saved(cut(image, lot).resize(image.size), 60),
    "saved as PNG": lambda image, lot: image.copy()}


def expose(image: Image.Image, lot: np.random.Generator, noise: float = 5, shake: float = 3) -> Image.Image:
    "Another photograph of the same thing: noise, another light, and a camera that shook, in pixels."
    moved = [float(value) for value in lot.uniform(-shake, shake, 2)]
    image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, moved[0], 0, 1, moved[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image) * lot.uniform(0.93, 1.07) + lot.normal(0, noise, (image.height, image.width, 3))
    return saved(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), 92)


def mark(image: Image.Image, draw: Callable) -> Image.Image:
    "A copy of an image with something drawn on it."
    image = image.copy()
    draw(ImageDraw.Draw(image), *image.size)
    return saved(image, 85)


def small(image: Image.Image) -> Image.Image: return image.resize([round(side * 256 / min(image.size)) for side in image.size], Image.Resampling.LANCZOS)


def scratch(image: Image.Image, lot: np.random.Generator) -> Image.Image:
    (x, y), angle = lot.uniform(0.2, 0.7, 2) * image.size, lot.uniform(0, 2 * np.pi)
    light = 235 if np.asarray(image.convert("L"))[int(y), int(x)] < 140 else 40
    return mark(image, lambda pen, width, height: pen.line((x, y, x + 20 * np.cos(angle), y + 20 * np.sin(angle)), fill=(light,) * 3, width=3))


def ball(image: Image.Image, lot: np.random.Generator) -> Image.Image:
    x, y = lot.uniform(0.1, 0.8, 2) * image.size
    return mark(image, lambda pen, width, height: pen.ellipse((x, y, x + width / 20, y + width / 20), fill=(200, 120, 40)))


def dated(image: Image.Image, lot: np.random.Generator) -> Image.Image:
    text = f"2024-05-{lot.integers(10, 31)} {lot.integers(10, 24)}:{lot.integers(10, 60)}"
    return mark(image, lambda pen, width, height: pen.text((10, height - 24), text, fill=(250, 240, 90), font_size=14))


def form(lot: np.random.Generator, number: int) -> Image.Image:
    "A page of text, 1240 x 1754 pixels, with a number at its foot."
    page = Image.new("RGB", (1240, 1754), (250, 250, 248))
    pen, letters = ImageDraw.Draw(page), np.array(list("abcdefghijklmnop     "))
    for line in range(30): pen.text((80, 80 + 50 * line), "".join(lot.choice(letters, 60)), fill=(20, 20, 25), font_size=26)
    pen.text((900, 1640), str(number), fill=(20, 20, 25), font_size=34)
    return saved(page, 75)


def dial(degrees: float) -> Image.Image:
    "A round instrument whose needle shows something."
    image = Image.new("RGB", (300, 300), (225, 225, 220))
    pen, angle = ImageDraw.Draw(image), np.radians(degrees)
    pen.ellipse((20, 20, 280, 280), outline=(30, 30, 30), width=5)
    for mark in np.radians(np.arange(0, 360, 30)): pen.line([150 + part for r in (110, 125) for part in (r * np.cos(mark), r * np.sin(mark))], fill=(30, 30, 30), width=3)
    pen.line((150, 150, 150 + 100 * np.cos(angle), 150 + 100 * np.sin(angle)), fill=(160, 20, 20), width=4)
    return saved(image, 85)


def cells(lot: np.random.Generator, more: int) -> Image.Image:
    "Dots under a microscope, with some more of them."
    image, other = Image.new("RGB", (400, 300), (215, 200, 215)), np.random.default_rng(more)
    for x, y in [*lot.uniform(0.05, 0.9, (60, 2)), *other.uniform(0.05, 0.9, (min(more, 1), 2))]:
        ImageDraw.Draw(image).ellipse((400 * x, 300 * y, 400 * x + 12, 300 * y + 12), fill=(140, 90, 150), outline=(90, 50, 110))
    return saved(image, 85)


def x_ray(lot: np.random.Generator, spot: bool, noise: float) -> Image.Image:
    "Soft greys, perhaps with a faint spot of 12 pixels."
    y, x = np.mgrid[:400, :400] / 400 - 0.5
    values = 40 + 170 * np.exp(-(x * x / 0.12 + y * y / 0.2)) + 18 * np.sin(26 * (y + 0.25 * x * x))
    if spot: values += 30 * np.exp(-((x - 0.1) ** 2 + (y + 0.05) ** 2) / (2 * 0.015 ** 2))
    return saved(Image.fromarray((values + lot.normal(0, noise, values.shape)).clip(0, 255).astype(np.uint8)).convert("RGB"), 90)


ALIKE = {  # name -> two images of one thing that are not the same image; of a photograph, and by a lot
    "scratch of 3 x 20 pixels": lambda image, lot: (saved(small(image), 85), scratch(small(image), lot)), "frames, a thing moves": lambda image, lot: (ball(small(image), lot), ball(small(image), lot)),
    "dates in the corner": lambda image, lot: (dated(small(image), lot), dated(small(image), lot)), "two photographs, the camera shook": lambda image, lot: (expose(small(image), lot), expose(small(image), lot)),
    "pages, one digit differs": lambda image, lot: (lambda seed: (form(np.random.default_rng(seed), 48213), form(np.random.default_rng(seed), 48218)))(int(lot.integers(10**6))),
    "dials, 10 degrees apart": lambda image, lot: (lambda angle: (dial(angle), dial(angle + 10)))(lot.uniform(0, 360)),
    "cells, one more": lambda image, lot: (lambda seed: (cells(np.random.default_rng(seed), 0), cells(np.random.default_rng(seed), 1 + seed)))(int(lot.integers(10**6))),
    "X-rays, two exposures": lambda image, lot: (x_ray(lot, False, 4), x_ray(lot, False, 4)), "X-rays, a faint spot": lambda image, lot: (x_ray(lot, True, 1), x_ray(lot, False, 1)),
    "instruments, two exposures": lambda image, lot: (expose(dial(60), lot, 2, 0), expose(dial(60), lot, 2, 0))}


def measure_verdicts(name: str, files: list[Path], most: int) -> Iterator[dict]:
    "How many copies are called the same image, and how many look-alikes are; on a draw made after the rules were fixed."
    lot = np.random.default_rng(2026)
    photographs = [open_image(files[number]) for number in lot.choice(len(files), min(most, len(files)), replace=False)]
    for truth, kinds in (("the same image", SAVED), ("a look-alike", ALIKE)):
        for kind, make in kinds.items():
            said = []
            for image in photographs:
                pair = [image, make(image, lot)] if truth == "the same image" else make(image, lot)
                said.append(what_differs(*pair[::1 if len(said) % 2 else -1]))  # either may be the first
            yield dict(photographs=name, truth=truth, kind=kind, pairs=len(said), called_the_same=said.count(""), differ_in_places=said.count("differ in places"),
                       moved=said.count("moved"), other_noise=said.count("other noise"))


def measure_alarms(name: str, folder: Path) -> Iterator[dict]:
    "The pairs that are found in a folder as it is: to be looked at, one by one."
    findings = check_folder(folder)
    count = findings.attrs["pictures"]
    rows = findings[findings["other_file"] != ""].drop_duplicates(["file", "other_file"])
    yield dict(photographs=name, pictures=count, pairs_compared=count * (count - 1) // 2, pairs_found=len(rows),
               found="; ".join(f"{row.file} = {row.other_file} ({row.detail})" for row in rows.itertuples()))


def measure_faint(name: str, folder: Path, files: list[Path], most: int) -> Iterator[dict]:
    "How many images of a folder are said to show little, mirrored classes among them, and how many planted ones are found."
    kinds = {"nothing left", "one colour", "nearly black", "nearly white", "out of focus", "mirror classes"}
    findings = check_folder(folder)
    rows = findings[findings["kind"].isin(kinds)]
    yield dict(photographs=name, image="as it is", images=findings.attrs["pictures"], named=len(rows), share=round(len(rows) / findings.attrs["pictures"], 5),
               found="; ".join(f"{row.file or row.detail} ({row.kind})" for row in rows.itertuples()))
    chosen = np.sort(np.random.default_rng(0).choice(len(files), min(most, len(files)), replace=False))
    for image, (change, names) in FAINT.items():
        with planted(files, chosen, change, 90) as room: rows = check_folder(room).query("split == 'valid'")
        count = rows[rows["kind"].isin(names)]["file"].nunique()
        yield dict(photographs=name, image=image, images=len(chosen), named=count, share=round(count / len(chosen), 4), found="")


def measure_growth(count: int) -> dict:
    "Time and memory for so many small pictures, drawn by lot."
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as room:
        for number in range(count):
            path = Path(room) / f"class {number % 10}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(generator.integers(256, size=(8, 8, 3), dtype=np.uint8)).resize((64, 64)).save(path)
        with measured() as result: findings = check_folder(room)
    return dict(files=count, pairs_found=int((findings["other_file"] != "").sum()), cores=len(os.sched_getaffinity(0)), **result)


@call_parse
def main(
    photographs: Param("folders of photographs in classes", Path, nargs="+"),
    out: str = "runs/check",  # folder for the results
    rounds: int = 3,  # how often speed is measured
    most: int = 400,  # photographs that copies are made of, for each kind of copy and each folder
    only: str = "speed,copies,verdicts,alarms,faint,growth",  # what to measure, comma separated
    largest: int = FILES[-1],  # files in the largest folder of small pictures
):
    "Speed, planted copies, verdicts, faint images, false alarms and memory of transfer_check, on an idle machine: a quarter of an hour."
    with user_errors("check"):
        if rounds < 1 or most < 1: raise ValueError(f"rounds is {rounds}, most is {most}; both must be 1 or more")
        sets = {folder.name: pictures(folder) for folder in photographs}
        Path(out).mkdir(parents=True, exist_ok=True)

        def write(name, rows):
            if name not in only.split(","): return
            table = []
            for row in rows:
                table.append(row)
                print("  ".join(map(str, row.values())), flush=True)
                pd.DataFrame(table).to_csv(Path(out) / f"{name}.csv", index=False)

        large = [file for files in sets.values() for file in files if max(Image.open(file).size) >= LONG_SIDE][:most]
        write("speed", measure_speed(large, rounds))
        write("copies", (row for name, files in sets.items() for row in measure_copies(name, files, most)))
        write("verdicts", (row for name, files in sets.items() for row in measure_verdicts(name, files, min(most, 100))))
        write("alarms", (row for folder in photographs for row in measure_alarms(folder.name, folder)))
        write("faint", (row for folder in photographs for row in measure_faint(folder.name, folder, sets[folder.name], min(most, 100))))
        def alone(count):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool: return pool.submit(measure_growth, count).result()
        write("growth", (alone(count) for count in FILES if count <= largest))
