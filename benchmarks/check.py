"""How fast transfer_check reads a folder, which planted copies it finds, how often it is wrong, and how its memory grows.

    python benchmarks/check.py PHOTOGRAPHS/clothing PHOTOGRAPHS/hymenoptera --out nbs/results/check"""

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
from PIL import Image, ImageEnhance, ImageOps

from transfer_nbs import check
from transfer_nbs.check import check_folder, list_places
from transfer_nbs.console import user_errors
from transfer_nbs.folders import IMAGE_EXTENSIONS, open_image

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


def pictures(folder: Path) -> list[Path]:
    "The pictures of a folder's classes."
    return [folder / place.file for place in list_places(folder)[0] if place.name and Path(place.file).suffix.lower() in IMAGE_EXTENSIONS]


def measure_speed(files: list[Path], rounds: int) -> Iterator[dict]:
    "Files a second on photographs of one size, decoded as far as needed and decoded whole."
    with tempfile.TemporaryDirectory() as room:
        for number, file in enumerate(files):
            image = open_image(file)
            scale = LONG_SIDE / max(image.size)
            path = Path(room) / f"class {number % 2}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS).save(path, quality=90)
        look = check.LOOK
        for turn in range(rounds):
            for decoded, check.LOOK in (("as far as needed", look), ("whole", 10**6)):
                start = time.process_time()
                with measured() as result: check_folder(room)
                processor = time.process_time() - start
                yield dict(long_side=LONG_SIDE, decoded=decoded, round=turn, files=len(files), cores=len(os.sched_getaffinity(0)), seconds=result["seconds"],
                           files_per_second=round(len(files) / result["seconds"], 1), files_per_processor_second=round(len(files) / processor, 1))
        check.LOOK = look


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


def measure_alarms(name: str, folder: Path) -> Iterator[dict]:
    "The pairs that are found in a folder as it is: to be looked at, one by one."
    findings = check_folder(folder)
    count = findings.attrs["pictures"]
    rows = findings[findings["other_file"] != ""].drop_duplicates(["file", "other_file"])
    yield dict(photographs=name, pictures=count, pairs_compared=count * (count - 1) // 2, pairs_found=len(rows),
               found="; ".join(f"{row.file} = {row.other_file} ({row.detail})" for row in rows.itertuples()))


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
    only: str = "speed,copies,alarms,growth",  # what to measure, comma separated
    largest: int = FILES[-1],  # files in the largest folder of small pictures
):
    "Speed, planted copies, false alarms and memory of transfer_check, on an idle machine: a quarter of an hour."
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
        write("alarms", (row for folder in photographs for row in measure_alarms(folder.name, folder)))
        def alone(count):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool: return pool.submit(measure_growth, count).result()
        write("growth", (alone(count) for count in FILES if count <= largest))
