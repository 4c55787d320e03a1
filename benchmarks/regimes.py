"""Where each technique pays: every setting of the page 83, with five seeds each.

Each setting is a comparison in a folder of its own; one that was stopped goes on where it was. A program for each core
is twice as fast as one for all: give each the names of other settings.

    OMP_NUM_THREADS=1 python benchmarks/regimes.py --out nbs/results/regimes
"""

from fastcore.script import call_parse

from transfer_nbs.console import user_errors
from transfer_nbs.hardware import keep_freed_memory
from transfer_nbs.regimes import SETTINGS, run_setting


@call_parse
def regimes(
    names: str = "",  # of settings, separated by commas; none: all
    out: str = "runs/regimes",  # folder for the results
    seeds: int = 5,  # of each recipe
):
    "Run the settings of the regimes and of the map."
    with user_errors("regimes"):
        chosen = [name.strip() for name in names.split(",")] if names else list(SETTINGS)
        if unknown := [name for name in chosen if name not in SETTINGS]:
            raise ValueError(f"names has {unknown[0]!r}; give some of {', '.join(SETTINGS)}")
        if seeds < 1: raise ValueError(f"seeds is {seeds}: give 1 or more")
        keep_freed_memory()
        for name in chosen:
            print(f"{name}: {SETTINGS[name].title}", flush=True)
            run_setting(name, out, seeds=seeds)
