"""The review page: its numbers are those of the predictions, its pictures the right ones, and nothing on it can run or fetch anything."""

import io
import re
import shutil
import sys
from base64 import b64decode
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from transfer_nbs.bundle import fill_template, load_bundle, make_bundle, save_bundle
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, build_model, train_recipe
from transfer_nbs.intervals import accuracy_interval
from transfer_nbs.views import ImageSpec
from transfer_nbs.review import _number_facts, _training_facts, curves_svg, heat_maps, write_review
from transfer_nbs.files import content_hash

COLOURS = {"<img src=x onerror=alert(1)>": (200, 60, 60), "<script>alert(2)": (60, 180, 60), "a & \"b\" 'c' {{ 7 * 7 }}": (60, 60, 200)}  # names of classes
NAMES = sorted(COLOURS)
EXTRA = pytest.mark.skipif(not (find_spec("captum") and find_spec("cleanlab")), reason="the extra review isn't installed")


def draw(file, colour, seed, size=40):
    "A noisy picture of one colour; every fifth is so dark that colours can hardly be told."
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) * (0.05 if seed % 5 == 0 else 1) + rng.normal(0, 40, (size, size, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "A folder of pictures with one wrong label, their table, the bundle of a small model, and its history."
    folder, rows = tmp_path_factory.mktemp("colours"), []
    for number, name in enumerate(NAMES):
        (folder / name).mkdir()
        for index in range(36):
            split = "train" if index < 20 else "valid" if index < 30 else "test"
            file = f"{name}/<b>{index}\u202e.png" if index == 25 else f"{name}/{index}.png"
            draw(folder / file, COLOURS[NAMES[(number + 1) % 3] if (number, index) == (0, 22) else name], 100 * number + index)
            rows.append((file, name, split))
    table = pd.DataFrame(rows, columns=["file", "class", "split"])
    settings, recipe = CompareSettings(size=32, epochs=8, lr=0.02, device="cpu"), RECIPES["bn_eval"]
    learned = table[table["split"] != "test"]
    trained = train_recipe(recipe, settings, learned, folder)
    told = dict(arch=settings.arch, weights=settings.weights, epochs=settings.epochs, seed=0)
    bundle = make_bundle(trained.model, trained.spec, recipe=recipe, settings=told, table=learned, folder=folder)
    return folder, table, save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "colours"), trained.history


@pytest.fixture
def copy(made, tmp_path):
    "A bundle to put a page into."
    return shutil.copytree(made[2], tmp_path / "colours")


def read(page): return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def cells(soup, id):
    "A table of the page as lists of texts."
    return [[cell.get_text() for cell in row.find_all(["th", "td"]) if not cell.has_attr("aria-hidden")] for row in soup.find(id=id).tbody.find_all("tr")]


def files_of(soup, id):
    "Which pictures a sheet shows, in order."
    return [figure.figcaption.find_all("bdi")[-1].get_text() for figure in soup.find(id=id).find_all("figure")] if soup.find(id=id) else []


def shown(file): return file.replace("\u202e", "\\u202e")


def predicted(made, *splits):
    "Rows of the table with what the model says, by the bundle's own prediction."
    folder, table, path, _ = made
    rows = table[table["split"].isin(splits)].reset_index(drop=True)
    probabilities = load_bundle(path).predict([folder / file for file in rows["file"]])
    label = [probabilities[name].iloc[row] for row, name in enumerate(rows["class"])]
    return rows.assign(answer=probabilities.idxmax(axis=1).to_numpy(), label_probability=label)


def test_numbers_are_those_of_the_predictions(made, copy):
    folder, table, _, history = made
    soup = read(write_review(copy, table, folder, history=history))
    rows = predicted(made, "valid", "test")
    expected = []
    for split in ("test", "valid"):
        right = (rows["answer"] == rows["class"])[rows["split"] == split].to_numpy()
        accuracy, low, high = accuracy_interval(right[None])
        expected.append([split, f"{right.sum()} of {len(right)}", f"{accuracy:.3f}", f"{low:.3f} to {high:.3f}"])
    assert cells(soup, "sets") == expected
    assert load_bundle(copy).results["valid"]["correct"] == int(expected[1][1].split()[0])
    test = rows[rows["split"] == "test"]  # classes are judged where nothing was chosen
    assert sorted(row[:2] for row in cells(soup, "by-class")) == [[name, f"{(test[test['class'] == name]['answer'] == name).sum()} of {(test['class'] == name).sum()}"] for name in NAMES]
    accuracies = [float(row[2]) for row in cells(soup, "by-class")]
    assert accuracies == sorted(accuracies)
    for row, label in zip(cells(soup, "matrix"), NAMES, strict=True):
        assert row == [label, *(str(((test["class"] == label) & (test["answer"] == answer)).sum()) for answer in NAMES)]
    told = [item.get_text() for item in soup.find(id="pairs").find_all("li")] if soup.find(id="pairs") else []
    assert sum(int(text.rsplit(": ", 1)[1].split()[0]) for text in told) == (test["answer"] != test["class"]).sum()
    assert [row[0] for row in cells(soup, "history")] == [str(epoch) for epoch in history["epoch"]]
    assert [row[2] for row in cells(soup, "history")] == [f"{loss:.3f}" for loss in history["valid_loss"]]


def test_without_test_images_classes_are_judged_on_valid(made, copy):
    folder, table, _, _ = made
    soup = read(write_review(copy, table[table["split"] != "test"], folder))
    assert [row[0] for row in cells(soup, "sets")] == ["valid"] and soup.find(id="by-class").caption.get_text() == "valid images"
    assert "No history" in soup.get_text()


def test_worst_mistakes_are_the_worst(made, copy):
    folder, table, _, _ = made
    rows = predicted(made, "valid", "test")
    wrong = rows[rows["answer"] != rows["class"]].sort_values("label_probability")
    assert len(wrong) > 1
    assert files_of(read(write_review(copy, table, folder)), "worst") == [shown(file) for file in wrong["file"]][:12]
    soup = read(write_review(copy, table, folder, most=1))
    assert files_of(soup, "worst") == [shown(wrong["file"].iloc[0])] and f"1 of {len(wrong)} mistakes" in soup.get_text()
    picture = Image.open(io.BytesIO(b64decode(soup.find(id="worst").img["src"].split(",")[1])))
    mean = np.array(Image.open(folder / wrong["file"].iloc[0])).mean((0, 1))
    assert picture.format == "JPEG" and max(picture.size) == 192 and np.abs(np.array(picture).mean((0, 1)) - mean).max() < 15


@EXTRA
def test_planted_label_is_found(made, copy):
    folder, table, _, _ = made
    soup = read(write_review(copy, table, folder))
    assert files_of(soup, "suspects")[0] == f"{NAMES[0]}/22.png"
    assert not {f"{name}/{index}.png" for name in NAMES for index in range(20)} & set(files_of(soup, "suspects"))  # training images
    assert "48 here. The 60 training images were not" in soup.get_text()


@EXTRA
def test_where_it_looks(made, copy):
    folder, table, _, _ = made
    soup = read(write_review(copy, table, folder))
    assert len(soup.find(id="right-looks").find_all("img")) == 6 and soup.find(id="wrong-looks")
    bundle = load_bundle(copy)
    bundle.model.train()
    heats = heat_maps(bundle, [folder / file for file in table["file"][:3]], [NAMES[0]] * 3)
    assert heats.shape == (3, 1, 1) and heats.isfinite().all()
    assert bundle.model.training and all(parameter.grad is None for parameter in bundle.model.parameters())


def test_hostile_names_are_text(made, copy):
    folder, table, _, history = made
    page = write_review(copy, table, folder, history=history)
    soup, text = read(page), page.read_text(encoding="utf-8")
    assert not soup.find("script") and not soup.find("b", string=re.compile("25")) and "\u202e" not in text
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in soup.find_all("img"))
    assert not [name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")]
    assert {row[0] for row in cells(soup, "by-class")} == set(NAMES)  # to the letter, and nothing computed


def test_page_is_whole_in_itself(made, copy):
    folder, table, _, history = made
    before = {file.name: content_hash(file) for file in copy.iterdir()}
    page = write_review(copy, table, folder, history=history)
    text = re.sub('data:image/jpeg;base64,[^"]*', "", page.read_text(encoding="utf-8"))
    assert "//" not in text and "url(" not in text.replace("url(#", "") and "@import" not in text
    assert "default-src 'none'" in read(page).find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert not read(page).find_all(["link", "iframe", "object", "form"]) and page.stat().st_size < 2e6
    assert {file.name: content_hash(file) for file in copy.iterdir() if file != page} == before
    assert load_bundle(copy) and [file.name for file in copy.parent.iterdir()] == ["colours"]


def test_headings_tables_and_pictures_are_told(made, copy):
    folder, table, _, history = made
    soup = read(write_review(copy, table, folder, history=history))
    levels = [int(heading.name[1]) for heading in soup.find_all(["h1", "h2", "h3", "h4"])]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    assert all(table.caption and all(cell.get("scope") == "col" for cell in table.thead.find_all("th")) and all(row.th["scope"] == "row" for row in table.tbody.find_all("tr")) for table in soup.find_all("table"))
    assert all(image["alt"] for image in soup.find_all("img"))
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)) and all(link["href"][1:] in ids for link in soup.nav.find_all("a"))
    for svg in soup.find_all("svg"):
        assert svg["role"] == "img" and [svg.title["id"], svg.desc["id"]] == svg["aria-labelledby"].split()
    assert len(soup.find_all("svg")) == 2


