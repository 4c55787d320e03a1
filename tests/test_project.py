"""What a notebook can't check about itself: that the package, its notebooks and its pages belong together."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest
from forks import BIN, ROOT, run_notebook
from make_readme import readme

import transfer_nbs

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(path.stem for path in (ROOT / "transfer_nbs").glob("*.py") if not path.stem.startswith("_"))
HOOKS = dict(re.findall(r"id: ([\w-]+),.*? entry: ([\w ./]+),", (ROOT / ".pre-commit-config.yaml").read_text()))


def run(*command, cwd=ROOT, **environment):
    "Run a command to its end; its exit status and output are in what is returned."
    return subprocess.run([str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


SLOW = "00 01 04 05 06 07 08 09 10 12 13 20 21 22 30 31 32 33 34 35 45 46 47 57 60 65".split()
PAGES = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem[:2] in SLOW)) for path in NOTEBOOKS]


@pytest.mark.parametrize("notebook", PAGES)
def test_notebook_runs(notebook):
    "Every cell runs, and every assertion in it holds."
    done = run_notebook(notebook)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


FORKS = """
import importlib, json, os, sys, traceback
import transfer_nbs
for name in sys.argv[1].split(): importlib.import_module(name)  # slow to import, and none of our modules
outcomes = {}
for line in sys.argv[2:]:
    read, write = os.pipe()
    if not os.fork():
        try: exec(line, {})
        except BaseException: os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    with open(read) as said: outcomes[line] = said.read()
    os.wait()
print(json.dumps(outcomes))
"""
OTHERS = {name for path in (ROOT / "transfer_nbs").glob("*.py") for name in re.findall(r"^(?:from|import) (\w[\w.]*)", path.read_text(), re.MULTILINE)}
LINES = [f"from transfer_nbs.{module} import *" for module in MODULES]
ARTICLE = "from transfer_nbs.all import freeze, unfreeze, set_bn_eval, update_lr, AdaptiveConcatPooling, get_model, create_body"


def test_modules_import_alone():
    """Each by a process of its own, in which nothing of the package was imported before: a name that is imported only in an
    unexported cell works on the page and breaks the package. Every definition of the article is in `transfer_nbs.all`, under its name."""
    done = run(sys.executable, "-W", "error::SyntaxWarning", "-c", FORKS, " ".join(sorted(OTHERS)), *LINES, ARTICLE, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys([*LINES, ARTICLE], "")


def test_modules_are_exported_and_notebooks_clean(tmp_path):
    "Exporting and cleaning a copy of the project changes nothing in it."
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__"))
    for command in HOOKS["nbdev-export"], HOOKS["nbdev-clean"]:
        done = run(BIN / command, cwd=copy)
        assert done.returncode == 0, done.stderr
    files = [*(ROOT / "transfer_nbs").glob("*.py"), *NOTEBOOKS]
    changed = [file.name for file in files if file.read_bytes() != (copy / file.relative_to(ROOT)).read_bytes()]
    assert not changed, "run nbdev_export and nbdev_clean"


def test_code_is_as_ruff_likes_it():
    done = run(BIN / "ruff", *HOOKS["ruff"].split()[1:], "--no-cache", ".")
    assert done.returncode == 0, done.stdout


def test_hooks_are_readable():
    done = run(BIN / "pre-commit", "validate-config", ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_signatures_agree_with_their_types(tmp_path):
    "Each exported signature, without its body, as a type checker reads it."
    done = run(BIN / "stubgen", "-q", "-p", "transfer_nbs", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(BIN / "mypy", "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir", tmp_path / "cache", tmp_path / "transfer_nbs")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_of_a_full_run(notebook):
    "Cells were run from top to bottom, once, and left no error and no warning."
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert notebook.stem == "index" or outputs
    shown = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert shown or not any("pyplot" in cell.source for cell in cells), "it draws figures, and none of them is shown"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_are_folded_and_run(notebook):
    "A solution hides below the check that it passes, where a reader's function waits above it, or asserts what training showed."
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    for before, cell in zip([None, *cells], cells):
        if not cell.source.startswith("#| solution"): continue
        assert cell.metadata.get("jupyter") == {"source_hidden": True} and "assert " in cell.source
        if "check_answer(" in cell.source: assert "check_answer(" in before.source and "\n    ..." in before.source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_package_is_imported_before_torch(notebook):
    "Or PyTorch's threads would wait by spinning, and take the time of whatever else runs."
    sources = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    places = {name: next((place for place, line in enumerate("\n".join(sources).splitlines()) if line.startswith(starts)), None)
              for name, starts in (("torch", ("import torch", "from torch")), ("package", ("import transfer_nbs", "from transfer_nbs")))}
    assert places["torch"] is None or places["package"] < places["torch"]


@pytest.mark.parametrize("given, policy", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "1000"}, "None")])
def test_threads_wait_without_spinning_unless_told(given, policy):
    unset = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, "-c", "import os, transfer_nbs; print(os.environ.get('OMP_WAIT_POLICY'))"], env={**unset, **given}, capture_output=True, text=True)
    assert done.stdout.strip() == policy


def test_readme_is_made_from_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run python tests/make_readme.py"


def test_home_names_pages_as_they_name_themselves():
    "Each page of the course has a line with its own title, and each question the first sentence of its answer."
    firsts = {path.name: nbformat.read(path, as_version=4).cells[0].source for path in NOTEBOOKS if path.stem[0] in "01234"}
    home = re.sub(r"\(nbs/", "(", readme())
    for file, text in firsts.items():
        title, promise = re.search(r"^# (.*)", text, re.M)[1], " ".join(re.findall(r"^> ?(.*)", text, re.M))
        line = re.search(rf"^- \[(\d\d .*)\]\({re.escape(file)}\): (.*)", home, re.M)
        assert line[1] == f"{file[:2]} {title}"
        assert file[0] != "4" or promise.startswith(line[2])


def test_commands_of_readme_are_run_by_ci():
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"
    assert f"```sh\n{command}\n```" in readme()
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The package as it is handed out, built from a copy of the project."
    copy = tmp_path_factory.mktemp("wheel") / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__", "nbs", "tests"))
    done = run(sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", copy.parent, cwd=copy)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(copy.parent.glob("*.whl")))


def test_wheel_holds_every_file_of_the_package(wheel):
    "Templates and weights too, and nothing that isn't a file of the package."
    files = [path for path in (ROOT / "transfer_nbs").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    held = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("transfer_nbs/")}
    assert held == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    assert {"transfer_nbs/templates/model_card.md", "transfer_nbs/templates/review.html", "transfer_nbs/templates/review.css"} <= set(held)


def test_version_is_one(wheel):
    "What settings.ini says is what the package says of itself, and what pip is told."
    settings = (ROOT / "settings.ini").read_text()
    stated = re.search(r"^version = (.+)$", settings, re.M)[1]
    told = email.message_from_bytes(wheel.read(f"transfer_nbs-{stated}.dist-info/METADATA"))
    assert told["Version"] == transfer_nbs.__version__ == stated
