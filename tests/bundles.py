"""What the tests of bundles share: a small model, its bundle, images to ask it about, and ways to damage it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import forks
import pandas as pd
import pytest
from forks import BIN

from transfer_nbs.bundle import Bundle, _current_versions, _describe_recipe, _digest, make_bundle, save_bundle
from transfer_nbs.clothes import Camouflage, make_clothes
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.data import read_folder
from transfer_nbs.views import ImageSpec
from transfer_nbs.files import content_hash


def run(*command, **options):
    "Run transfer_predict; what it said is bytes."
    return forks.run("transfer_predict", *command, text=False, **options)


def text(done):
    "What a command said, with its bytes as text."
    return subprocess.CompletedProcess(done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


@pytest.fixture(scope="session")
def figures(tmp_path_factory):
    "Sixty drawn figures of 40 pixels, in two classes, and their table."
    folder = make_clothes(tmp_path_factory.mktemp("data") / "figures", Camouflage(n=60, size=40), workers=1)
    return folder, read_folder(folder, valid_fraction=0.4)


@pytest.fixture(scope="session")
def trained(figures):
    folder, table = figures
    settings = CompareSettings(size=32, epochs=1, device="cpu")
    result = train_recipe(RECIPES["deeper_head"], settings, table, folder)
    told = dict(arch=settings.arch, weights=settings.weights, epochs=1, seed=0)
    return result, make_bundle(result.model, result.spec, recipe=RECIPES["deeper_head"], settings=told, table=table, folder=folder)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    return save_bundle(trained[1], tmp_path_factory.mktemp("bundles") / "figures")


@pytest.fixture
def copy(saved, tmp_path):
    "A bundle to be damaged."
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def inbox(figures, tmp_path):
    "Five sound pictures, one of them deeper, and a letter."
    (tmp_path / "inbox" / "more").mkdir(parents=True)
    for file, name in zip(sorted(figures[0].glob("*/*.jpg")), ("a.jpg", "b.jpg", "c.JPG", "d.jpg", "more/e.jpg")): shutil.copy(file, tmp_path / "inbox" / name)
    (tmp_path / "inbox" / "letter.txt").write_text("no picture")
    return tmp_path / "inbox"


def untrained(recipe, class_names, **options):
    "A bundle that learned nothing, of any recipe."
    model = build_model(RECIPES[recipe], CompareSettings(size=32, device="cpu"), num_classes=len(class_names), seed=3)
    return Bundle(model, "resnet18", RECIPES[recipe].head.__name__, ImageSpec(class_names, size=32), _describe_recipe(RECIPES[recipe], model), {}, "", _current_versions(), **{"results": {}, **options})


def edit(folder, mend=False, **changes):
    "Change some of what bundle.json says, and perhaps mend its checksums."
    facts = json.loads((folder / "bundle.json").read_text())
    for name, value in changes.items(): facts[name] = value(facts[name]) if callable(value) else value
    if mend:
        facts["weights"] = dict(sha256=content_hash(folder / "model.safetensors"), bytes=(folder / "model.safetensors").stat().st_size)
        facts["sha256"] = _digest(facts)
    (folder / "bundle.json").write_text(json.dumps(facts))


def contents(folder): return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
def rows_of(path): return pd.read_csv(path, keep_default_na=False)


def shell(line, folder, **environment):
    "What a user types, with bash's exit status of each part of a pipe."
    done = subprocess.run(["bash", "-c", f"{line}; echo ${{PIPESTATUS[@]}} > status"], cwd=folder, env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}, capture_output=True)
    return [int(status) for status in (folder / "status").read_text().split()], text(done)
