"""Make README.md from nbs/index.ipynb: `python tests/make_readme.py`."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def as_prose(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    "A code cell that is shown, as Markdown: its code, and below it what came out."
    outputs = [output.get("text") or output.data["text/plain"] for output in cell.outputs]
    blocks = [f"```python\n{cell.source}\n```", *(f"```text\n{text.rstrip()}\n```" for text in outputs)]
    return nbformat.v4.new_markdown_cell("\n\n".join(blocks))


def readme() -> str:
    "The text of README.md: the notebook's prose, the code that is shown, and outputs."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    def is_ready(cell): return cell.cell_type == "markdown" or "#| echo: false" in cell.source
    notebook.cells = [cell if is_ready(cell) else as_prose(cell) for cell in notebook.cells if is_ready(cell) or "#| hide" not in cell.source]
    exporter = MarkdownExporter(exclude_input=True, exclude_output_prompt=True)
    text, _ = exporter.from_notebook_node(notebook)
    text = re.sub(r"\]\((results/|\d\d_)", r"](nbs/\1", text)  # from here, the notebooks are one folder down
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
