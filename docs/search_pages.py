"""What the search knows: every section of every page, in one script, so that it works from files too. `static/search.js` ranks them."""

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

KEYWORDS = Path(__file__).with_name("keywords.txt")
NAME = re.compile(r"[A-Za-z]\w*_\w+|[A-Z]\w*[a-z]\w*")  # what looks like the name of something public, and not like a word
BLOCKS = nodes.paragraph, addnodes.desc_signature, nodes.literal_block, nodes.raw


def keywords() -> dict[str, list[str]]:
    "What people type, by the page that answers it."
    lines = [line for line in KEYWORDS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {name: phrases.split(", ") for name, phrases in (line.split(": ", 1) for line in lines)}


def home(node) -> nodes.Element | None:
    "The section that a node is in; None in a folded solution, which MyST-NB hangs up loosely."
    while node is not None and not isinstance(node, nodes.section | nodes.document): node = node.parent
    return node


def sections(doctree) -> list[dict]:
    "Heading, place, prose, names in code, and names defined, of each section of a page."
    found = {section: dict(heading=section[0].astext(), anchor=section["ids"][0], text=[], code=set(), defines=[]) for section in doctree.findall(nodes.section)}
    for block in doctree.findall(lambda node: isinstance(node, BLOCKS)):
        section = found.get(home(block))
        if section is None: continue
        if isinstance(block, nodes.raw): section["defines"] += re.findall(r'id="define-(\w+)"', block.astext())
        elif not isinstance(block, nodes.literal_block): section["text"].append(re.sub(r"<[^>]+>", "", block.astext()).replace("\n", " "))
        elif block.get("language") in ("ipython3", "python", "sh"): section["code"] |= set(NAME.findall(block.astext()))
    return [{**section, "text": " ".join(section["text"]), "code": " ".join(sorted(section["code"]))} for section in found.values()]


def collect(app, doctree, docname: str) -> None:
    "Keep what a page says, before words are explained and code is linked."
    if docname == "404": return
    number, found = docname[:2] if docname[0].isdigit() else "", sections(doctree)
    found[0]["heading"] = found[0]["heading"].removeprefix(f"{number} ")
    app.searched[docname] = dict(page=docname, number=number, keywords=keywords().get(docname, []), sections=found)


def write(app, error) -> None:
    "Write what was collected, in place of Sphinx's own index."
    if error: return
    if lost := set(keywords()) - set(app.searched): raise SystemExit(f"{KEYWORDS.name}: no page {', '.join(sorted(lost))}")
    text = json.dumps(list(app.searched.values()), ensure_ascii=False, separators=(",", ":"))
    Path(app.outdir, "_static", "search_pages.js").write_text(f"const PAGES = {text};\n", encoding="utf-8")
    Path(app.outdir, "searchindex.js").unlink()


def setup(app):
    app.searched = {}
    app.connect("doctree-resolved", collect, priority=100)
    app.connect("build-finished", write)
