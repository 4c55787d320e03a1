"""What can be touched on the website, used in a real browser."""

import json
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "nbs").glob("[01]*.ipynb"))
PAGES = ["06_bn_eval"]


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


QUESTION = "## Quiz\n\n**1. Which?**\n\n- a) This.\n- b) That.\n- c) None.\n\n<details><summary>Answer</summary>\n\n- a) Not it.\n- **b) Right.** It is.\n- c) One is.\n\n</details>"


@pytest.mark.parametrize("before, after", [("- c) One is.\n", ""), ("- c) None.\n", ""), ("**b) Right.**", "b)"), ("- a) Not", "- **a) Right.** Not"), ("- b) That.\n", "- c) That.\n")])
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
