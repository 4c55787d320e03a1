"""The notebooks to download: each says what it needs, and comes with the files that it reads where there are any."""

import json
import re
import zipfile
from pathlib import Path

import nbformat

from conf import html_baseurl, settings

ROOT = Path(__file__).resolve().parent.parent
MEASURED = json.loads((ROOT / "nbs" / "results" / "pages.json").read_text(encoding="utf-8"))["pages"]  # by benchmarks/pages.py
PICTURE = re.compile(r"!\[[^]]+\]\(([^):]+)\)")  # in the prose, from a file beside the notebooks


def files_read(notebook, name: str) -> list[Path]:
    "The files of the project that a notebook reads, and its pictures."
    pictures = [ROOT / "nbs" / file for cell in notebook.cells if cell.cell_type == "markdown" for file in PICTURE.findall(cell.source)]
    named = re.findall(r"[\"']results/(\w+)", "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))
    patterns = [*MEASURED.get(name, {}).get("reads", []), *(f"nbs/results/{folder}/**/*" for folder in named)]
    return sorted({*pictures, *(file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file())})


def needs(notebook, name: str, files: list[Path]) -> str:
    "What a notebook needs, in one line."
    wanted = re.search(r"\./transfer_nbs(\[[\w,]+\])", "\n".join(cell.source for cell in notebook.cells))[1]  # as in its cell for Colab
    text = (f"*To run this notebook you need Python {settings['min_python']} or newer and {settings['lib_name']} {settings['version']}:* "
            f"`pip install '{settings['lib_name']}{wanted} @ git+{settings['git_url']}'`")
    if not files: return text
    folders = sorted({"/".join(file.relative_to(ROOT).parent.parts[:3]) for file in files})
    return (f"{text} *It reads files of {', '.join(f'`{each}`' for each in folders)}; "
            f"[{name}.zip]({html_baseurl}notebooks/{name}.zip) holds them and the notebook.*")


def write_download(path: Path, folder: Path) -> bool:
    "Write the copy of a notebook that readers get, and a zip of it with the files that it reads; whether it reads any."
    notebook, name = nbformat.read(path, as_version=4), path.stem
    files = files_read(notebook, name)
    note = nbformat.v4.new_markdown_cell(needs(notebook, name, files), id="needs")
    notebook.cells = [note, *(cell for cell in notebook.cells if "nbdev_export()" not in cell.source)]
    copy = folder / path.name
    nbformat.write(notebook, copy)
    if not files: return False
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in {*files} - {path}: packed.write(file, file.relative_to(ROOT))
        packed.write(copy, path.relative_to(ROOT))
    return True
