"Settings, gains and the map of page 83."

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from forks import run

from transfer_nbs import regimes
from transfer_nbs.clothes import Patterns
from transfer_nbs.intervals import compare_pairs
from transfer_nbs.recipes import RECIPES
from transfer_nbs.regimes import MAP, REGIMES, SETTINGS, Regime, Setting, plot_gains, plot_map, read_gains, read_map, run_setting
from transfer_nbs.run_folder import read_run

RESULTS = Path(__file__).resolve().parent.parent / "nbs" / "results" / "regimes"


@pytest.fixture(autouse=True)
def recipes_as_they_were():
    "A setting adds recipes of its own to the table of all, which other tests read."
    before = dict(RECIPES)
    yield
    RECIPES.clear()
    RECIPES.update(before)


@pytest.fixture
def tiny(monkeypatch):
    "A setting that trains in a few seconds."
    monkeypatch.setitem(regimes.SETTINGS, "tiny", Setting("tiny", Patterns(n=20, n_valid=20, size=32), recipes=("bn_eval", "one_rate")))
    return Regime("tiny", "one_rate", "bn_eval", "hurts")


def test_a_setting_goes_on_where_it_stopped_and_its_gains_can_be_read(tiny, tmp_path):
    said = []
    out = run_setting("tiny", tmp_path, seeds=2, say=said.append)
    table = (out / "results.csv").read_bytes()
    (out / "runs" / "one_rate-1.json").unlink()
    (out / "results.csv").unlink()
    run_setting("tiny", tmp_path, seeds=2, say=said.append)
    again = (out / "results.csv").read_bytes()
    def accuracies(content): return [line.split(b",")[:4] for line in content.splitlines()]
    assert accuracies(again) == accuracies(table)
    assert "3 of 4 runs are there already, going on" in said and len([line for line in said if "one_rate" in line]) == 3

    gain = read_gains([tiny], tmp_path).iloc[0]
    answers = read_run(out)[1]
    assert gain.gain == pytest.approx(answers["one_rate"].mean() - answers["bn_eval"].mean())
    assert gain.low <= gain.gain <= gain.high and (gain.seeds, gain["images"], gain.title) == (2, 20, "tiny")


def test_the_script_names_a_setting_that_is_unknown(tmp_path):
    script = RESULTS.parents[2] / "benchmarks" / "regimes.py"
    answer = run("python", script, "--names", "default,poor_camra", "--out", tmp_path / "out")
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "default" in answer.stderr and "poor_camera" in answer.stderr


def test_other_recipes_of_a_setting_tell_how_far_seeds_spread():
    "One setting has the name of a recipe of its own."
    answers = read_run(RESULTS / "one_rate")[1]
    gain = read_gains([Regime("one_rate", "one_rate_tenth", "one_rate_hundredth", "")], RESULTS).iloc[0]
    pairs = compare_pairs(answers).set_index(["first", "second"])
    expected = pairs.loc[("one_rate_tenth", "one_rate_hundredth")]
    assert (gain.low, gain.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    with pytest.raises(ValueError, match="bn_eval is compared with itself"): read_gains([Regime("mild_camera", "bn_eval", "bn_eval", "")], RESULTS)


def test_every_regime_compares_recipes_of_its_setting():
    for some in REGIMES.values():
        for regime in some: assert {regime.technique, regime.than} <= set(SETTINGS[regime.setting].recipes)


def test_every_technique_page_has_a_significant_effect():
    for page, some in REGIMES.items():
        gains = read_gains(some, RESULTS)
        assert ((gains.low > 0) | (gains.high < 0)).any(), page


def test_the_map_has_a_colour_only_where_a_gain_is_significant():
    gains = read_map(RESULTS)
    assert len(gains) == 6 * len(MAP) and 0 < gains.significant.sum() < len(gains)
    assert not gains.significant[(gains.low < 0) & (gains.high > 0)].any()  # Holm's correction takes, and never gives
    ax = plot_map(gains)
    white = [patch.get_facecolor()[:3] == (1, 1, 1) for patch in ax.patches]
    assert [not each for each in white] == gains.significant.tolist()
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == f"{100 * gains.other[0]:.1f}%" and texts[len(MAP)] == f"{100 * gains.gain[0]:+.1f} ± {50 * (gains.high[0] - gains.low[0]):.1f}"
    plt.close(ax.figure)


def test_the_map_says_what_page_11_and_the_home_page_say_of_it():
    gains = read_map(RESULTS)
    helps = gains.significant.groupby(gains.technique).sum()
    assert (gains.gain[gains.significant] > 0).all() and helps["discriminative_bn_trainable"] == 0
    assert helps["deeper_head"] == helps.max() < len(MAP)
    largest = gains.nlargest(2, "gain")
    assert set(largest.technique) == {"deeper_head"} and set(largest.setting) == {"imbalance", "poor_camera"}
    assert not gains.significant[gains.setting == "large_cloth"].any()
    best = gains.loc[gains.groupby("setting").gain.idxmax()]
    assert set(best.technique) == {"deeper_head"} and (gains.gain[gains.technique == "deeper_head"] > 0).all()


def test_gains_are_drawn_where_they_are():
    rows = dict(title="a", expected="helps", technique="x", than="y", accuracy=0.7, other=0.6)
    gains = pd.DataFrame([rows | dict(gain=0.1, low=0.05, high=0.15), rows | dict(gain=0.01, low=-0.02, high=0.04)])
    ax = plot_gains(gains)
    spans = [line for line in ax.lines if len(set(line.get_xdata())) == 2 and line.get_linewidth() > 2]
    assert [list(line.get_xdata()) for line in spans] == [[5, 15], pytest.approx([-2, 4])]
    assert spans[0].get_color() != spans[1].get_color()
    assert "x 0.700" in ax.texts[0].get_text() and "helps" in ax.get_yticklabels()[0].get_text()
    plt.close(ax.figure)
