"""Build the website from the committed notebooks into `_docs`: `python docs/make_site.py`. No cell is run, and nothing is fetched."""

import argparse
import ast
import base64
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image
from sphinx.cmd.build import main as sphinx

from conf import html_baseurl, settings
from reference import api_pages, commands_page, definitions
from touch import touchable

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
EXPORTING = [path for path in NOTEBOOKS if '"#| default_exp ' in path.read_text(encoding="utf-8")]  # the others answer a question, or list words
GIT = f"{settings['git_url']}/blob/{settings['branch']}"
PARTS = {"0": "The path", "1": "The path", "2": "The workshop", "3": "Your own images", "4": "Questions", **dict.fromkeys("5678", "Machine rooms"), "9": "Reference"}
PICTURE = re.compile(r"!\[[^]]+\]\(([^):]+)\)")  # in the prose, from a file beside the notebooks
CHART_WHITE = 0.7  # share of white pixels from which a figure is a chart, whose colours may be turned over for dark mode; pictures have less


def directives(source: str) -> list[str]:
    "What the `#|` lines of a cell say."
    return [line[2:].strip() for line in source.splitlines() if line.startswith("#|")]


def figures(cell) -> list:
    "The outputs of a cell that are pictures."
    return [output for output in cell.get("outputs", []) if any(kind.startswith("image/") for kind in output.get("data", {}))]


def is_chart(
    picture,  # a file, or something to read from
) -> bool:
    "Whether a figure is lines on white, rather than pictures side by side."
    return (np.asarray(Image.open(picture).convert("RGB")).min(axis=2) > 245).mean() >= CHART_WHITE


def look(picture) -> str:
    "The class of a figure, by which `site.css` treats it in dark mode."
    return "chart" if is_chart(picture) else "picture"


def content(output) -> io.BytesIO:
    "The picture of an output."
    return io.BytesIO(base64.b64decode(next(value for kind, value in output.data.items() if kind.startswith("image/"))))


def only_draws(source: str) -> bool:
    "Whether a cell with a figure can be folded: it defines nothing for the package, and checks nothing."
    called = {node.func.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return "assert " not in source and not any(name.startswith("test") for name in called)


def only_imports(source: str) -> bool:
    "Whether a cell is nothing but a long list of imports, which stands at the top of a page and in the way of its first idea."
    return source.count("\n") > 5 and all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)


