"""The top of the site's home page: the question, three doors, a comparison as the answer, and what moves in each recipe."""

import functools
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from conf import settings

from transfer_nbs.backbone import get_model
from transfer_nbs.recipes import BASELINES, FINE_TUNING, TECHNIQUES, find_recipe
from transfer_nbs.run_folder import read_run
from transfer_nbs.tables import summarize
from transfer_nbs.what_moves import draw_moves, what_moves

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT / "nbs" / "results" / "fine_tuning" / "clothing"
WIDTH, LEFT, ROW = 470, 206, 18  # of the chart, of its names, of one of its rows: px

HERO = """<div class="hero">
<div>
<p class="lead">{lead}</p>
<p class="doors"><a href="00_transfer_learning.html">Learn</a> <a href="#on-your-own-images">Your images</a> <a href="#questions">A question</a></p>

```sh
git clone {git}
cd {repo} && python3 -m venv .venv
.venv/bin/pip install -q .
.venv/bin/transfer_compare  # on drawn images; or give it your folder
```

</div>
<figure>
<p class="conclusion">{conclusion}</p>
{chart}
<figcaption>

{caption}

</figcaption>
</figure>
</div>

## What moves in each technique?

{finding} Choose a recipe:

{picker}"""


def dots(
    summary: pd.DataFrame,  # of a comparison
) -> str:
    "A comparison as SVG: a dot and an interval for each recipe, the best on top, those significantly worse in grey."
    summary = summary.sort_values("mean", ascending=False, kind="stable")
    end = np.ceil(10 * summary.high.max()) / 10
    def place(value): return LEFT + (WIDTH - LEFT - 16) * value / end
    bottom, drawn = ROW * len(summary) + 8, []
    for tick in np.arange(0, end, 0.2):
        drawn.append(f'<line x1="{place(tick):.0f}" x2="{place(tick):.0f}" y1="4" y2="{bottom}" class="grid"/>'
                     f'<text x="{place(tick):.0f}" y="{bottom + 14}" text-anchor="middle" class="tick">{tick:.0%}</text>')
    for number, row in enumerate(summary.itertuples()):
        y, kind = ROW * number + 14, "behind" if row.verdict.startswith("worse") else "ahead"
        drawn.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end" class="name">{row.recipe}</text>'
                     f'<line x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{y}" y2="{y}" class="{kind}"/>'
                     f'<circle cx="{place(row.mean):.1f}" cy="{y}" r="4" class="{kind}"/>')
    said = "; ".join(f"{row.recipe} {row.mean:.0%}" for row in summary.itertuples())
    return f'<svg class="dots" viewBox="0 0 {WIDTH} {bottom + 20}" role="img" aria-label="Accuracies: {said}">{"".join(drawn)}</svg>'


def verdict(summary: pd.DataFrame) -> str:
    "Which recipes are ahead of all others, and how far."
    ahead = summary[~summary.verdict.str.startswith("worse")].sort_values("mean", ascending=False)
    names = ", ".join(ahead.recipe[:-1]) + f" and {ahead.recipe.iloc[-1]}"
    return f"{len(ahead)} of {len(summary)} recipes lead, with {ahead['mean'].min():.0%} to {ahead['mean'].max():.0%}: {names}"


def finding(summary: pd.DataFrame) -> str:
    "What the drawings and the accuracies say together, as far as it holds."
    known = [recipe for recipe in (*TECHNIQUES, *FINE_TUNING) if recipe.pretrained]
    moving = {recipe.name for recipe in known if recipe.bn in ("train", "statistics")}
    rows = summary[summary.recipe.isin([recipe.name for recipe in known])].sort_values("mean")
    if set(rows.recipe[:len(moving)]) != moving: raise SystemExit("the recipes that let BN statistics move aren't the last any more: write another sentence in docs/home.py")
    return ("Orange boxes are BN statistics, which follow the images even in a backbone that is otherwise frozen. Every pretrained recipe that lets them move is "
            f"behind every one that holds them: {rows['mean'].iloc[len(moving) - 1]:.0%} at most, against {rows['mean'].iloc[len(moving)]:.0%} at least. "
            "(The network drawn is a resnet18; the accuracies are those of the chart's.)")


