"""ONNX files that agree with PyTorch, or none."""

import json
import sys

import numpy as np
import pytest
import torch
from bundles import untrained

from transfer_nbs.bundle import load_bundle, save_bundle
from transfer_nbs.export import export_onnx
from transfer_nbs.inference import image_batches


@pytest.mark.parametrize("recipe", ["bn_eval", "deeper_head"])
def test_onnx_agrees(recipe, figures, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx isn't installed")
    pytest.importorskip("onnxscript", reason="the extra onnx isn't installed")
    files = sorted(figures[0].glob("*/*.jpg"))
    path = save_bundle(untrained(recipe, ("b", "a", "c"), temperature=1.5), tmp_path / "bundle")
    assert export_onnx(path, files) <= 1e-4
    session = onnxruntime.InferenceSession(path / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == ["b", "a", "c"] and json.loads(facts["temperature"]) == 1.5
    bundle = load_bundle(path)
    for count in (1, 2, 5):
        images = next(image_batches(files[:count], bundle.spec))[1].contiguous().numpy()
        np.testing.assert_allclose(session.run(None, {"images": images})[0], bundle.logits(files[:count], device="cpu")[0], atol=1e-4)
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "bundle.json", "README.md", "model.onnx"}
    assert [place.name for place in tmp_path.iterdir()] == ["bundle"]


def test_onnx_that_disagrees_is_refused(figures, tmp_path, monkeypatch):
    "The exporter is given a model of other weights."
    pytest.importorskip("onnxruntime", reason="the extra onnx isn't installed")
    pytest.importorskip("onnxscript", reason="the extra onnx isn't installed")
    export = torch.onnx.export
    def wrong(model, *arguments, **options):
        other = untrained("bn_eval", ("a", "b")).model.eval()
        other.load_state_dict(model.state_dict())
        other.head.linear.bias.data += 0.001
        return export(other, *arguments, **options)
    path = save_bundle(untrained("bn_eval", ("a", "b")), tmp_path / "bundle")
    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(ValueError, match="model.onnx was not written"): export_onnx(path, sorted(figures[0].glob("*/*.jpg"))[:4])
    assert not (path / "model.onnx").exists()


def test_onnx_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"transfer_nbs\[onnx\]"): export_onnx(saved, [])
