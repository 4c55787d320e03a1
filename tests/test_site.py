"""The website: made anew, read as files, and used in a real browser."""

import ast
import re
import zipfile
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
PARSER = ConfigParser(delimiters=["="], interpolation=None)
PARSER.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = PARSER["DEFAULT"]
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
    assert {path.stem for path in (ROOT / "transfer_nbs").glob("[a-z]*.py")} - {"all"} == {Path(name).stem for name in pages if name.startswith("api/")} - {"index"}


def install(notebook):
    "The extras that a notebook installs in Colab."
    source = "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells)
    return re.search(r"pip install -q '\./transfer_nbs\[([\w,]+)\]'", source)[1].split(",")


@pytest.mark.parametrize("notebook", NUMBERED, ids=lambda path: path.stem)
def test_colab_keeps_its_own_jupyter(notebook):
    "Colab's kernel would not start again after `dev`, which brings another."
    wanted = [each for extra in install(notebook) for each in SETTINGS[f"{extra}_requirements"].split()]
    assert "dev" not in install(notebook) and not [each for each in wanted if re.match("jupyter|ipykernel|ipywidgets|notebook", each)]


@pytest.mark.parametrize("notebook", NUMBERED, ids=lambda path: path.stem)
def test_download_is_the_notebook_and_says_what_it_needs(site, notebook):
    (first, *cells), committed = (nbformat.read(path, as_version=4).cells for path in (site / "notebooks" / notebook.name, notebook))
    assert cells == [cell for cell in committed if "nbdev_export()" not in cell.source]
    assert f"transfer_nbs {SETTINGS['version']}:" in first.source and f"transfer_nbs[{','.join(install(notebook))}] @ git+{SETTINGS['git_url']}" in first.source
    assert (f"{notebook.stem}.zip" in first.source) == (site / "notebooks" / f"{notebook.stem}.zip").exists()


@pytest.mark.parametrize("notebook", NUMBERED, ids=lambda path: path.stem)
def test_zip_holds_what_the_cells_read(site, notebook):
    "Whatever the cells name that lies beside the notebooks, seen from the notebook's place in the zip."
    code = "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code")
    named = {place for place in re.findall(r"[\"'](results/[^\"'{]+)[\"'{]", code) if (ROOT / "nbs" / place).exists()}
    packed, page = site / "notebooks" / f"{notebook.stem}.zip", (site / f"{notebook.stem}.html").read_text()
    assert (f'href="notebooks/{notebook.stem}.zip"' in page) == packed.exists()
    held = zipfile.ZipFile(packed) if packed.exists() else None
    assert held is None or held.read(f"nbs/{notebook.name}") == (site / "notebooks" / notebook.name).read_bytes()
    assert not [place for place in named if not any(name.startswith(f"nbs/{place}") for name in held.namelist())]


def test_no_dead_link(pages, site):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            target = (site / name).parent / unquote(parts.path).removeprefix("/transfer_nbs/") if parts.path else site / name  # 404.html has whole paths
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
        if name == "genindex.html": continue  # Sphinx's own
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
    assert re.search(r"<dt>.*--valid-fraction.*default: .*0\.2.*</dt>", commands)


def test_llms_txt_names_what_is_there(site):
    links = re.findall(r"\]\(https://[^/]+/transfer_nbs/([^)]+)\)", (site / "llms.txt").read_text())
    assert len(links) > 15 and all((site / link).exists() for link in links)
    assert "(Figure: " in (site / "01_split.md").read_text()


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_site
    return make_site


def called(fold):
    "The metadata that give a fold its line."
    return {"code_prompt_show": fold, "code_prompt_hide": fold}


def test_figure_without_a_text_is_an_error(make):
    figure = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="})
    cell = nbformat.v4.new_code_cell("plt.plot([1, 2]);", outputs=[figure, figure])
    with pytest.raises(SystemExit, match="one.ipynb.*2 figures and 0 texts.*fig-alt"): make.convert_code(cell, "one.ipynb")
    cell.source = "#| fig-alt: a line\n#| fig-alt: another\n" + cell.source
    first, second = make.convert_code(cell, "one.ipynb")
    assert first.metadata == {"tags": ["hide-input"], "mystnb": {**called("The code of this figure"), "image": {"alt": "a line", "classes": "picture"}}} and first.source == "plt.plot([1, 2]);"
    assert second.metadata["mystnb"]["image"]["alt"] == "another" and not second.source


