"""What does a page need that is run from its first cell to its last: how many seconds, and which files beside it?

    OMP_NUM_THREADS=1 python benchmarks/pages.py --out nbs/results/pages.json

Each notebook has a kernel of its own, which finds nothing kept from before. The seconds are those of the processor, so that
other programs hardly change them. The website says what comes out. What is in the file already isn't run again: delete the
file to measure everything anew."""

import json
import os
import re
import tempfile
from pathlib import Path

import nbformat
from fastcore.script import call_parse
from nbclient import NotebookClient

from transfer_nbs.console import user_errors
from transfer_nbs.files import check_writable, write_file
from transfer_nbs.hardware import describe_environment

WATCH = """import os, sys
opened = set()
sys.addaudithook(lambda event, given: opened.add(os.path.abspath(os.fsdecode(given[0]))) if event == "open" and isinstance(given[0], (str, os.PathLike)) else None)"""
TELL = """import json, resource
used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(dict(seconds=sum(each.ru_utime + each.ru_stime for each in used), opened=sorted(opened))))"""


def pattern(file: str) -> str:
    "The files of the project that a page needs if it reads this one: a folder of results, a benchmark, the notebooks."
    if found := re.match(r"nbs/results/[^/]+/", file): return f"{found[0]}**/*"
    return f"{Path(file).parent}/*{Path(file).suffix}"


def measure(path: Path) -> dict:
    "Seconds of a notebook, and patterns of the files of `nbs` and `benchmarks` that it reads."
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "nbdev_export()" not in cell.source]
    notebook.cells = [nbformat.v4.new_code_cell(WATCH), *cells, nbformat.v4.new_code_cell(TELL)]
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(XDG_CACHE_HOME=cache, TQDM_DISABLE="1")
        NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    told = json.loads(notebook.cells[-1].outputs[0].text)
    files = [os.path.relpath(file, path.resolve().parent.parent) for file in told["opened"]]
    reads = {pattern(file) for file in files if re.match(r"(nbs|benchmarks)/.*\.(csv|json|png|py|ipynb)$", file)}
    return dict(seconds=round(told["seconds"], 1), reads=sorted(reads))


@call_parse
def pages(
    folder: str = "nbs",  # of the notebooks
    out: str = "runs/pages.json",  # file for the result
):
    "Run every numbered notebook that the file doesn't have yet."
    with user_errors("pages"):
        check_writable(Path(out).parent)
        measured = json.loads(Path(out).read_text())["pages"] if Path(out).exists() else {}
        for path in sorted(Path(folder).glob("[0-9]*.ipynb")):
            if path.stem in measured: continue
            measured[path.stem] = measure(path)
            write_file(Path(out), json.dumps(dict(environment=describe_environment(), pages=dict(sorted(measured.items()))), indent=1) + "\n")
            print(path.stem, measured[path.stem], flush=True)
