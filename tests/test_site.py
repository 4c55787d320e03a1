"""The website: made anew, read as files, and used in a real browser."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADS = {("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("audio", "src"), ("embed", "src"), ("object", "data")}


class Page(HTMLParser):
    "What the tests want to know of a page."

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.images, self.headings = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        self.loads += [value for name, value in attributes if (tag, name) in LOADS]
        if tag == "link" and not {"canonical", "prev", "next", "index", "search"} & set(found["rel"].split()): self.loads.append(found["href"])
        if tag == "a" and "href" in found: self.links.append(found["href"])
        if tag == "img": self.images.append(found)
        if re.fullmatch("h[1-6]", tag): self.headings.append(int(tag[1]))


@pytest.fixture(scope="session")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_notebook_is_a_page(pages, site):
    for notebook in (ROOT / "nbs").glob("*.ipynb"):
        page = (site / f"{notebook.stem}.html").read_text()
        assert "#| " not in re.sub("<[^>]+>", "", page)
        assert notebook.stem == "index" or json.loads((site / "notebooks" / notebook.name).read_text()) == json.loads(notebook.read_text())
    assert {path.stem for path in (ROOT / "transfer_nbs").glob("[a-z]*.py")} - {"all"} == {Path(name).stem for name in pages if name.startswith("api/")} - {"index"}


def test_no_dead_link(pages, site):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            to = pages.get(target.resolve().relative_to(site.resolve()).as_posix())
            if not target.exists() or (parts.fragment and to and unquote(parts.fragment) not in to.ids): dead.append(f"{name}: {link}")
    assert not dead


def test_nothing_is_loaded_from_another_host(pages, site):
    assert not [f"{name}: {url}" for name, page in pages.items() for url in page.loads if urlsplit(url).netloc]
    assert not [path for path in site.rglob("*.css") if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text())]


def test_every_figure_says_what_it_shows(pages, site):
    images = [(name, image) for name, page in pages.items() for image in page.images]
    assert len(images) > 30
    assert not [(name, image["src"]) for name, image in images if len(image.get("alt", "")) < 20]


def test_headings_are_in_order(pages):
    for name, page in pages.items():
        if name in ("search.html", "genindex.html"): continue  # Sphinx's own
        assert page.headings.count(1) == 1 and page.headings[0] == 1, name
        assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:])), (name, page.headings)


def test_reference_is_of_the_package(site):
    page = (site / "api" / "bn_eval.html").read_text()
    assert 'id="transfer_nbs.bn_eval.set_bn_policy"' in page and "../06_bn_eval.html#define-set_bn_policy" in page
    assert "ValueError: unknown BN policy {policy}" in re.sub("<[^>]+>", "", page)
    needed = ast.literal_eval(re.search(r"__all__ = (\[.*?\])", (ROOT / "transfer_nbs" / "all.py").read_text(), re.S)[1])
    listed = (site / "api" / "index.html").read_text()
    assert not [name for name in needed if f'.{name}"><code>{name}</code></a>' not in listed]
    commands = (site / "commands.html").read_text()
    settings = (ROOT / "settings.ini").read_text()
    assert all(f'id="{name.replace("_", "-")}"' in commands for name in re.findall(r"^    (\w+)=", settings, re.M))
    assert "--valid-fraction" in commands and "<td><p><code class=\"docutils literal notranslate\"><span class=\"pre\">0.2</span>" in commands


def test_llms_txt_names_what_is_there(site):
    links = re.findall(r"\]\(https://[^/]+/transfer_nbs/([^)]+)\)", (site / "llms.txt").read_text())
    assert len(links) > 15 and all((site / link).exists() for link in links)
    assert "(Figure: " in (site / "01_split.md").read_text()


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_site
    return make_site


def test_figure_without_a_text_is_an_error(make):
    figure = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="})
    cell = nbformat.v4.new_code_cell("plt.plot([1, 2]);", outputs=[figure, figure])
    with pytest.raises(SystemExit, match="one.ipynb.*2 figures and 0 texts.*fig-alt"): make.convert_code(cell, "one.ipynb")
    cell.source = "#| fig-alt: a line\n#| fig-alt: another\n" + cell.source
    first, second = make.convert_code(cell, "one.ipynb")
    assert first.metadata == {"tags": ["hide-input"], "mystnb": {"image": {"alt": "a line", "classes": "picture"}}} and first.source == "plt.plot([1, 2]);"
    assert second.metadata["mystnb"]["image"]["alt"] == "another" and not second.source


@pytest.mark.parametrize("source, cells, tags", [("#| hide\nx = 1", 0, None), ("#| default_exp data", 0, None), ("#| hide\n#| echo: false\nx", 1, ["remove-input"]),
                                                 ("#| export\nx = 1", 2, []), ("x = 1", 1, [])])
def test_directives(make, source, cells, tags):
    found = make.convert_code(nbformat.v4.new_code_cell(source), "one.ipynb")
    assert len(found) == cells and (not cells or found[-1].metadata.tags == tags)


def test_pages_open_without_a_complaint(tab, address, pages):
    "No console error, nothing missing, no other host, and at 390 px nothing sticks out."
    complaints = []
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.on("console", lambda message: complaints.append(f"{tab.url}: {message.text}") if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(f"{tab.url}: {error}"))
    tab.on("response", lambda response: complaints.append(f"{tab.url}: {response.url} {response.status}") if response.status >= 400 else None)
    tab.on("request", lambda request: complaints.append(f"{tab.url}: {request.url}") if not request.url.startswith((address, "data:")) else None)
    for name in pages:
        tab.goto(f"{address}/{name}")
        if tab.evaluate("document.documentElement.scrollWidth > innerWidth"): complaints.append(f"{name}: scrolls to the side")
    assert not complaints


@pytest.mark.parametrize("where", ["http", "file"])
def test_search_finds_set_bn_eval(tab, address, site, where):
    tab.goto((address if where == "http" else site.as_uri()) + "/index.html")
    tab.locator("input[name=q]").first.fill("set_bn_eval")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("ul.search li a[href*='bn_eval']")
    tab.wait_for_function("document.querySelector('.search-summary')?.textContent.match(/\\d+ page/)")
    links = tab.eval_on_selector_all("ul.search li a", "links => links.map(link => link.getAttribute('href'))")
    assert any(link.startswith("06_bn_eval.html") for link in links) and any(link.startswith("api/bn_eval.html") for link in links), links


def test_copy_button_copies(tab, address):
    tab.goto(f"{address}/06_bn_eval.html")
    block = tab.locator("div.highlight", has_text="def set_bn_eval").first
    block.hover()
    block.locator("button.copybtn").click()
    tab.wait_for_selector("button.copybtn.success")
    assert tab.evaluate("navigator.clipboard.readText()").strip() == block.locator("pre").inner_text().strip()


def test_dark_mode_switches(tab, address):
    tab.goto(f"{address}/08_discriminative_lr.html")
    look = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('img.chart')).filter]"
    light = tab.evaluate(look)
    while tab.evaluate("document.body.dataset.theme") != "dark": tab.locator(".theme-toggle:visible").first.click()
    dark = tab.evaluate(look)
    assert light == ["rgb(255, 255, 255)", "none"] and max(map(int, re.findall(r"\d+", dark[0]))) < 60 and "invert" in dark[1]


def test_code_of_a_figure_unfolds(tab, address):
    tab.goto(f"{address}/08_discriminative_lr.html")
    folded = tab.locator("details.hide").first
    assert not folded.locator("pre").first.is_visible()
    folded.locator("summary").click()
    assert folded.locator("pre").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "06_bn_eval", "11_compare", "api/bn_eval", "commands"])
def test_pages_are_accessible(browser, address, name, scheme):
    "axe finds nothing against WCAG 2 at level AA: contrast, names, structure."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    tab.goto(f"{address}/{name}.html")
    found = axe.run(tab, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    context.close()
    assert not [(each["id"], [node["html"][:160] for node in each["nodes"][:4]], len(each["nodes"])) for each in found]
