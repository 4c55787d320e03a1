"""Build the website from the committed notebooks into `_docs`: `python docs/make_site.py`. No cell is run, and nothing is fetched."""

import argparse
import ast
import base64
import io
import re
import shutil
import sys
import tempfile
from html import escape
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image
from sphinx.cmd.build import main as sphinx

from about import CARD
from card import draw_card
from conf import html_baseurl, settings
from downloads import MEASURED, PICTURE, write_download
from folds import fold
from home import home
from reference import api_pages, commands_page, definitions
from touch import touchable

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
EXPORTING = [path for path in NOTEBOOKS if '"#| default_exp ' in path.read_text(encoding="utf-8")]  # the others answer a question, or list words
GIT = f"{settings['git_url']}/blob/{settings['branch']}"
PARTS = {"0": "The path", "1": "The path", "2": "The workshop", "3": "Your own images", "4": "Questions", **dict.fromkeys("5678", "Machine rooms"), "9": "Reference"}
NUMBERED = re.compile(r"\[(\d\d)\]\((\1_\w+)\.ipynb")  # a link whose text is the number of the page that it leads to
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
    return bool((np.asarray(Image.open(picture).convert("RGB")).min(axis=2) > 245).mean() >= CHART_WHITE)


def look(picture) -> str:
    "The class of a figure, by which `site.css` treats it in dark mode."
    return "chart" if is_chart(picture) else "picture"


def content(output) -> io.BytesIO:
    "The picture of an output."
    return io.BytesIO(base64.b64decode(next(value for kind, value in output.data.items() if kind.startswith("image/"))))


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
    prompt = fold(source, said, drawn=bool(shown), shown=bool(cell.outputs), part=name[0])
    tags = ["remove-input"] if only_output else ["hide-cell" if "solution" in said else "hide-input"] if prompt else []
    cells = []
    if exported: cells.append(nbformat.v4.new_markdown_cell("".join(f'<span id="define-{each}"></span>' for each in definitions(ast.parse(source)))))
    cells.append(nbformat.v4.new_code_cell(source, outputs=[output for output in cell.outputs if output not in shown], metadata={"tags": tags}))
    if prompt: cells[-1].metadata["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    for number, (output, text) in enumerate(zip(shown, alt)):
        if number: cells.append(nbformat.v4.new_code_cell("", outputs=[output], metadata={"tags": ["remove-input"]}))
        else: cells[-1].outputs = cell.outputs if len(shown) == 1 else [each for each in cell.outputs if each not in shown[1:]]
        classes = "drawing" if "image/svg+xml" in output.data else look(content(output))
        cells[-1].metadata["mystnb"] = {**cells[-1].metadata.get("mystnb", {}), "image": {"alt": text, "classes": classes}}
    return cells


def inline_drawings(notebook) -> None:
    "Put SVG into the page itself, where its colours follow the page's."
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            drawing = output.get("data", {}).pop("image/svg+xml", None)
            if drawing: output.data["text/html"] = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(cell.metadata.mystnb.image.alt)}" ', 1)


def convert_home(notebook, pages: dict) -> None:
    "The home page: its question is the title, then the answer as a picture; at the end the menu of all pages."
    first = notebook.cells[0]
    question, lead = re.search(r"^\*\*(.*)\*\*\n\n(.*)", first.source, re.M).groups()
    first.source = f"# {question}\n\n{home(lead)}"
    notebook.cells.append(nbformat.v4.new_markdown_cell(toctrees(pages)))


def name_links(source: str, titles: dict[str, str]) -> str:
    "Links that are only a page's number say its title too; those that begin the row of a table, which the title follows, don't."
    lines = source.split("\n")
    return "\n".join(line if line.startswith("| [") else NUMBERED.sub(lambda match: f"[{match[1]} {titles[match[2]]}]({match[2]}.ipynb", line) for line in lines)


def convert_prose(source: str, titles: dict[str, str]) -> str:
    "The text of a page: its pictures have a class, links name their pages, and what isn't on the site is linked to where it is."
    source = PICTURE.sub(lambda match: match[0] + "{." + look(ROOT / "nbs" / match[1]) + "}", source)
    return name_links(source, titles).replace("](CONTRIBUTING.md)", f"]({GIT}/CONTRIBUTING.md)")


def convert(path: Path, titles: dict[str, str]):
    "The page of a notebook, as a notebook that MyST-NB understands."
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}): output.data["text/markdown"] = name_links(output.data["text/markdown"], titles)
        if cell.cell_type == "code": cells += convert_code(cell, path.name)
        elif re.search(r"!\[\s*\]\(", cell.source): raise SystemExit(f"{path.name}, cell {cell.id}: a picture without a text; write ![what it shows](file)")
        else: cells.append(nbformat.v4.new_markdown_cell(convert_prose(cell.source, titles)))
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def place(name: str, notebook) -> str:
    "Which page of its part of the book a page is, and how long it takes to read and to run."
    said = []
    part = [path.stem for path in NOTEBOOKS if PARTS.get(path.name[0], "More") == PARTS.get(name[0], "More")]
    if len(part) > 1: said.append(f"{PARTS.get(name[0], 'More')}, {part.index(name) + 1} of {len(part)}")
    said.append(f"{amount(max(1, round(minutes_to_read(notebook))), 'minute')} to read")
    if name in MEASURED: said.append(f"about {rounded(MEASURED[name]['seconds'])} to run")
    return f'<p class="page-place">{" · ".join(said)}</p>'


