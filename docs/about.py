"""What a page says about itself to search engines and to those who share a link, and the files that go with it: a picture, a map of the site, a page for wrong addresses."""

import html
import re
from pathlib import Path

from conf import html_baseurl, html_title
from docutils import nodes

LONGEST = 200  # characters of a description, unless its first sentence is longer
CARD = "card.png"
ALT = "Which way of fine-tuning is best on your images, and is the difference real? Recipes with their accuracies and intervals."


def description(doctree) -> str:
    "The promise of a page, or its first paragraph where it makes none; as many sentences as are shown."
    block = next(doctree.findall(nodes.block_quote), None) or next(doctree.findall(nodes.paragraph))
    sentences = re.split(r"(?<=[.?!]) ", " ".join(block.astext().split()))
    while len(sentences) > 1 and len(" ".join(sentences)) > LONGEST: sentences.pop()
    return " ".join(sentences)


def tags(title: str, text: str, address: str) -> str:
    "The meta tags of a page, for search engines, Open Graph and Twitter cards."
    named = {"description": text, "twitter:card": "summary_large_image"}
    graph = {"og:title": title, "og:description": text, "og:url": address, "og:type": "website", "og:site_name": html_title,
             "og:image": html_baseurl + CARD, "og:image:width": "1200", "og:image:height": "630", "og:image:alt": ALT}
    return "".join([*(f'\n<meta name="{name}" content="{html.escape(value)}">' for name, value in named.items()),
                    *(f'\n<meta property="{name}" content="{html.escape(value)}">' for name, value in graph.items())])


def read(app, doctree, docname: str) -> None:
    "Note what a page promises, before its words are explained."
    if docname != "404": app.descriptions[docname] = "Reference: " * docname.startswith("api/") + description(doctree)


def describe(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    "Put the tags into the head of a page."
    if text := app.descriptions.get(pagename):
        context["metatags"] += tags(html.unescape(re.sub("<[^>]+>", "", context["title"])), text, context["pageurl"])


def finish(app, error) -> None:
    "Write the map of the site; a page for wrong addresses is shown at any depth, so that its links begin at the root."
    if error: return
    out = Path(app.outdir)
    addresses = "".join(f"<url><loc>{html_baseurl}{name}.html</loc></url>\n" for name in sorted(app.env.found_docs - {"404"}))
    (out / "sitemap.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{addresses}</urlset>\n', encoding="utf-8")
    root = "/" + html_baseurl.split("/", 3)[3]
    wrong = (out / "404.html").read_text(encoding="utf-8")
    wrong = re.sub(r'(href|src|action|data-content_root)="(?:\./)?(?!#|/|\w+:)', rf'\1="{root}', wrong)
    (out / "404.html").write_text(wrong, encoding="utf-8")


def setup(app):
    app.descriptions = {}
    app.connect("doctree-resolved", read, priority=100)
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish)
