"""What can be touched on a page: `<!-- touch: NAME -->` in the prose becomes `docs/touch/NAME.html`, filled with its data; a quiz gets buttons."""

import json
import re
from pathlib import Path

import torch
from torch import nn

TEMPLATES = Path(__file__).resolve().parent / "touch"
RESULTS = Path(__file__).resolve().parent.parent / "nbs" / "results" / "touch"
MARK = re.compile(r"<!-- touch: (\w+) -->")
QUIZ = "## Quiz\n"  # how a cell with questions begins
STYLE, SCRIPT = '<link rel="stylesheet" href="_static/touch.css">', '<script src="_static/touch_{name}.js" defer></script>'


def moments(values) -> str:
    "Mean and variance as two cells of a table."
    return f"<td>{values.mean():.2f}</td><td>{values.var(unbiased=False):.2f}</td>"


def bn_rows(batches: torch.Tensor) -> str:
    "What batches with a mean of 5 do to a BN layer in train mode: for readers without script."
    layer, rows = nn.BatchNorm2d(1), []
    for number, batch in enumerate(5 + batches.view(-1, 1, 1, 1, batches.shape[1])):
        if number in (0, 1, 10, 30):
            passed = f"<td>{layer.running_mean.item():.2f}</td><td>{layer.running_var.item():.2f}</td>"
            rows.append(f'<tr><th scope="row">{number}</th>{passed}{moments(layer.eval()(batch))}</tr>')
        layer.train()(batch)
    return "".join(rows)


def bn() -> dict[str, str]:
    "Standard normal batches, which the page shifts and widens."
    noise = torch.randn(31, 32, generator=torch.Generator().manual_seed(0)).clip(-2.2, 2.2)
    return dict(rows=bn_rows(noise), data=json.dumps([[round(value, 2) for value in batch] for batch in noise.tolist()]))


SHAPES = (  # one for each class: a circle, a square, a triangle, a diamond
    "M-2.7 0a2.7 2.7 0 1 0 5.4 0a2.7 2.7 0 1 0-5.4 0z", "M-2.4-2.4h4.8v4.8h-4.8z", "M0-3L3 2.5H-3z", "M0-3.4L3.4 0L0 3.4L-3.4 0z")
TITLES = {"bn_eval": "Frozen", "full_bn_frozen": "Fine-tuned", "from_scratch": "From scratch"}


def shape(number: int, place: str = "") -> str:
    "The sign of a class, with its colour."
    return f'<path class="class-{number}" d="{SHAPES[number]}"{place}/>'


def panel(name: str, recipe: dict, each: int) -> str:
    "The points of a recipe after its last epoch."
    places = zip(recipe["points"][-1][::2], recipe["points"][-1][1::2])
    points = [shape(number // each, f' style="transform:translate({x}px,{-y}px)"') for number, (x, y) in enumerate(places)]
    said = f"{TITLES[name]}: {len(points)} validation images of {len(points) // each} classes as points."
    accuracy, between = (f'<output data-of="{of}">{recipe[of][-1]:.0%}</output>' for of in ("accuracy", "between"))
    return f"""<figure data-recipe="{name}"><figcaption><strong>{TITLES[name]}</strong> <code>{name}</code></figcaption>
<svg viewBox="-65 -65 130 130" role="img" aria-label="{said}">{"".join(points)}</svg>
<p>Accuracy {accuracy}<br>Between the classes {between}</p></figure>
"""


def epochs() -> dict[str, str]:
    "Features after each epoch, of a run that `benchmarks/coming_apart.py` has made."
    found = json.loads((RESULTS / "features.json").read_text(encoding="utf-8"))
    recipes = found["recipes"]
    signs = [f'<svg viewBox="-4 -4 8 8" aria-hidden="true">{shape(number)}</svg>' for number in range(len(found["classes"]))]
    return dict(
        panels="".join(panel(name, recipe, found["each"]) for name, recipe in recipes.items()),
        key=" ".join(f"<span>{sign} {name}</span>" for sign, name in zip(signs, found["classes"])),
        last=str(len(recipes["bn_eval"]["points"]) - 1),
        shown=", ".join(f"{recipe['shown']:.0%} ({TITLES[name].lower()})" for name, recipe in recipes.items()),
        data=json.dumps(recipes))


def picture(row: dict, alt: str, said: str) -> str:
    "An image with what is said of it. Its file leaves the row, which the script gets."
    return f'<li><img src="data:image/webp;base64,{row.pop("image")}" alt="{alt}">{said}</li>'


def guess() -> dict[str, str]:
    "Ten images and a network's answers, of a run that `benchmarks/guessing.py` has made."
    found = json.loads((RESULTS / "guesses.json").read_text(encoding="utf-8"))
    names, gallery, mistakes = found["classes"], [], []
    for number, row in enumerate(found["images"], 1):
        answer = f'<details><summary>Answer</summary>{names[row["right"]]}; the network said {names[row["said"]]}.</details>'
        gallery.append(picture(row, f"Cloth on a wall, image {number} of the game: its pattern is the question.", answer))
    for row in found["mistaken"]:
        right, said = names[row["right"]], names[row["said"]]
        mistakes.append(picture(row, f"Cloth with the pattern {right}, taken for {said}.", f"{right}, taken for {said}: {row['times']} times"))
    return dict(
        gallery="".join(gallery), mistakes="".join(mistakes),
        classes=f"{', '.join(names[:-1])} and {names[-1]}",
        accuracy=f"{found['valid_correct'] / found['valid_total']:.0%}",
        buttons="".join(f'<button type="button">{name}</button>' for name in names),
        data=json.dumps(dict(classes=names, images=found["images"])),
        **{key: str(found[key]) for key in ("recipe", "epochs", "valid_correct", "valid_total")})


DATA = {"bn": bn, "epochs": epochs, "guess": guess}


def filled(name: str) -> str:
    "A template with its data, as MyST takes HTML."
    html = (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")
    for key, value in DATA[name]().items(): html = html.replace(f"{{{key}}}", value)
    return f"\n````{{raw}} html\n{STYLE}\n{html}{SCRIPT.format(name=name)}\n````\n"


def check_quiz(source: str) -> None:
    "Each question in bold has its answers in a list, and as many reasons in a folded one, of which one begins with **b) Right.**"
    for question, rest in re.findall(r"^\*\*(\d+\. .*?)\*\*$(.*?)(?=^\*\*\d+\. |\Z)", source, re.M | re.S):
        parts = re.fullmatch(r"\s*(.*?)\s*<details><summary>Answer</summary>\s*(.*?)\s*</details>\s*", rest, re.S)
        answers, reasons = ([line[2:].lstrip("*")[:2] for line in part.splitlines()] for part in parts.groups()) if parts else ((), ())
        if not 3 <= len(answers) <= 4 or answers != reasons or rest.count(") Right.** ") != 1:
            raise SystemExit(f"the quiz's question {question!r} needs three or four answers `- a) ...`, and in <details> as many reasons, "
                             "one of which begins with `- **a) Right.** `")


def quiz(source: str) -> str:
    "The questions with a script that makes buttons of them; without it, the answers are folded away."
    check_quiz(source)
    questions = source.removeprefix(QUIZ).strip()
    return f'{QUIZ}\n<div class="touch touch-quiz">\n\n{questions}\n\n</div>\n\n{STYLE}\n{SCRIPT.format(name="quiz")}\n'


def touchable(source: str) -> str:
    "The prose of a page with what can be touched."
    return quiz(source) if source.startswith(QUIZ) else MARK.sub(lambda match: filled(match[1]), source)
