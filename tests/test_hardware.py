"How to compute is chosen once, by what was measured, and never by noise."

import math

import psutil
import pytest
import torch

from transfer_nbs.hardware import PeakMemory, _measure_precisions, choose_precision

CPU = torch.device("cpu")


def test_a_device_without_bfloat16(monkeypatch):
    monkeypatch.setattr("torch.amp.is_autocast_available", lambda kind: False)
    measured = _measure_precisions(CPU)
    assert 0 < measured["float32"] < math.inf and measured["bfloat16"] == math.inf
    monkeypatch.setattr("transfer_nbs.hardware.measured_precisions", lambda device: measured)
    assert choose_precision(CPU).dtype == torch.float32


@pytest.mark.parametrize("coarse, expected", [(0.5, torch.bfloat16), (0.95, torch.float32), (2.0, torch.float32)])
def test_bfloat16_is_chosen_where_it_is_clearly_faster(monkeypatch, coarse, expected):
    monkeypatch.setattr("transfer_nbs.hardware.measured_precisions", lambda device: dict(float32=1.0, bfloat16=coarse))
    assert choose_precision(CPU).dtype == expected


def test_the_layout_is_no_matter_of_measurement(monkeypatch):
    "The same for whatever was measured, and for evaluation: or the last bits of a result would follow from noise."
    layouts = set()
    for coarse in (0.5, 2.0):
        monkeypatch.setattr("transfer_nbs.hardware.measured_precisions", lambda device, coarse=coarse: dict(float32=1.0, bfloat16=coarse))
        for name in ("auto", "float32", "bfloat16"):
            chosen = choose_precision(CPU, precision=name)
            layouts |= {chosen.channels_last, chosen.exact.channels_last}
    assert layouts == {True}


def test_measuring_leaves_the_threads_and_the_dice_as_they_were():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    _measure_precisions(CPU)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_what_is_held_at_the_end_is_seen():
    "However short the block: 256 MiB are filled faster than the next look would come."
    with PeakMemory(CPU) as seen:
        held = torch.ones(2**26)
        at_the_end = psutil.Process().memory_info().rss / 2**20
    assert held[-1] == 1 and seen.peak_mb >= at_the_end - 1
