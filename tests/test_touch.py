"""What can be touched on the website, used in a real browser."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "nbs").glob("[01]*.ipynb"))
PAGES = ["00_transfer_learning", "06_bn_eval", "20_clothes"]


def shown(tab, row):
    "The batch and its moments, as a row of the BN layer's table has them."
    line = tab.locator(f"#touch-bn [data-row={row}]")
    values = json.loads(line.locator("span").get_attribute("data-values"))
    return torch.tensor(values), [float(cell) for cell in line.locator("td").all_inner_texts()]


@torch.no_grad()
def compare_with_torch(tab, layer):
    "The outputs in both modes, and the running statistics, are those of PyTorch's layer."
    batch, moments = shown(tab, "input")
    batch = batch.view(1, 1, 1, -1)
    kept = layer.running_mean.clone(), layer.running_var.clone()
    for row in ("train", "eval"):
        output = layer.train(row == "train")(batch).flatten()
        layer.running_mean.copy_(kept[0]), layer.running_var.copy_(kept[1])
        values, moments = shown(tab, row)
        torch.testing.assert_close(values, output, atol=1e-4, rtol=1e-4)
        assert moments == pytest.approx([output.mean().item(), output.var(unbiased=False).item()], abs=0.0051)
    assert shown(tab, "running")[1] == pytest.approx([layer.running_mean.item(), layer.running_var.item()], abs=0.0051)
    return batch


@pytest.mark.parametrize("settings", [[(5, 1)] * 4, [(-4, 0.5), (8, 3), (0, 2)]])
def test_bn_layer_is_pytorchs(tab, address, settings):
    tab.goto(f"{address}/06_bn_eval.html")
    layer = nn.BatchNorm2d(1)
    for mean, width in settings:
        tab.fill("#touch-bn input[name=mean]", str(mean)), tab.fill("#touch-bn input[name=width]", str(width))
        batch = compare_with_torch(tab, layer)
        tab.click("#touch-bn [name=train]")
        layer.train()(batch)
        compare_with_torch(tab, layer)
        tab.click("#touch-bn [name=eval]")  # another batch, and the same statistics
        assert not torch.equal(compare_with_torch(tab, layer), batch)
    tab.click("#touch-bn [name=again]")
    assert shown(tab, "running")[1] == [0, 1]


def test_bn_layer_works_by_keyboard(tab, address):
    tab.goto(f"{address}/06_bn_eval.html")
    tab.focus("#touch-bn input[name=mean]")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#touch-bn output[name=mean]") == "5.5"
    for _ in range(2): tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#touch-bn [role=status]").startswith("1 batch in train mode")
    assert shown(tab, "running")[1][0] > 0.3


def test_bn_layer_without_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / "06_bn_eval.html").as_uri())
    rows = tab.locator("#touch-bn tbody tr:visible").all_inner_texts()
    context.close()
    assert [row.split()[:2] for row in rows][0] == ["0", "0.00"] and len(rows) == 4 and float(rows[3].split()[1]) > 4.5


def panels(tab):
    "What each panel shows: where its points are, and its two percentages."
    found = tab.locator("#touch-epochs [data-recipe]")
    return {each.get_attribute("data-recipe"): (each.locator("path").evaluate_all("points => points.map(point => point.style.transform)"),
                                                each.locator("output").all_inner_texts()) for each in found.all()}


def test_features_come_apart(tab, address):
    recipes = json.loads((ROOT / "nbs" / "results" / "touch" / "features.json").read_text())["recipes"]
    tab.goto(f"{address}/00_transfer_learning.html")
    seen = []
    for epoch in (0, 3, 10):
        tab.fill("#touch-epochs input", str(epoch))
        assert tab.inner_text("#touch-epochs output[name=epoch]") == str(epoch)
        seen.append(panels(tab))
        for name, (places, percentages) in seen[-1].items():
            x, y = recipes[name]["points"][epoch][:2]
            assert places[0].replace(" ", "") == f"translate({x}px,{-y}px)"
            assert percentages == [f"{100 * recipes[name][each][epoch]:.0f}%" for each in ("accuracy", "between")]
    first, _, last = seen
    assert first["bn_eval"][0] == last["bn_eval"][0] == first["full_bn_frozen"][0]
    assert last["full_bn_frozen"][0] != first["full_bn_frozen"][0] and last["from_scratch"][0] != first["from_scratch"][0]
    tab.focus("#touch-epochs input")
    tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#touch-epochs output[name=epoch]") == "9"


def test_features_without_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / "00_transfer_learning.html").as_uri())
    assert tab.locator("#touch-epochs noscript").is_visible() and not tab.locator("#touch-epochs input").is_visible()
    assert [len(places) for places, _ in panels(tab).values()] == [80] * 3 and panels(tab)["bn_eval"][1][0] == "81%"
    context.close()


def answers():
    "The game's images: the right class and the network's, by number; and the names of the classes."
    found = json.loads((ROOT / "nbs" / "results" / "touch" / "guesses.json").read_text())
    return [(row["right"], row["said"]) for row in found["images"]], found["classes"]


@pytest.mark.parametrize("mistakes", [0, 3])
def test_game_counts(tab, address, mistakes):
    images, names = answers()
    tab.goto(f"{address}/20_clothes.html")
    assert not tab.locator("#touch-guess [data-part=gallery]").is_visible()  # it has the answers
    for number, (right, said) in enumerate(images):
        assert tab.inner_text("#touch-guess [data-part=count]") == f"Image {number + 1} of 10"
        given = (right + 1) % 10 if number < mistakes else right
        tab.locator(".touch-answers button").nth(given).click()
        verdict = tab.inner_text("#touch-guess [role=status]")
        assert verdict.startswith(f"{'Right' if given == right else 'No'}: {names[right]}. The network said {names[said]}")
        assert verdict.endswith("and is wrong.") == (said != right)
        assert tab.locator(".touch-answers button:enabled").count() == 0
        tab.keyboard.press("Enter")  # on the button for the next image
    score = sum(right == said for right, said in images)
    assert tab.inner_text("#touch-guess [data-part=end] p:focus") == f"You {10 - mistakes}, the network {score}."
    assert tab.locator("#touch-guess tbody tr").count() == 10 and tab.locator("#touch-guess [data-part=mistakes]").is_visible()
    tab.get_by_role("button", name="Play again").click()
    assert tab.inner_text("#touch-guess [data-part=count]") == "Image 1 of 10" and not tab.locator("#touch-guess table").is_visible()


def test_game_draws_without_looking():
    "The ten images are those of the seed, whatever the network says of them."
    labels = [label for label in range(10) for _ in range(80)]
    drawn = np.random.default_rng(0).choice(800, 10, replace=False)
    assert [right for right, _ in answers()[0]] == [labels[number] for number in drawn]


def test_game_without_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / "20_clothes.html").as_uri())
    first = tab.locator("#touch-guess [data-part=gallery] li").first
    assert first.locator("img").evaluate("image => image.naturalWidth") == 96 and not tab.locator(".touch-answers").is_visible()
    (right, _), *_ = answers()[0]
    first.locator("summary").click()
    assert first.get_by_text(f"{answers()[1][right]}; the network said").is_visible()
    context.close()


def test_what_is_touched_is_light(site):
    for name in ("bn", "epochs", "guess"):
        page = next(text for text in (path.read_text() for path in site.glob("[0-9]*.html")) if f'id="touch-{name}"' in text)
        data = page.split(f'id="touch-{name}-data">')[1].split("</script>")[0]
        assert len(data) + len(page.split(f'id="touch-{name}"')[1].split("</section>")[0]) + (site / "_static" / f"touch_{name}.js").stat().st_size < 50_000


def written_quiz(lesson):
    "The last cell of a lesson's prose: for each question, what is said of each answer."
    cells = [cell.source for cell in nbformat.read(ROOT / "nbs" / f"{lesson}.ipynb", as_version=4).cells if cell.cell_type == "markdown"]
    reasons = [part.split("</details>")[0].strip() for part in cells[-1].split("</summary>")[1:]]
    assert cells[-1].startswith("## Quiz"), lesson
    return [text.split("\n") for text in reasons]


@pytest.mark.parametrize("lesson", LESSONS)
def test_quiz_checks_every_answer(tab, address, lesson):
    tab.goto(f"{address}/{lesson}.html")
    written, forms = written_quiz(lesson), tab.locator(".touch-quiz form").all()
    assert 2 <= len(written) == len(forms) <= 3
    for reasons, form in zip(written, forms):
        answers = form.locator("input").all()
        assert 3 <= len(answers) == len(reasons) <= 4
        for letter, answer, reason in zip("abcd", answers, reasons):
            answer.check()
            form.locator("button").click()
            said = form.locator("[role=status]").inner_text()
            assert said.startswith(f"{letter}) Right." if "Right." in reason else f"No. {letter}) ") and len(said) > 15


def test_quiz_works_by_keyboard(tab, address):
    tab.goto(f"{address}/06_bn_eval.html")
    form = tab.locator(".touch-quiz form").first
    form.locator("input").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert form.locator("[role=status]").inner_text().startswith("b) Right.")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("ArrowDown")
    assert not form.locator("[role=status]").inner_text()  # not checked yet


def test_quiz_without_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / "06_bn_eval.html").as_uri())
    quiz = tab.locator(".touch-quiz")
    assert quiz.locator("input").count() == 0 and not quiz.get_by_text("Right.").first.is_visible()
    quiz.locator("summary").first.click()
    assert quiz.get_by_text("Right.").first.is_visible()
    context.close()


QUESTION = """## Quiz

**1. Which?**

- a) This.
- b) That.
- c) None.

<details><summary>Answer</summary>

- a) Not it.
- **b) Right.** It is.
- c) One is.

</details>"""
BREAKS = [("- c) One is.\n", ""), ("- c) None.\n", ""), ("**b) Right.**", "b)"), ("- a) Not", "- **a) Right.** Not"), ("- b) That.\n", "- c) That.\n")]


@pytest.mark.parametrize("before, after", BREAKS)
def test_quiz_that_cannot_be_checked_is_an_error(monkeypatch, before, after):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from touch import touchable
    assert "touch-quiz" in touchable(QUESTION)
    assert before in QUESTION
    with pytest.raises(SystemExit, match="1. Which.*three or four answers"): touchable(QUESTION.replace(before, after))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", PAGES)
def test_what_is_touched_is_accessible_and_fits(browser, site, name, width, scheme):
    "From a file, without a complaint: axe finds nothing at WCAG AA, and nothing scrolls sideways."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    tab, complaints = context.new_page(), []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((site / f"{name}.html").as_uri())
    assert not complaints and not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
    found = axe.run(tab, context=".touch", options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    context.close()
    assert not [(each["id"], [node["html"][:160] for node in each["nodes"][:4]]) for each in found]
