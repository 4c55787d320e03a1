"""Words of the glossary explain themselves where a page first uses them: a link to the entry, and its first sentence beside it."""

import html
import re
from pathlib import Path

import nbformat
from docutils import nodes

GLOSSARY = "90_glossary"
FORMS = {"accuracy": "accurac(?:y|ies)", "fine-tuning": "fine-tun(?:e|es|ed|ing)", "freezing": "freez(?:e|es|ing)|frozen", "loss": "loss(?:es)?",
         "overfitting": "overfit(?:s|ting)?", "pretraining": "pretrain(?:ed|ing)", "train and eval mode": "train mode|eval mode"}
OTHERWISE = {"05_feature_extractor": {"loss"}, "07_bn_trainable": {"loss"}, "26_camouflage": {"head"}, "46_other_guides": {"loss"}}  # words that mean something else on a page
SILENT = nodes.literal, nodes.reference, nodes.math, nodes.raw, nodes.table, nodes.image


def first_sentence(text: str) -> str:
    "What an entry says first, as HTML without links."
    text = re.split(r"(?<=\.) (?=[A-Z`*]|\[\d\d\])", text)[0]
    text = re.sub(r" \((?:\[[^]]+\]\([^)]*\)(?: and )?)+\)", "", text)
    text = html.escape(re.sub(r"\[([^]]+)\]\([^)]*\)", lambda link: f"page {link[1]}" if link[1].isdigit() else link[1], text))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", re.sub(r"`(.+?)`", r"<code>\1</code>", text))


def pattern(word: str) -> str:
    "How a word is written in prose: in the plural too, and with a capital at the beginning of a sentence."
    form = FORMS.get(word) or re.escape(word).removesuffix("s").replace("'", "[’']") + "(?:s|es)?"
    return f"(?i:{form})" if word.islower() else form


def read_glossary(path: Path) -> dict[str, str]:
    "The words, and what is said of each first."
    prose = "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    return {word: first_sentence(text) for word, text in re.findall(r"^### (.*)\n\n(.*)", prose, re.M)}


def speaks(node) -> bool:
    "Whether a text is prose: not in code, a link, a formula or a table."
    while not isinstance(node, nodes.section | nodes.document):
        if isinstance(node, SILENT): return False
        node = node.parent
    return True


def explained(word: str, written: str, sentence: str) -> str:
    "A word as a link to its entry, with the sentence that is shown beside it."
    name = nodes.make_id(word)
    return (f'<span class="term"><a href="{GLOSSARY}.html#{name}" aria-describedby="term-{name}">{html.escape(written)}</a>'
            f'<span class="tip" role="tooltip" id="term-{name}">{sentence}</span></span>')


def pieces(text: str, glossary: dict[str, str], left: set[str]) -> list:
    "A text with each word explained that is left to explain; empty where there is none."
    words = sorted(glossary, key=len, reverse=True)  # so that AdamW is not Adam
    forms = "|".join(f"({pattern(word)})" for word in words)
    parts, end = [], 0
    for found in re.finditer(rf"(?<![\w-])(?:{forms})(?![\w-])", text):
        word = words[found.lastindex - 1]
        if word not in left: continue
        left.remove(word)
        parts += [nodes.Text(text[end:found.start()]), nodes.raw("", explained(word, found[0], glossary[word]), format="html")]
        end = found.end()
    return [*parts, nodes.Text(text[end:])] if parts else []


def explain(app, doctree, docname: str) -> None:
    "Explain each word once, where the prose of a page has it first."
    if not docname[0].isdigit() or docname == GLOSSARY: return
    glossary = read_glossary(Path(app.srcdir, f"{GLOSSARY}.ipynb"))
    left = set(glossary) - OTHERWISE.get(docname, set())
    for text in [text for block in doctree.findall(nodes.paragraph) for text in block.findall(nodes.Text) if speaks(text)]:
        if parts := pieces(text, glossary, left): text.parent.replace(text, parts)


def setup(app):
    app.connect("doctree-resolved", explain)