@pytest.mark.parametrize("source, cells, tags", [("#| hide\nx = 1", 0, None), ("#| default_exp data", 0, None), ("#| hide\n#| echo: false\nx", 1, ["remove-input"]),
                                                 ("#| export\nx = 1", 2, []), ("x = 1", 1, [])])
def test_directives(make, source, cells, tags):
    found = make.convert_code(nbformat.v4.new_code_cell(source), "one.ipynb")
    assert len(found) == cells and (not cells or found[-1].metadata.tags == tags)


FUNCTION = '#| export\ndef close_pairs(hashes):\n    """Pairs of images that are alike. Raises nothing."""\n    pairs = []\n    return pairs'


@pytest.mark.parametrize("name, source, fold", [
    ("54_duplicates.ipynb", FUNCTION, "close_pairs: pairs of images that are alike"),
    ("05_feature_extractor.ipynb", FUNCTION, ""),
    ("05_feature_extractor.ipynb", FUNCTION.replace("[]", "[" + "\n" * 40 + "]"), "close_pairs: pairs of images that are alike"),
    ("54_duplicates.ipynb", "#| export\nSIZE = 16", ""),
    ("54_duplicates.ipynb", "x = 1\ntest_eq(x, 1)\nassert x", "2 checks, all passed"),
    ("54_duplicates.ipynb", "assert True", "1 check, passed"),
    ("05_feature_extractor.ipynb", "assert True", ""),
    ("54_duplicates.ipynb", "x = 1", ""),
    ("54_duplicates.ipynb", "#| solution\nassert True", "A solution"),
    ("54_duplicates.ipynb", "\n".join(["import io"] * 7), "Imports")])
def test_fold_says_what_it_holds(make, name, source, fold):
    cell = make.convert_code(nbformat.v4.new_code_cell(source), name)[-1]
    assert cell.metadata.get("mystnb", called(""))["code_prompt_show"] == fold and cell.metadata.tags == ["hide-cell" if fold == "A solution" else "hide-input"] * bool(fold)


def test_output_of_a_check_stays_in_sight(make):
    cell = nbformat.v4.new_code_cell("print(1)\nassert True", outputs=[nbformat.v4.new_output("stream", name="stdout", text="1")])
    assert make.convert_code(cell, "54_duplicates.ipynb")[0].metadata.tags == []


def test_links_name_their_pages(make):
    titles = {"20_clothes": "The practice data", "22_pretrain": "Pretraining"}
    text = "told ([20](20_clothes.ipynb#cloth)); [the weights](22_pretrain.ipynb)\n| [22](22_pretrain.ipynb) | Pretraining | in [20](20_clothes.ipynb) |"
    assert make.name_links(text, titles).splitlines()[0] == "told ([20 The practice data](20_clothes.ipynb#cloth)); [the weights](22_pretrain.ipynb)"
    assert make.name_links(text, titles).splitlines()[1] == text.splitlines()[1]


def test_comments_recede_and_can_be_read(make):
    from quiet import Dark, Light
    from pygments.token import Comment, Token

    def light(colour):
        "Relative luminance, as WCAG defines it."
        parts = [int(colour.lstrip("#")[place:place + 2], 16) / 255 for place in (0, 2, 4)]
        return sum(share * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4) for share, part in zip((0.2126, 0.7152, 0.0722), parts))

    for style in (Light, Dark):
        ground = light(style.background_color)
        contrasts = [(max(each, ground) + 0.05) / (min(each, ground) + 0.05) for each in (light(style.style_for_token(kind)["color"]) for kind in (Comment, Token))]
        assert 4.5 <= contrasts[0] < 0.6 * contrasts[1]


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