def in_words(recipe) -> str:
    "What a recipe does with each kind of number, in one sentence."
    moves = what_moves(recipe, get_model("resnet18", 10, head=recipe.head, size=48))
    said = {None: "stay", "follow": "follow the images"}
    return "; ".join(f"{kind} {said.get(move, 'learn')}{'s' if kind == 'head' else ''}" for kind, move in moves.items())


def page_of(name: str) -> tuple[str, str]:
    "The notebook that defines a recipe, and its number and title."
    for path, text in sources().items():
        if re.search(rf'(Recipe\(|name=)"{name}"', text): return path.stem, f"{path.stem[:2]} {re.search('^# (.*)', text, re.M)[1]}"
    raise SystemExit(f"no page defines the recipe {name}")


@functools.cache
def sources() -> dict[Path, str]:
    "The cells of the course's notebooks, one below the other."
    paths = sorted((ROOT / "nbs").glob("[01]*.ipynb"))
    return {path: "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]) for path in paths}


def picker(summary: pd.DataFrame) -> str:
    "A row of buttons for each family of recipes, and what the chosen one moves; without a script."
    rows = summary.set_index("recipe")
    families = {'<a href="#the-article-s-own-run">The article</a>': TECHNIQUES, "Baselines": BASELINES, "Fine-tuning": FINE_TUNING}
    names = [recipe.name for family in families.values() for recipe in family]
    chosen = "feature_extractor"
    choices = "".join(f'<input type="radio" name="recipe" id="moves-{name}"{" checked" * (name == chosen)}>' for name in names)
    buttons = "".join(f'<p><b>{title}</b> {" ".join(f"""<label for="moves-{recipe.name}">{recipe.name}</label>""" for recipe in family)}</p>'
                      for title, family in families.items())
    panels = []
    for name in names:
        row, (page, title) = rows.loc[name], page_of(name)
        drawing = draw_moves(name).data.replace("<svg ", f'<svg role="img" aria-label="{name}: {in_words(find_recipe(name))}" ', 1)
        said = row.verdict.replace("worse", f"worse than {rows['mean'].idxmax()}").replace("no significant difference", f"no significant difference from {rows['mean'].idxmax()}")
        panels.append(f'<div class="moved {name}">{drawing}<p><strong>{row["mean"]:.1%}</strong> ({row.low:.1%} to {row.high:.1%}) on the photographs of clothes: '
                      f'{html.escape(said)}. Explained in <a href="{page}.html">{html.escape(title)}</a>.</p></div>')
    rules = "".join(f"#moves-{name}:checked~.{name}{{display:block}}#moves-{name}:checked~.buttons [for=moves-{name}]{{background:var(--color-brand-primary);color:var(--color-background-primary)}}"
                    f"#moves-{name}:focus-visible~.buttons [for=moves-{name}]{{outline:2px solid var(--color-brand-primary);outline-offset:2px}}" for name in names)
    return f'<style>{rules}</style><fieldset class="picker"><legend>Recipes</legend>{choices}<div class="buttons">{buttons}</div>{"".join(panels)}</fieldset>'


def home(lead: str) -> str:
    "The top of the home page as Markdown."
    results, correct = read_run(PHOTOGRAPHS)
    run, summary = json.loads((PHOTOGRAPHS / "run.json").read_text()), summarize(results, correct)
    data, chosen = run["data"], run["settings"]
    caption = (f"Accuracy on photographs of {len(data['classes'])} kinds of clothes, {data['train']} to train on and {data['valid']} to judge; {chosen['arch']} with ImageNet weights, "
               f"{chosen['size']} px, {chosen['epochs']} epochs, {chosen['seeds']} seeds, 95% intervals. Grey: significantly worse than the highest. model_soup averages "
               f"{find_recipe('model_soup').soup} training runs. [14 Fine-tuning](14_fine_tuning.ipynb) has the details; `--recipes all` compares them on your folder.")
    return HERO.format(lead=lead, git=settings["git_url"], repo=settings["repo"], conclusion=verdict(summary), caption=caption,
                       chart=dots(summary), finding=finding(summary), picker=picker(summary))