def amount(number: int, unit: str) -> str:
    "A number with its unit."
    return f"{number} {unit}" + "s" * (number != 1)


def rounded(seconds: float) -> str:
    "Tens of seconds below a minute, minutes from there."
    return amount(round(seconds / 60), "minute") if seconds > 55 else amount(max(10, 10 * round(seconds / 10)), "second")


def minutes_to_read(notebook) -> float:
    "180 words, 12 lines of code that stand open, or 2 figures take a minute."
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.metadata.tags]
    drawn = sum(len(figures(cell)) for cell in notebook.cells)
    return sum(len(text.split()) for text in prose) / 180 + sum(text.count("\n") + 1 for text in code if text) / 12 + drawn / 2


def page_links(name: str, *, files: bool) -> str:
    "Where a page can be run, had and mended, and where the module is described that it exports."
    colab = f"https://colab.research.google.com/github/{settings['user']}/{settings['repo']}/blob/{settings['branch']}/nbs/{name}.ipynb"
    links = {"Open in Colab": colab, "Download the notebook": f"notebooks/{name}.ipynb", "With its files (zip)": f"notebooks/{name}.zip" if files else None,
             "Repository": settings["git_url"], "Edit this page": f"{settings['git_url']}/edit/{settings['branch']}/nbs/{name}.ipynb",
             "Its reference": f"api/{name[3:]}.html" if ROOT / "nbs" / f"{name}.ipynb" in EXPORTING else None}
    said = " ".join(f'<a href="{link}"{" download" * link.startswith("notebooks/")}>{text}</a>' for text, link in links.items() if link)
    return f'<p class="page-links">{said}</p>'


def add_header(notebook, name: str, *, files: bool) -> None:
    "Put the number before the title of a page, and what belongs to its top below the promise."
    header = f"\n\n{place(name, notebook)}\n{page_links(name, files=files)}\n\n"
    first = notebook.cells[0]
    first.source = re.sub(r"\A# (.*\n+(?:>.*(?:\n|\Z))*)", lambda match: f"# [{name[:2]}]{{.number}} {match[1].rstrip()}{header}", first.source)


def toctrees(pages: dict) -> str:
    "The pages in the order in which they are read."
    parts = {}
    for name in pages:
        if name != "index": parts.setdefault(PARTS.get(name[0], "More"), []).append(name)
    parts["Reference"] = ["api/index", "commands", "changelog", *parts.pop("Reference", [])]
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
    paths = [ROOT / "nbs" / "index.ipynb", *NOTEBOOKS]
    titles = {path.stem: title_and_promise(nbformat.read(path, as_version=4))[0] for path in paths}
    pages = {path.stem: convert(path, titles) for path in paths}
    with_files = {path.stem: write_download(path, extra / "notebooks") for path in NOTEBOOKS}
    for name, notebook in pages.items():
        (extra / f"{name}.md").write_text(plain(notebook), encoding="utf-8")
        inline_drawings(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown": cell.source = touchable(cell.source)
        if name == "index": convert_home(notebook, pages)
        else: add_header(notebook, name, files=with_files[name])
        nbformat.write(notebook, folder / f"{name}.ipynb")
    for file in {file for notebook in pages.values() for cell in notebook.cells if cell.cell_type == "markdown" for file in PICTURE.findall(cell.source)}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "nbs" / file, folder / file)
    for name, text in {**api_pages(EXPORTING, pages, titles), "commands": commands_page()}.items(): (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (extra / "llms.txt").write_text(llms(pages), encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").removeprefix("# Changelog\n")
    (folder / "changelog.md").write_text(f"# Changelog\n\n> What has changed for those who use the package, version by version.\n{changes}", encoding="utf-8")
    shutil.copy(ROOT / "docs" / "404.md", folder)
    draw_card(ROOT / "nbs" / "results" / "practice" / "summary.csv", settings["title"], extra / CARD)


def lighten(built: Path) -> None:
    "Pictures as WebP, charts without a loss."
    for file in (built / "_images").glob("*.png"):
        with Image.open(file) as picture: picture.save(file.with_suffix(".webp"), lossless=is_chart(file), quality=85)
        file.unlink()
    for page in built.rglob("*.html"):
        page.write_text(re.sub(r'(_images/[\w-]+)\.png"', r'\1.webp"', page.read_text(encoding="utf-8")), encoding="utf-8")


def build(out: Path) -> int:
    "Build the site anew; warnings are errors. The exit status of Sphinx."
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "built"
        write_sources(source)
        status = sphinx(["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-D", f"html_extra_path={source / 'extra'}",
                         "-d", str(Path(folder) / "doctrees"), str(source), str(built)])
        if status == 0:
            lighten(built)
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
