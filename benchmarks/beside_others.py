"""transfer_nbs beside fastai, Lightning, timm and the article's own loop: the same images, network and epochs, each tool as its documentation has it.

    python benchmarks/beside_others.py FOLDER --arch mobilenet_v2 --weights FILE

The other tools get an environment of their own in the user's cache folder, made once, with the torch and torchvision of this one."""

import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from fastcore.script import Param, call_parse
from platformdirs import user_cache_path

from transfer_nbs.backbone import create_body
from transfer_nbs.named_weights import bundled_weights
from transfer_nbs.clothes import Camouflage, practice_folder
from transfer_nbs.files import check_writable
from transfer_nbs.data import read_folder
from transfer_nbs.console import user_errors
from transfer_nbs.files import content_hash

SCRIPTS = Path(__file__).resolve().parent / "tools"
OTHERS = ("fastai>=2.8", "lightning", "timm")  # the newest of each that this torch allows
TASKS = {"frozen": 1, "1 + 1": 2}  # epochs: one with a frozen body, then perhaps one with everything


class Way(NamedTuple):
    "A tool, and how it is to do a task."
    tool: str
    script: str  # in benchmarks/tools
    task: str
    way: str  # what the script calls it
    workers: int  # processes that read pictures: the faster of 0 and 2 on two cores; --workers tries others
    own: bool = False  # runs in this environment


WAYS = (
    Way("transfer_nbs", "with_transfer_nbs.py", "frozen", "bn_eval", 0, True),
    Way("transfer_nbs", "with_transfer_nbs.py", "frozen", "bn_eval, pictures decoded before", 0, True),
    Way("transfer_nbs", "with_transfer_nbs.py", "frozen", "frozen_deeper_head", 0, True),
    Way("article", "article.py", "frozen", "loop", 2),
    Way("fastai", "with_fastai.py", "frozen", "fit_one_cycle", 2),
    Way("Lightning", "with_lightning.py", "frozen", "BackboneFinetuning", 0),
    Way("Lightning", "with_lightning.py", "frozen", "no_grad", 0),
    Way("timm", "with_timm.py", "frozen", "loop", 0),
    Way("transfer_nbs", "with_transfer_nbs.py", "1 + 1", "discriminative_bn_frozen", 0, True),
    Way("transfer_nbs", "with_transfer_nbs.py", "1 + 1", "discriminative_bn_frozen, pictures decoded before", 0, True),
    Way("transfer_nbs", "with_transfer_nbs.py", "1 + 1", "deeper_head", 0, True),
    Way("article", "article.py", "1 + 1", "loop", 0),
    Way("fastai", "with_fastai.py", "1 + 1", "fine_tune", 0),
    Way("Lightning", "with_lightning.py", "1 + 1", "BackboneFinetuning", 0),
    Way("timm", "with_timm.py", "1 + 1", "loop", 2),
)


def write(path: Path, text: str) -> None:
    "Write a file whole or not at all."
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def others_python() -> str:
    "The interpreter of the other tools' environment, which is made where it isn't there, or was left half made, or has another torch."
    folder = user_cache_path("transfer_nbs") / "benchmark-env"
    same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision", "pillow")]
    wanted = json.dumps(dict(python=platform.python_version(), packages=[*same, *OTHERS]))
    python, done = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), folder / "complete.json"
    if done.exists() and done.read_text(encoding="utf-8") == wanted: return str(python)
    print(f"making an environment for the other tools in {folder}: some minutes, once", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "-q", *same, *OTHERS]):
        made = subprocess.run(command, capture_output=True, text=True, env=environment(own=False, threads=1))
        if made.returncode: raise ChildProcessError(f"can't make {folder}: {last_line(made.stderr) or last_line(made.stdout)}")
    write(done, wanted)
    return str(python)