def test_missing_images_are_said(made, copy, tmp_path):
    folder, table, _, _ = made
    data = shutil.copytree(folder, tmp_path / "data")
    gone, broken = (table["file"][table["split"] == "valid"].iloc[number] for number in (0, 5))
    (data / gone).unlink()
    (data / broken).write_bytes((data / broken).read_bytes()[:100])
    soup = read(write_review(copy, table, data))
    told = soup.find(id="errors").find_next("ul").get_text()
    assert "2 images could not be read" in soup.get_text() and shown(gone) in told and shown(broken) in told
    assert cells(soup, "sets")[1][1].endswith("of 28")


def test_refusals_change_nothing(made, copy, tmp_path):
    folder, table, _, _ = made
    page = write_review(copy, table, folder)
    before = page.read_bytes()
    swapped = table.assign(split=table["split"].map({"train": "valid", "valid": "train", "test": "test"}))
    for arguments, words in (((copy, swapped, folder), "not the one that the bundle was trained with"), ((copy, table, tmp_path / "gone"), "none of the validation and test images"),
                             ((copy, table.assign(**{"class": table["class"].where(table["split"] != "test", "x")}), folder), "classes x are unknown"),
                             ((tmp_path / "gone", table, folder), "no such folder")):
        with pytest.raises(ValueError, match=words): write_review(*arguments)
    for most in (0, 51):
        with pytest.raises(ValueError, match=f"most is {most}"): write_review(copy, table, folder, most=most)
    assert page.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["colours"]


