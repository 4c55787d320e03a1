"""How Sphinx makes the website of the pages that `docs/make_site.py` writes. Nothing is executed, and no page asks another host for anything."""

from configparser import ConfigParser
from html import escape
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.sphinx_ import HideCodeCellNode

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

project = html_title = settings["title"]
author, copyright, release = settings["author"], settings["copyright"], settings["version"]
extensions = ["myst_nb", "sphinx_copybutton", "search_pages", "names", "explained", "about"]
exclude_patterns = ["extra"]
templates_path = ["templates"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "attrs_inline", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

smartquotes_action = "qe"  # quotes and ellipses; the dashes of --options stay

html_context = {"unreleased": "\n## Unreleased\n" in (Path(__file__).resolve().parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")}
html_theme = "furo"
html_static_path = ["static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_favicon = "static/icon.svg"
html_copy_source = False
html_domain_indices = add_module_names = False
html_show_sphinx = False
html_baseurl = f"{settings['doc_host']}{settings['doc_baseurl']}/"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b4f8a", "color-brand-content": "#0b4f8a", "color-brand-visited": "#44607c",
                            "color-sidebar-link-text--top-level": "var(--color-sidebar-link-text)", "code-font-size": "78.125%"},
    "dark_css_variables": {"color-brand-primary": "#7fb8ea", "color-brand-content": "#7fb8ea", "color-brand-visited": "#a5b9cc"},
    "footer_icons": [{"name": "The repository of this project", "url": settings["git_url"], "html": "Repository", "class": "repository"}]}
pygments_style, pygments_dark_style = "quiet.Light", "quiet.Dark"
copybutton_exclude = ".linenos, .gp"


def inline_math(visitor, node):
    visitor.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(visitor, node):
    visitor.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def open_fold(visitor, node):
    visitor.body.append(f'<details class="fold">\n<summary>{escape(node["prompt_show"])}</summary>\n')


def close_fold(visitor, node):
    visitor.body.append("</details>\n")


def setup(app):
    """Formulas become MathML, which browsers set themselves: no script, no fonts.
    Folded code says what it is, in place of MyST-NB's label for screen readers, which is the same for all."""
    app.add_node(HideCodeCellNode, override=True, html=(open_fold, close_fold))
    app.add_html_math_renderer("mathml", inline_renderers=(inline_math, None), block_renderers=(block_math, None))
