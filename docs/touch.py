"""What can be touched on a page: `<!-- touch: NAME -->` in the prose becomes `docs/touch/NAME.html`, filled with its data; a quiz gets buttons."""

import json
import re
from pathlib import Path

import torch
from torch import nn

TEMPLATES = Path(__file__).resolve().parent / "touch"
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


DATA = {"bn": bn}


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
    return f'{QUIZ}\n<div class="touch touch-quiz">\n\n{source.removeprefix(QUIZ).strip()}\n\n</div>\n\n{STYLE}\n{SCRIPT.format(name="quiz")}\n'


def touchable(source: str) -> str:
    "The prose of a page with what can be touched."
    return quiz(source) if source.startswith(QUIZ) else MARK.sub(lambda match: filled(match[1]), source)