def last_line(text: str) -> str:
    "The last line that says something."
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def environment(*, own: bool, threads: int) -> dict[str, str]:
    "Environment variables for a run: only the CPU, as many threads for all, no progress bars, nothing of this environment in the other."
    kept = {name: value for name, value in os.environ.items() if own or name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1", "MPLBACKEND": "agg", "PYTHONNOUSERSITE": "1"}


def take(table: pd.DataFrame, counts: dict[str, int | None]) -> pd.DataFrame:
    "A sample of each side, the same each time, in which each class has its share. Raises ValueError where there are too few images."
    parts = []
    for side, count in counts.items():
        rows = table[table["split"] == side].sample(frac=1, random_state=0)
        if count is None: count = len(rows)
        classes = rows.groupby("class")["class"]
        if not classes.ngroups <= count <= len(rows): raise ValueError(f"--{side} is {count}: give {classes.ngroups} to {len(rows)}")
        place = (classes.cumcount() + 0.5) / classes.transform("size")  # evenly along 0 to 1 in each class
        parts.append(rows.loc[np.sort(place.sort_values(kind="stable").index[:count])])
    return pd.concat(parts, ignore_index=True)


def open_out(out: Path, settings: dict) -> pd.DataFrame:
    "The runs that are there already, of the same settings. Raises ValueError where they have other settings."
    check_writable(out)
    said, runs = out / "environment.json", out / "runs.csv"
    if said.exists():
        old = json.loads(said.read_text(encoding="utf-8"))["settings"]
        other = [name for name, value in settings.items() if old.get(name) != value]
        if other: raise ValueError(f"{out} holds runs with {other[0]} {old.get(other[0])}, not {settings[other[0]]}: choose another --out or delete it")
    record = dict(settings=settings, date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"), cpu=cpu_name(),
                  cores=os.cpu_count(), system=platform.platform(), python=platform.python_version())
    if not said.exists(): write(said, json.dumps(record, indent=1) + "\n")
    return pd.read_csv(runs, keep_default_na=False) if runs.exists() else pd.DataFrame()


def cpu_name() -> str:
    "What the processor calls itself."
    try: lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError: return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run_one(way: Way, job: dict, out: Path, python: str) -> dict:
    "Run one tool in a process of its own, and check that it did the work. Raises ChildProcessError where it did not."
    file = out / "job.json"
    write(file, json.dumps(job))
    with tempfile.TemporaryDirectory() as cache:  # ours keeps what it computes: here nothing is left of an earlier run
        done = subprocess.run([python, str(SCRIPTS / way.script), str(file)], capture_output=True, text=True,
                              env={**environment(own=way.own, threads=job["threads"]), "XDG_CACHE_HOME": cache})
    file.unlink()
    if done.returncode:
        log = out / "failed.txt"
        write(log, done.stdout + done.stderr)
        raise ChildProcessError(f"{way.tool} {way.way}: {last_line(done.stderr)} (all it said is in {log})")
    result = json.loads(last_line(done.stdout))
    if result["validated"] != len(job["valid"]): raise ChildProcessError(f"{way.tool} {way.way} validated {result['validated']} of {len(job['valid'])} images")
    missing = len(job["train"]) - result["trained_on"]
    if not 0 <= missing < job["batch_size"]: raise ChildProcessError(f"{way.tool} {way.way} trained on {result['trained_on']} of {len(job['train'])} images")
    if missing: result["note"] += f"; {missing} images fewer in an epoch"
    return result


def plan(rounds: int, precisions: tuple[str, ...]) -> Iterator[tuple[int, str, Way]]:
    "Every run, in order: in each round all tools in turn."
    for number in range(rounds):
        for precision in precisions:
            for way in WAYS: yield number, precision, way


def make_table(runs: pd.DataFrame) -> pd.DataFrame:
    "A row for each tool and way: the median of its seconds, how that stands to our first way, and its accuracies."
    rows = []
    for precision in dict.fromkeys(runs.precision):
        for task in TASKS:
            part = runs[(runs.precision == precision) & (runs.task == task)]
            if part.empty: continue
            ours = part.seconds[part.way == part.way.iloc[0]].median()
            for (tool, way), group in part.groupby(["tool", "way"], sort=False):
                seconds = group.seconds.median()
                rows.append(dict(tool=tool, way=way, task=task, precision=precision, ran_in=group.ran_in.iloc[0], seconds=round(seconds, 2),
                                 ratio=round(seconds / ours, 2), accuracy=round(group.accuracy.mean(), 4),
                                 accuracies=" ".join(f"{value:.4f}" for value in group.accuracy), workers=group.workers.iloc[0], note=group.note.iloc[0]))
    return pd.DataFrame(rows)


def write_results(out: Path, runs: pd.DataFrame) -> pd.DataFrame:
    "Write table.csv, and what versions ran into environment.json; the table."
    table = make_table(runs)
    write(out / "table.csv", table.to_csv(index=False))
    record = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    record["versions"] = {tool: json.loads(group.versions.iloc[-1]) for tool, group in runs.groupby("tool", sort=False)}
    write(out / "environment.json", json.dumps(record, indent=1) + "\n")
    return table


@call_parse
def beside_others(
    folder: Param("folder of images, as for transfer_compare; none: the practice data", str, nargs="?", opt=False) = None,
    arch: str = "resnet18",  # a classification network of torchvision
    weights: str = "bundled",  # bundled, or a file with the state_dict of torchvision's network
    size: int = None,  # height and width for the network, pixels; 96 with the bundled weights, else 224
    batch_size: int = 32,  # images at a time
    precision: str = "bfloat16,float32",  # comma separated
    rounds: int = 3,  # how often each tool runs, with seeds 0, 1, ...
    train: int = None,  # images to train on, each class with its share; all
    valid: int = None,  # images to validate with, likewise
    threads: int = None,  # for computing; as many as torch takes
    workers: int = None,  # processes that read pictures, the same number for the other tools; each its faster one
    out: str = "runs/beside_others",  # folder for the results
):
    "Time transfer_nbs and the tools one would use instead, on the same images, split, network, epochs and batch size."
    with user_errors("beside_others"):
        precisions = tuple(precision.split(","))
        for name in precisions:
            if name not in ("bfloat16", "float32"): raise ValueError(f"unknown precision {name!r}: use bfloat16, float32 or both")
        if rounds < 1: raise ValueError(f"rounds is {rounds}: give 1 or more")
        if batch_size < 2: raise ValueError(f"batch_size is {batch_size}: give 2 or more")
        if threads is not None and threads < 1: raise ValueError(f"threads is {threads}: give 1 or more")
        if workers is not None and workers < 0: raise ValueError(f"workers is {workers}: give 0 or more")
        size, threads, out = size or (96 if weights == "bundled" else 224), threads or torch.get_num_threads(), Path(out)
        if size < 32: raise ValueError(f"size is {size}: give 32 or more")
        if weights in ("imagenet", "random"): raise ValueError(f"weights is {weights!r}: give bundled, or a file that all tools can load")
        create_body(arch, weights=weights)  # unknown networks and files that don't fit end here
        file = Path(bundled_weights() if weights == "bundled" else weights).resolve()
        folder = Path(practice_folder(Camouflage()) if folder is None else folder).resolve()
        table = take(read_folder(folder), dict(train=train, valid=valid))
        classes = sorted(set(table["class"]))
        files = {side: [(str(folder / row.file), classes.index(row["class"])) for _, row in table[table["split"] == side].iterrows()] for side in ("train", "valid")}
        if len(files["train"]) < batch_size: raise ValueError(f"{len(files['train'])} images to train on fill no batch of {batch_size}: give a smaller --batch_size")
        settings = dict(arch=arch, weights=content_hash(file), size=size, batch_size=batch_size, threads=threads, workers=workers, classes=classes,
                        train=len(files["train"]), valid=len(files["valid"]), images=sha256(table.to_csv(index=False).encode()).hexdigest())
        runs, python = open_out(out, settings), others_python()
        todo = list(plan(rounds, precisions))
        print(f"{folder}: {len(classes)} classes, {settings['train']} images to train on, {settings['valid']} to validate with; {arch}, {size} px, {threads} threads")
        for done, (number, name, way) in enumerate(todo, start=1):
            key = dict(round=number, task=way.task, precision=name, tool=way.tool, way=way.way)
            if len(runs) and (runs[list(key)] == pd.Series(key)).all(axis=1).any(): continue
            job = dict(**files, classes=classes, arch=arch, weights=str(file), size=size, batch_size=batch_size, threads=threads, seed=number,
                       workers=way.workers if workers is None or way.own else workers, epochs=TASKS[way.task], way=way.way, precision=name)
            result = run_one(way, job, out, sys.executable if way.own else python)
            row = dict(**key, seed=number, seconds=result["seconds"], accuracy=result["accuracy"], validated=result["validated"], trained_on=result["trained_on"],
                       workers=job["workers"], ran_in=result["precision"], versions=json.dumps(result["versions"]), note=result["note"])
            runs = pd.concat([runs, pd.DataFrame([row])], ignore_index=True)
            write(out / "runs.csv", runs.to_csv(index=False))
            print(f"{done:3}/{len(todo)}  round {number}  {name:8}  {way.task:6}  {way.tool:12} {way.way:24}  {row['seconds']:7.1f} s  accuracy {row['accuracy']:.3f}", flush=True)
        result = write_results(out, runs)
        print(f"\n{result.drop(columns=['note', 'workers']).to_string(index=False)}\n\nruns.csv, table.csv and environment.json are in {out}")
