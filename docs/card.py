"""The picture that is shown where someone shares a link: the question of the site, and the comparison that answers it on the practice data."""

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

QUESTION = "Which way of fine-tuning is best on your images, and is the difference real?"
BLUE, GREY = "#0b4f8a", "#767676"


def draw_card(
    summary: Path,  # as `transfer_compare` writes it
    name: str,  # of the site
    out: Path,  # 1200 by 630 pixels
) -> None:
    "Draw the recipes as dots with their intervals, the best on top; blue are those that may be as good as the best."
    table = pd.read_csv(summary).sort_values("mean")
    figure = Figure(figsize=(12, 6.3), dpi=100)
    figure.text(0.05, 0.93, "\n".join(textwrap.wrap(QUESTION, 46)), fontsize=33, weight="bold", va="top", linespacing=1.25)
    figure.text(0.05, 0.07, name, fontsize=26, color=BLUE, weight="bold")
    figure.text(0.95, 0.07, "accuracy on the practice data, with 95% intervals", fontsize=17, color=GREY, ha="right")
    ax = figure.add_axes((0.42, 0.19, 0.53, 0.47))
    colours = [GREY if verdict.startswith("worse") else BLUE for verdict in table.verdict]
    ax.hlines(range(len(table)), table.low, table.high, colors=colours, linewidth=4)
    ax.scatter(table["mean"], range(len(table)), s=120, color=colours, zorder=3)
    ax.set_yticks(range(len(table)), table.recipe, fontsize=17, family="monospace")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.tick_params(axis="x", labelsize=17)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(out)