def convert_code(cell, name: str) -> list:
    "The cells of a page that a notebook's code cell becomes: none where it is hidden, more than one where it shows several figures."
    said, shown = directives(cell.source), figures(cell)
    only_output = "echo: false" in said
    if "hide" in said and not only_output: return []
    source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|")).strip("\n")
    if not source: return []
    alt = [text.removeprefix("fig-alt:").strip() for text in said if text.startswith("fig-alt:")]
    if len(alt) != len(shown):
        raise SystemExit(f"{name}, cell {cell.id}: {len(shown)} figures and {len(alt)} texts for those who can't see them; "
                         "begin the cell with a line `#| fig-alt: what the figure shows` for each")
    exported = any(text.split()[0] in ("export", "exports") for text in said)
    prompt = "A solution" if "solution" in said else "Imports" if only_imports(source) else None  # None: Sphinx's, for a figure
    folded = prompt or shown and not exported and only_draws(source)
    tags = ["remove-input"] if only_output else ["hide-input"] if folded else []
    cells = []
    if exported: cells.append(nbformat.v4.new_markdown_cell("".join(f'<span id="define-{each}"></span>' for each in definitions(ast.parse(source)))))
    cells.append(nbformat.v4.new_code_cell(source, outputs=[output for output in cell.outputs if output not in shown], metadata={"tags": tags}))
    if prompt: cells[-1].metadata["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    for number, (output, text) in enumerate(zip(shown, alt)):
        if number: cells.append(nbformat.v4.new_code_cell("", outputs=[output], metadata={"tags": ["remove-input"]}))
        else: cells[-1].outputs = cell.outputs if len(shown) == 1 else [each for each in cell.outputs if each not in shown[1:]]
        cells[-1].metadata["mystnb"] = {"image": {"alt": text, "classes": look(content(output))}}
    return cells


def convert_prose(source: str) -> str:
    "The text of a page: its pictures have a class, and what isn't on the site is linked to where it is."
    source = PICTURE.sub(lambda match: match[0] + "{." + look(ROOT / "nbs" / match[1]) + "}", source)
    return source.replace("](CONTRIBUTING.md)", f"]({GIT}/CONTRIBUTING.md)")


def convert(path: Path):
    "The page of a notebook, as a notebook that MyST-NB understands."
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code": cells += convert_code(cell, path.name)
        elif re.search(r"!\[\s*\]\(", cell.source): raise SystemExit(f"{path.name}, cell {cell.id}: a picture without a text; write ![what it shows](file)")
        else: cells.append(nbformat.v4.new_markdown_cell(convert_prose(cell.source)))
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def page_links(name: str) -> str:
    "Where a page can be run, had and mended, and where the module is described that it exports."
    reference = f' <a href="api/{name[3:-6]}.html">Its reference</a>' if ROOT / "nbs" / name in EXPORTING else ""
    colab = f"https://colab.research.google.com/github/{settings['user']}/{settings['repo']}/blob/{settings['branch']}/nbs/{name}"
    return (f'\n\n<p class="page-links"><a href="{colab}">Open in Colab</a> <a href="notebooks/{name}" download>Download the notebook</a> '
            f'<a href="{settings["git_url"]}/edit/{settings["branch"]}/nbs/{name}">Edit this page</a>{reference}</p>\n\n')


def toctrees(pages: dict) -> str:
    "The pages in the order in which they are read."
    parts = {}
    for name, notebook in pages.items():
        if name != "index": parts.setdefault(PARTS.get(name[0], "More"), []).append(f"{name[:2]} {title_and_promise(notebook)[0]} <{name}>")
    parts["Reference"] = ["api/index", "commands", *parts.pop("Reference", [])]
    return "\n\n".join("```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(listed) + "\n```" for caption, listed in parts.items())


def title_and_promise(notebook) -> tuple[str, str]:
    "The heading of a page and the sentence below it."
    first = notebook.cells[0].source
    return re.search(r"^# (.*)", first, re.M)[1], " ".join(re.findall(r"^> ?(.*)", first, re.M))


def plain(notebook) -> str:
    "A page as plain Markdown, for readers that are programs."
    text = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown": text.append(re.sub(r"<span id=.*?</span>|\{\.(chart|picture)\}", "", cell.source))
        elif "remove-input" not in cell.metadata.tags: text.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output in figures(cell): text.append(f"(Figure: {cell.metadata.mystnb.image.alt})")
            elif "text/markdown" in data: text.append(data["text/markdown"])
            else: text.append(f"```text\n{(output.get('text') or data['text/plain']).rstrip()}\n```")
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(text)).strip() + "\n"


def llms(pages: dict) -> str:
    "llms.txt: what there is, in one page for programs that read."
    lines = [f"# {settings['title']}", "", f"> {settings['description']}", "", "## Pages", ""]
    for name, notebook in pages.items():
        title, promise = title_and_promise(notebook)
        lines.append(f"- [{title}]({html_baseurl}{name}.md): {promise}")
    lines += ["", "## Reference", "", f"- [API]({html_baseurl}api/index.html): every public name, with parameters and errors",
              f"- [Commands]({html_baseurl}commands.html): every command and its options"]
    return "\n".join(lines) + "\n"


def write_sources(folder: Path) -> None:
    "Write all that Sphinx reads."
    extra = folder / "extra"
    (extra / "notebooks").mkdir(parents=True)
    (folder / "api").mkdir()
    pages = {path.stem: convert(path) for path in [ROOT / "nbs" / "index.ipynb", *NOTEBOOKS]}
    for name, notebook in pages.items():
        (extra / f"{name}.md").write_text(plain(notebook), encoding="utf-8")
        for cell in notebook.cells:
            if cell.cell_type == "markdown": cell.source = touchable(cell.source)
        if name == "index": notebook.cells.append(nbformat.v4.new_markdown_cell(toctrees(pages)))
        else:
            first = notebook.cells[0]
            first.source = re.sub(r"\A(# .*\n+(?:>.*(?:\n|\Z))*)", lambda match: match[1].rstrip() + page_links(f"{name}.ipynb"), first.source)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    for path in NOTEBOOKS: shutil.copy(path, extra / "notebooks")
    for file in {file for notebook in pages.values() for cell in notebook.cells if cell.cell_type == "markdown" for file in PICTURE.findall(cell.source)}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "nbs" / file, folder / file)
    for name, text in {**api_pages(EXPORTING), "commands": commands_page()}.items(): (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (extra / "llms.txt").write_text(llms(pages), encoding="utf-8")


def build(out: Path) -> int:
    "Build the site anew; warnings are errors. The exit status of Sphinx."
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "built"
        write_sources(source)
        status = sphinx(["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-D", f"html_extra_path={source / 'extra'}",
                         "-d", str(Path(folder) / "doctrees"), str(source), str(built)])
        if status == 0:
            (built / ".nojekyll").touch()
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(built, out)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / settings["doc_path"], help="folder for the site, made anew")
    out = parser.parse_args().out
    status = build(out)
    if status == 0: print(f"{out / 'index.html'}")
    sys.exit(status)
