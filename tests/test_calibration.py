"""The temperature, and what is said where it does not fit."""

import pytest
import torch
from bundles import untrained

from transfer_nbs.bundle import _model_card
from transfer_nbs.calibration import fit_temperature


def test_temperature_is_found():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.1)
    assert fit_temperature(logits * 0.4, labels) == pytest.approx(0.4, rel=0.1)
    assert fit_temperature(logits, logits.argmax(1)) == 1


def test_a_temperature_at_its_bound_is_told():
    generator = torch.Generator().manual_seed(1)
    logits, labels = 1000 * torch.randn(500, 4, generator=generator), torch.randint(0, 4, (500,), generator=generator)
    with pytest.warns(UserWarning, match="ended at 100, a bound of its search"): temperature = fit_temperature(logits, labels)
    card = _model_card(untrained("bn_eval", ("a", "b"), temperature=temperature, results={"valid": dict(accuracy=0.25, low=0.2, high=0.3, correct=1, images=4, calibration_error_before=0.1, calibration_error=0.1)}), title="any")
    assert "the probabilities are **not** calibrated" in card