def test_a_full_disk_leaves_the_old_page(made, copy, monkeypatch):
    folder, table, _, _ = made
    page = write_review(copy, table, folder)
    before = page.read_bytes()
    def full(*_, **__): raise OSError(28, "No space left on device")
    names = sorted(file.name for file in copy.iterdir())
    monkeypatch.setattr("transfer_nbs.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"): write_review(copy, table, folder, most=1)
    assert page.read_bytes() == before and [file.name for file in copy.parent.iterdir()] == ["colours"]
    assert sorted(file.name for file in copy.iterdir()) == names


def test_without_the_extra(made, copy, monkeypatch):
    folder, table, _, _ = made
    for name in ("captum", "captum.attr", "cleanlab", "cleanlab.filter"): monkeypatch.setitem(sys.modules, name, None)
    soup = read(write_review(copy, table, folder))
    assert soup.get_text().count("pip install 'transfer_nbs[review]'") == 2
    assert files_of(soup, "worst") and not soup.find(id="suspects") and not soup.find(id="right-looks")


def test_size_is_bounded(tmp_path):
    "Noise, which compresses worst, in large pictures, nearly all of them taken for another class; and very many classes and epochs."
    names = tuple(f"class {number}" for number in range(8))
    rows = [(f"{number}.jpg", names[number % 8], "train" if number < 8 else "valid") for number in range(80)]
    for number, (file, *_) in enumerate(rows): Image.fromarray(np.random.default_rng(number).integers(0, 256, (300, 300, 3), np.uint8)).save(tmp_path / file)
    table = pd.DataFrame(rows, columns=["file", "class", "split"])
    model = build_model(RECIPES["bn_eval"], CompareSettings(size=32, device="cpu"), num_classes=8)
    bundle = make_bundle(model, ImageSpec(names, size=32), recipe=RECIPES["bn_eval"], settings=dict(arch="resnet18"), table=table, folder=tmp_path)
    page = write_review(save_bundle(bundle, tmp_path / "bundle"), table, tmp_path, most=50)
    assert read(page).find(id="worst").find_all("li")[49] and page.stat().st_size < 5e6

    classes = tuple(f"{number:0200}" for number in range(1000))  # long names, too
    many = pd.DataFrame(dict(file="a.jpg", split="valid", answer=np.roll(classes * 2, 3), probability=0.5, label_probability=0.1, **{"class": classes * 2}))
    numbers = fill_template("review_numbers.html", _number_facts(many, classes))
    assert len(numbers) < 2e5 and "900 better ones are left out" in numbers and "too large for a page" in numbers
    epochs = np.arange(1, 5001)
    history = pd.DataFrame(dict(epoch=epochs, **dict.fromkeys(("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"), np.random.default_rng(0).random(5000))))
    assert len(fill_template("review_training.html", _training_facts(history))) < 1.5e6 and "50 of 5000 epochs" in fill_template("review_training.html", _training_facts(history))