def test_home_asks_answers_and_shows_what_moves(browser, address):
    "Without a script: a question, three doors, a chart with all recipes, and for each a drawing with its accuracy."
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{address}/index.html")
    assert tab.locator("h1").inner_text().startswith("Which way of fine-tuning is best on your images")
    assert [door.split(".html")[0] for door in tab.eval_on_selector_all(".doors a", "doors => doors.map(door => door.getAttribute('href'))")] == [
        "00_transfer_learning", "#on-your-own-images", "#questions"]
    summary = pd.read_csv(ROOT / "nbs" / "results" / "fine_tuning" / "clothing" / "summary.csv").set_index("recipe")
    assert set(tab.locator(".dots .name").all_text_contents()) == set(summary[~summary.verdict.str.startswith("same as")].index)  # a recipe that is another on this network has no line
    for name in ("bn_eval", "model_soup"):
        tab.locator(f".picker label[for=moves-{name}]").click()
        shown = tab.locator(".moved:visible")
        assert shown.count() == 1 and name in shown.locator("svg").get_attribute("aria-label")
        assert f"{summary['mean'][name]:.1%} ({summary['low'][name]:.1%} to {summary['high'][name]:.1%})" in shown.inner_text()
    tab.locator("#moves-model_soup").press("ArrowLeft")
    assert tab.locator(".moved:visible").get_attribute("class") == "moved l2_sp"
    context.close()


def test_drawings_follow_the_colours_of_the_page(tab, address):
    tab.goto(f"{address}/06_bn_eval.html")
    fill = "getComputedStyle(document.querySelector('svg[aria-label*=bn_eval] rect:nth-of-type(2)')).fill"
    light = tab.evaluate(fill)
    while tab.evaluate("document.body.dataset.theme") != "dark": tab.locator(".theme-toggle:visible").first.click()
    assert light == "rgb(228, 233, 238)" and tab.evaluate(fill) == "rgb(46, 52, 59)"


def test_code_of_a_figure_unfolds(tab, address):
    tab.goto(f"{address}/08_discriminative_lr.html")
    folded = tab.locator("details.fold", has_text="The code of this figure").first
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


@pytest.mark.parametrize("where", ["http", "file"])
@pytest.mark.parametrize("query, number", [
    ("learning rate", "45"), ("overfitting", "42"), ("loss is nan", "65"), ("class imbalance", "12"), ("image size", "63"), ("how many epochs", "76"), ("Freezing", "05"),
    ("batch norm", "06"), ("batchnorm", "06"), ("data leakage", "30"), ("grad-cam", "32"), ("early stopping", "76"), ("fine tune", "14"), ("confidence intervals", "11"),
    ("size mismatch", "62"), ("resume training", "36"), ("calibration", "33"), ("why does my frozen model drift", "41"), ("set_bn_eval", "06"), ("set bn eval", "06"), ("learn rat", "45")])
def test_search_ranks_the_page_that_answers_first(tab, address, site, query, number, where):
    tab.goto((address if where == "http" else site.as_uri()) + f"/search.html?q={query}")
    first = tab.locator("ul.search > li").first
    assert first.locator("a").first.inner_text().startswith(f"{number} ")
    assert len(first.locator(".context").inner_text()) > 30


def test_search_shows_where_the_words_are(tab, address):
    tab.goto(f"{address}/search.html")
    assert tab.locator("ul.search > li").count() == 0 and tab.locator(".search-summary").inner_text() == ""
    tab.locator(".search-form input").fill("confusion matrix")
    word = tab.locator("ul.search > li", has_text="90 Glossary").locator(".context")
    assert {each.lower() for each in word.locator("mark").all_inner_texts()} == {"confusion", "matrix"}
    assert word.locator("a").get_attribute("href") == "90_glossary.html#confusion-matrix"
    tab.locator(".search-form input").fill("xylophone")
    assert tab.locator("ul.search > li").count() == 0 and tab.locator(".search-summary").inner_text() == "No page has these words."


def test_code_leads_to_the_reference(site):
    page = (site / "08_discriminative_lr.html").read_text()
    assert '<a class="name" href="api/training.html#transfer_nbs.training.fit"' in page  # imported
    assert '<a class="name" href="api/discriminative_lr.html#transfer_nbs.discriminative_lr.update_lr"><span class="nf">' in page  # defined here
    linked = {text for html in site.glob("*.html") for text in re.findall(r'<a class="name" [^>]+>(.*?)</a>', html.read_text())}
    assert len(linked) > 300 and all(re.fullmatch(r'<span class="n[fce]?">\w+</span>', text) for text in linked)


