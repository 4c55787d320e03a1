"""Make README.md from nbs/index.ipynb: `python tests/make_readme.py`."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    "The text of README.md: the notebook's prose and outputs, without its code."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    shown = [cell for cell in notebook.cells if cell.cell_type == "markdown" or "#| echo: false" in cell.source]
    notebook.cells = shown
    exporter = MarkdownExporter(exclude_input=True, exclude_output_prompt=True)
    text, _ = exporter.from_notebook_node(notebook)
    text = re.sub(r"\]\((results/|\d\d_)", r"](nbs/\1", text)  # from here, the notebooks are one folder down
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