def told(right_of, split="valid"):
    "The headline of a page about 60 images of class a and 40 of class b, so many of each of them right."
    rows = pd.DataFrame({"class": ["a"] * 60 + ["b"] * 40, "split": split, "answer": ["a"] * right_of["a"] + ["b"] * (100 - right_of["a"] - 40 + right_of["b"]) + ["a"] * (40 - right_of["b"])})
    facts = _number_facts(rows.assign(file="f", probability=0.5, label_probability=0.5), ("a", "b")) | _training_facts(None)
    facts |= dict(title="t", architecture="resnet18", head="linear_head", recipe="bn_eval", size=32, temperature=1.0, learned=10, unreadable=0, errors=[], judged=100,
                  date="2026-01-31", version="1.2.3", worst=[], wrong=0, suspects=[], suspected=0, right_looks=None, no_map=False)
    soup = BeautifulSoup(fill_template("review.html", facts), "html.parser")
    return " ".join(soup.find(class_="headline").get_text().split()), soup.header.get_text()


@pytest.mark.parametrize("right, said", [({"a": 60, "b": 0}, "no better than always answering a"), ({"a": 50, "b": 15}, "don't show that the model is better than always answering a"), ({"a": 55, "b": 35}, "It beats always answering a")])
def test_headline_holds_the_model_against_the_commonest_class(right, said):
    headline, header = told(right)
    assert headline.startswith(f"{sum(right.values())}.0% of 100 validation images") and said in headline and "right on 60.0%" in headline
    assert told(right, split="later")[0].startswith(f"{sum(right.values())}.0% of 100 later images")
    assert "2026-01-31" in header and "transfer_nbs 1.2.3" in header and "10 training images" in header


def test_headline_is_of_the_test_images(made, copy):
    folder, table, _, _ = made
    rows = predicted(made, "test")
    headline = " ".join(read(write_review(copy, table, folder)).find(class_="headline").get_text().split())
    assert headline.startswith(f"{100 * (rows['answer'] == rows['class']).mean():.1f}% of {len(rows)} test images")


def test_epochs_on_the_axis_are_whole():
    for epochs in (1, 2, 3, 7):
        history = pd.DataFrame(dict(epoch=np.arange(1, epochs + 1), **dict.fromkeys(("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"), np.linspace(0.2, 0.9, epochs))))
        axis = BeautifulSoup(curves_svg(history, "loss"), "html.parser").find(id="loss-matplotlib.axis_1")
        ticks = [text.get_text() for text in axis.find_all("text") if text.get_text() != "epoch"]
        assert ticks and all(tick.isdigit() for tick in ticks) and "1" in ticks


def test_curves_of_a_diverged_training():
    history = pd.DataFrame(dict(epoch=[1, 2], train_loss=[1.0, float("nan")], valid_loss=[float("inf"), 1.0], train_accuracy=[0.5, 0.5], valid_accuracy=[0.5, 0.5]))
    assert "2 epochs" in curves_svg(history, "loss") and "nan" in fill_template("review_training.html", _training_facts(history))


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const ground = element => element ? over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement)) : [255, 255, 255, 1];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || ["STYLE", "TITLE", "title", "desc", "style"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), [a, b] = [light(rgba(element.closest("svg") ? style.fill : style.color)), light(ground(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(width, scheme, made, copy, browser):
    folder, table, _, history = made
    page = write_review(copy, table, folder, history=history)
    context = browser.new_context(viewport=dict(width=width, height=844), color_scheme=scheme)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.locator("summary").click()
    assert tab.locator("#history").is_visible()
    assert not said and [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert all(tab.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 100)"))
    contrasts = tab.evaluate(CONTRAST)
    assert len(contrasts) > 100 and contrasts[0][0] >= 4.5, contrasts[:5]
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)")
    reached = []  # by the keyboard alone: every link, every table that may need scrolling
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.getAttribute('href') || document.activeElement.tagName"))
    for name in ("#accuracy", "#training", "Each class, table", "Confusion matrix, table"): assert name in reached, reached
    context.close()