def test_names_mean_what_a_page_says(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from names import Names, link_code
    code = ["from transfer_nbs.all import freeze, fit as train\nfrom transfer_nbs.split import split_images", "from transfer_nbs import all as tn",
            "split_images = 3\nfreeze(tn.unfreeze)\nmodel.freeze(train=train)"]
    known = Names("06_bn_eval", code)
    assert known.used == {"transfer_nbs.feature_extractor.freeze", "transfer_nbs.feature_extractor.unfreeze", "transfer_nbs.training.fit"}
    html = '<div class="highlight-ipython3"><pre>' + "".join(f'<span class="n">{name}</span>{after}' for name, after in [
        ("freeze", "("), ("tn", '<span class="o">.</span>'), ("unfreeze", ""), ("model", '<span class="o">.</span>'), ("freeze", "("), ("train", '<span class="o">=</span>'), ("train", "")]) + "</pre>"
    assert re.findall(r'href="(\S+?)"', link_code(html, known, lambda full: full.split(".")[-1])) == ["freeze", "unfreeze", "fit"]


def test_reference_names_the_pages_that_use_a_function(site):
    page = (site / "api" / "bn_eval.html").read_text()
    lines = [line for line in re.findall(r'<p class="explained">Used in: .*?</p>', page) if "08_discriminative_lr.html" in line]
    assert lines and not [line for line in lines if "06_bn_eval.html" in line]


def test_words_are_explained_once_and_in_prose_alone(site, pages):
    counts = {}
    for path in site.glob("[0-9]*.html"):
        page = path.read_text()
        words = re.findall(r'<span class="term"><a href="(90_glossary\.html#\S+)"', page)
        assert len(words) == len(set(words)), path.name
        counts[path.stem] = len(words)
        for outer in ("h[1-6]", "pre", "code", "table", "a"):
            assert not [found for found in re.findall(rf"<{outer}[ >](?:(?!</{outer}>).)*", page, re.S) if 'class="term"' in found], (path.name, outer)
    assert counts["05_feature_extractor"] > 10 and sum(counts.values()) > 400
    assert counts["90_glossary"] == counts["404"] == 0


@pytest.mark.parametrize("word, sentence", [("AdamW", "Adam with a weight decay apart from the gradient, as page 14 uses it."),
                                            ("freezing", "Keeping parameters from learning, with <code>requires_grad=False</code>."),
                                            ("interval", "Here a 95% confidence interval: a range around a measured accuracy, made so that in 95 of 100 comparisons "
                                                         "it holds the accuracy that endless images and seeds would give.")])
def test_explanation_is_the_first_sentence(monkeypatch, word, sentence):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from explained import read_glossary
    assert read_glossary(ROOT / "nbs" / "90_glossary.ipynb")[word] == sentence


def test_forms_of_words(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from explained import pieces
    words = ["Adam", "AdamW", "BN layer", "accuracy", "freezing", "head", "loss", "winner's curse"]
    left = set(words)
    found = pieces("Losses of AdamW, accuracies of frozen BN layers; a head-first, headless adam. The winner’s curse of heads and a head.", dict.fromkeys(words, "."), left)
    assert re.findall(r'">([^<]+)</a>', "".join(map(str, found))) == ["Losses", "AdamW", "accuracies", "frozen", "BN layers", "winner’s curse", "heads"]
    assert left == {"Adam"}


def test_explanation_appears_on_focus_and_goes_on_escape(tab, address):
    tab.goto(f"{address}/05_feature_extractor.html")
    link = tab.locator(".term a", has_text="backbone").first
    tip = tab.locator("#" + link.get_attribute("aria-describedby"))
    assert not tip.is_visible()
    link.focus()
    tip.wait_for(state="visible")
    assert tip.inner_text().startswith("The part of a network that turns an image into feature maps")
    tab.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    tab.keyboard.press("Shift+Tab")
    link.focus()
    tip.wait_for(state="visible")


@pytest.mark.parametrize("width", [390, 1440])
def test_explanation_appears_without_a_script_and_fits(browser, address, width):
    context = browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(f"{address}/08_discriminative_lr.html")
    link = tab.locator(".term a", has_text="learning rate").first
    link.hover()
    tip = tab.locator(".term:hover .tip")
    tip.wait_for(state="visible")
    place, word = tip.bounding_box(), link.bounding_box()
    context.close()
    assert place["x"] >= 0 and place["x"] + place["width"] <= width and abs(place["y"] - word["y"] - word["height"]) < 12


def test_glossary_reads_as_one(site):
    assert "highlight" not in re.sub(r"sphinx_highlight|<link[^>]+>", "", (site / "90_glossary.html").read_text())


def test_pages_say_what_they_are(site):
    seen = []
    for path in [each for folder in ("", "api") for each in (site / folder).glob("*.html") if each.stem not in ("404", "search", "genindex") or folder]:
        page = path.read_text()
        said = dict(re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)"', page))
        assert 20 < len(said["description"]) < 260 and said["og:description"] == said["description"] and "&lt;" not in said["description"], path
        assert said["og:url"] == f"https://transfer-nbs.github.io/transfer_nbs/{path.relative_to(site)}" and said["og:title"] and said["twitter:card"] == "summary_large_image"
        assert Image.open(site / said["og:image"].removeprefix("https://transfer-nbs.github.io/transfer_nbs/")).size == (1200, 630)
        seen.append(said["description"])
    assert len(seen) == len(set(seen)) > 120


def test_map_of_the_site(site, pages):
    listed = re.findall("<loc>https://transfer-nbs.github.io/transfer_nbs/(.+)</loc>", (site / "sitemap.xml").read_text())
    assert set(listed) == set(pages) - {"404.html", "search.html", "genindex.html"}


def test_wrong_address_gets_a_page_at_any_depth(tab, address, site):
    missing = []
    tab.on("response", lambda response: missing.append(response.url) if response.status >= 400 else None)
    tab.goto(f"{address}/old/and/deep.html")
    assert tab.locator("h1").inner_text().startswith("There is no such page") and len(missing) == 1
    tab.locator("article a", has_text="glossary").click()
    assert tab.url == f"{address}/90_glossary.html"
    tab.goto(f"{address}/old/and/deep.html")
    tab.locator("input[name=q]").first.fill("calibration")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("ul.search > li")


def test_footer_says_the_version(site):
    version = re.search(r"^version = (.*)", (ROOT / "settings.ini").read_text(), re.M)[1]
    footer = re.search(r'<p class="version">.*?</p>', (site / "api" / "bn_eval.html").read_text())[0]
    assert version in footer and 'href="../changelog.html"' in footer
    assert f'id="{version}"' in (site / "changelog.html").read_text() or f">{version}<a" in (site / "changelog.html").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["05_feature_extractor", "08_discriminative_lr", "90_glossary", "404", "changelog", "search.html?q=learning rate#"])
def test_what_helps_to_find_is_accessible(browser, address, name, scheme):
    test_pages_are_accessible(browser, address, name, scheme)


def texts(tab, selector):
    "The texts of elements, without the signs of their links."
    return tab.eval_on_selector_all(selector, "found => found.map(each => each.textContent.replace('¶', '').trim().replace(/\\s+/g, ' '))")


def test_titles_are_the_same_everywhere(tab, address, pages):
    "In the menu, on the page and on its neighbours' links; and each page says where in its part of the book it is."
    tab.goto(f"{address}/index.html")
    menu = dict(zip(tab.eval_on_selector_all(".sidebar-tree li.toctree-l1 > a", "links => links.map(link => link.href)"), texts(tab, ".sidebar-tree li.toctree-l1 > a")))
    course = [path.stem for path in NUMBERED if path.name[0] in "01"]
    for notebook in NUMBERED:
        tab.goto(f"{address}/{notebook.stem}.html")
        title = "# " + menu[tab.url][3:]
        assert texts(tab, "h1") == [menu[tab.url]] and menu[tab.url].startswith(f"{notebook.stem[:2]} ") and nbformat.read(notebook, as_version=4).cells[0].source.startswith(title)
        for link, said in zip(tab.eval_on_selector_all(".related-pages a", "links => links.map(link => link.href)"), texts(tab, ".related-pages .title")):
            assert said == menu.get(link, "Home")
        (place,) = texts(tab, ".page-place")
        if notebook.stem in course: assert place.startswith(f"The path, {course.index(notebook.stem) + 1} of {len(course)} · ")
        assert re.search(r"\b[1-9]\d? minutes? to read", place)
        numbers = tab.eval_on_selector_all("article a.reference:not(td:first-child a)", "links => links.map(link => link.textContent)")
        assert not [said for said in numbers if re.fullmatch(r"\d\d", said)]


def test_every_page_leads_to_the_repository(pages):
    assert not [name for name, page in pages.items() if SETTINGS["git_url"] not in page.links]


def test_nothing_is_wider_than_its_box(tab, address, pages):
    "On a desktop, code of up to 100 columns stands as it is written, and only tables may scroll."
    tab.set_viewport_size({"width": 1440, "height": 900})
    wide = []
    for name in pages:
        tab.goto(f"{address}/{name}")
        tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        wide += tab.evaluate("""name => [...document.querySelectorAll("article pre, .cell_output, div.math")].filter(each => !each.querySelector("table"))
            .filter(each => each.scrollWidth > each.clientWidth).map(each => [name, each.textContent.slice(0, 80)])""", name)
        wide += tab.evaluate("""name => [...document.querySelectorAll("article pre")].filter(each => !each.closest(".hero")).filter(each => {
            const lines = each.textContent.trimEnd().split("\\n"), look = getComputedStyle(each);
            return lines.every(line => line.length <= 100) && each.clientHeight - 2 * parseFloat(look.paddingTop) > (lines.length + 0.5) * parseFloat(look.lineHeight);
        }).map(each => [name, each.textContent.slice(0, 80)])""", name)
    assert not wide


def test_cells_are_quiet(tab, address):
    "No coloured bars: one accent for links, one for code."
    for name in ("06_bn_eval", "54_duplicates"):
        tab.goto(f"{address}/{name}.html")
        assert set(tab.eval_on_selector_all(".cell_input", "cells => cells.map(cell => getComputedStyle(cell).borderLeftWidth)")) == {"0px"}
        assert len(set(tab.eval_on_selector_all("article .highlight span:not(.c1, .w)", "spans => spans.map(span => getComputedStyle(span).color)"))) <= 3
        assert len(set(tab.eval_on_selector_all("summary", "found => found.map(each => getComputedStyle(each).backgroundColor)"))) == 1


def test_print_shows_all(tab, address):
    tab.goto(f"{address}/54_duplicates.html")
    folded = tab.locator("details.fold .cell_input").first
    assert not folded.is_visible()
    tab.emulate_media(media="print")
    assert folded.is_visible() and folded.bounding_box()["height"] > 100
    fixed = "[...document.querySelectorAll('body *')].filter(each => ['fixed', 'sticky'].includes(getComputedStyle(each).position) && each.getClientRects().length)"
    assert tab.evaluate(f"{fixed}.map(each => each.className)") == []


def test_folds_are_named_for_screen_readers(tab, address):
    for name, holds in (("54_duplicates", "find_duplicates: "), ("51_files", "checks, all passed")):
        tab.goto(f"{address}/{name}.html")
        assert holds in tab.locator("article").aria_snapshot() and "Toggle hidden content" not in tab.content()


def test_link_to_a_definition_opens_its_code(tab, address):
    tab.goto(f"{address}/54_duplicates.html#define-close_pairs")
    assert tab.locator("details.fold", has_text="def close_pairs").locator("pre").is_visible()


def test_keyboard_skips_the_menu(tab, address):
    tab.goto(f"{address}/06_bn_eval.html")
    tab.keyboard.press("Tab")
    tab.wait_for_function("document.activeElement.matches('.skip-to-content') && document.activeElement.getBoundingClientRect().top >= 0")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.activeElement.matches('article')")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('article') !== null")


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_meaning_of_each_option_is_on_the_screen(tab, address, width):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{address}/commands.html")
    assert tab.locator("dl.myst dd").count() > 60
    assert tab.eval_on_selector_all("dl.myst :is(dt, dd, code, p)", "all => all.every(each => { const box = each.getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth; })")
