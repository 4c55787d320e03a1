"""JupyterLab as a reader has it: three notebooks that stand for all are opened, run by Run All, saved and opened again, in a real browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbformat.reader import NotJSONError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [ROOT / "nbs" / f"{name}.ipynb" for name in ("23_exercises", "59_chart")]  # an exercise, figures; a progress bar is below; test_project.py runs all pages
SLOWEST = 600  # seconds that a notebook may take, on a machine that is busy with other things


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of a JupyterLab in a copy of the project, started as the README says."
    folder = tmp_path_factory.mktemp("lab")
    project = folder / "project"
    left_out = shutil.ignore_patterns(".*", "build", "_docs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, project, ignore=lambda at, names: left_out(at, names) | ({"runs"} if Path(at) == ROOT else set()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, **{f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}, "IPYTHONDIR": str(folder / "ipython")}
    environment.pop("MPLBACKEND", None)
    environment["TQDM_DISABLE"] = "1"  # but for the test of the bar
    log = (folder / "log").open("w")
    program = subprocess.Popen([Path(sys.executable).parent / "jupyter", "lab", "nbs/index.ipynb", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0",
                                "--IdentityProvider.token=secret"], cwd=project, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try: urllib.request.urlopen(f"{address}/api/status?token=secret").close()
        except OSError: time.sleep(0.5)
        else: break
    else: pytest.fail((folder / "log").read_text()[-3000:])
    yield address, project / "nbs"
    program.terminate()
    program.wait(timeout=60)
    log.close()


def open_notebook(browser, address, name):
    "A new page with the notebook, its kernel ready without anything to choose."
    page = browser.new_context(viewport=dict(width=1200, height=900)).new_page()
    page.goto(f"{address}/lab/workspaces/{name}/tree/{name}.ipynb?token=secret&reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=120_000)
    page.locator(".jp-KernelName", has_not_text="No Kernel").first.wait_for(timeout=120_000)
    return page


def choose(page, menu, item):
    "An item of JupyterLab's menu."
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item).first.click()


def code_cells(path): return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source]


def kernels(address): return json.load(urllib.request.urlopen(f"{address}/api/kernels?token=secret"))


def save(page, path, settled=True):
    "Write what the page holds to the file; its code cells. Settled: until nothing has changed since."
    before = path.stat().st_mtime_ns
    for wait in range(100):
        if wait % 25 == 0: choose(page, "File", "Save Notebook")  # again where something was drawn meanwhile
        page.wait_for_timeout(200)
        if path.stat().st_mtime_ns == before: continue
        if settled and page.locator(".lm-DockPanel-tabBar .lm-mod-current.jp-mod-dirty").count(): continue
        with suppress(NotJSONError): return code_cells(path)  # JupyterLab writes into the file, which is half there for a moment
    pytest.fail(f"{path.name} was not saved")


def begin(page):
    """Run all cells; what is chosen before the page has connected to its kernel goes nowhere, so until one has begun.

    On a slow machine JupyterLab may ask which kernel that should be; it proposes the notebook's own."""
    begun = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    asks = page.locator(".jp-Dialog", has_text="Select Kernel")
    for wait in range(120):
        if begun.count(): return
        if asks.count(): asks.locator(".jp-mod-accept").click()
        elif dialog := page.locator(".jp-Dialog").all(): pytest.fail(dialog[0].inner_text())
        elif wait % 10 == 0: choose(page, "Run", "Run All Cells")
        page.wait_for_timeout(500)
    pytest.fail("no cell began to run in a minute")


def run_all(page, address, path):
    "Run all cells, and save when the kernel has had nothing to do for a second, until all were run; the code cells."
    for cell in code_cells(path): assert cell.execution_count is None
    begin(page)
    deadline = time.monotonic() + SLOWEST
    while time.monotonic() < deadline:
        idle = 0
        while idle < 4:
            page.wait_for_timeout(250)
            idle = idle + 1 if all(kernel["execution_state"] == "idle" for kernel in kernels(address)) else 0
        cells = save(page, path, settled=False)  # a browser that is slow to draw leaves a kernel idle between two cells
        for cell in cells:
            for output in cell.outputs: assert output.output_type != "error", "\n".join(output.traceback)
        if all(cell.execution_count for cell in cells): return save(page, path)
    pytest.fail(f"not done in {SLOWEST} seconds")


@pytest.fixture
def close_pages(lab, browser):
    "However a test ends, its pages and its kernel do: the next test would wait for one that is busy."
    yield
    for context in browser.contexts: context.close()
    for kernel in kernels(lab[0]):
        urllib.request.urlopen(urllib.request.Request(f"{lab[0]}/api/kernels/{kernel['id']}?token=secret", method="DELETE")).close()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all(notebook, lab, browser, close_pages):
    address, folder = lab
    page = open_notebook(browser, address, notebook.stem)
    cells = run_all(page, address, folder / notebook.name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not page.locator(".jp-Dialog").count()
    page.context.close()

    page = open_notebook(browser, address, notebook.stem)  # as if on another day
    assert not page.locator(".jp-Dialog").count()
    again = save(page, folder / notebook.name)  # what is written now is what the page could read
    assert [(cell.execution_count, cell.outputs) for cell in again] == [(cell.execution_count, cell.outputs) for cell in cells]


def test_progress_bar(lab, browser, close_pages):
    "A bar is seen while something takes long, in the colours of ordinary output, and nothing is left of it."
    address, folder = lab
    source = ("import os, time\nos.environ.pop('TQDM_DISABLE')\nfrom transfer_nbs.console import progress_bar\n"
              "for _ in progress_bar(range(6000), desc='looking'):\n    time.sleep(0.1)\n"
              "    if os.path.exists('bar_was_seen'): break\nprint('done')")  # a browser beside another program is slow
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")))
    nbformat.write(notebook, folder / "bar.ipynb")
    page = open_notebook(browser, address, "bar")
    begin(page)
    seen, output = [], page.locator(".jp-OutputArea-output")
    for _ in range(600):
        page.wait_for_timeout(200)
        if any("done" in text for text, _ in seen): break
        seen += [(each.inner_text(), each.get_attribute("data-mime-type")) for each in output.all()]
        if any(text.startswith("looking:") and "%" in text for text, _ in seen): (folder / "bar_was_seen").touch()
    assert (folder / "bar_was_seen").exists()
    assert {kind for _, kind in seen} == {"application/vnd.jupyter.stdout"}  # stderr has a red ground
    assert seen[-1][0].split() == ["done"]
