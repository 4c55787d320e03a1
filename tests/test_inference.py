"""An image from anywhere gets the answer that validation would have given it."""

import gc
import io
import pickle
import threading
import weakref
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from bundles import untrained

from transfer_nbs.bundle import load_bundle, make_bundle
from transfer_nbs.compare import CompareSettings
from transfer_nbs.recipes import RECIPES, build_model
from transfer_nbs.data import make_loaders
from transfer_nbs.images import open_image
from transfer_nbs.hardware import choose_precision
from transfer_nbs.inference import image_batches, ready_copy
from transfer_nbs.fusion import inference_copy


CPU = torch.device("cpu")


def test_preparation_is_that_of_validation(figures, trained):
    "Images and logits of a loaded bundle and of a validation pass in float32 are equal to the bit."
    (folder, table), (result, bundle) = figures, trained
    _, loader = make_loaders(table, folder, result.spec)
    files = [folder / file for file in table["file"][table["split"] == "valid"]]
    for (images, _), (kept, mine, errors) in zip(loader, image_batches(files, result.spec), strict=True):
        assert torch.equal(images, mine) and kept == list(range(len(mine))) and not errors
    precision = choose_precision(CPU, precision="float32")
    fused = inference_copy(result.model, precision=precision)
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    with torch.no_grad(): expected = torch.cat([fused(images.to(memory_format=layout)) for images, _ in loader])
    assert torch.equal(bundle.logits(files, device="cpu")[0], expected)


def test_pictures_in_memory_and_in_files_are_the_same(saved, inbox, tmp_path):
    bundle, picture = load_bundle(saved), open_image(inbox / "a.jpg").resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    picture.save(tmp_path / "upright.png")
    ways = [tmp_path / "turned.png", Image.open(tmp_path / "turned.png"), str(tmp_path / "upright.png"), picture]
    _, images, errors = next(image_batches(ways, bundle.spec))
    assert not errors and all(torch.equal(image, images[0]) for image in images)
    table = bundle.predict(ways)
    np.testing.assert_allclose(table, table.iloc[[0] * 4], atol=1e-6)
    assert list(table.index) == [str(tmp_path / "turned.png"), str(tmp_path / "turned.png"), str(tmp_path / "upright.png"), "image 3"]


def arrays(picture):
    "An image as arrays of all kinds, and as the PIL image that each of them is."
    grey, opaque = picture.convert("L"), picture.convert("RGBA")
    opaque.putalpha(grey)
    bits = grey.point(lambda value: 255 * (value > 128), "1")
    reversed_rows = np.asarray(picture)[::-1][::-1]
    return [(np.asarray(mode), mode) for mode in (picture, grey, opaque, bits)] + [(reversed_rows, picture), (np.asfortranarray(picture), picture)]


def test_images_from_memory_are_those_of_their_files(saved, inbox):
    bundle, path = load_bundle(saved), inbox / "a.jpg"
    content = path.read_bytes()
    used = io.BytesIO(content)
    used.read()  # whoever wrote an image into it left it at its end
    expected = bundle.predict(path).to_numpy()
    with open(path, "rb") as file:
        ways = [content, bytearray(content), memoryview(content), io.BytesIO(content), used, file, path, str(path)]
        for way in ways: np.testing.assert_array_equal(bundle.predict(way), expected, type(way).__name__)
        together = bundle.predict(iter(ways))
    np.testing.assert_allclose(together, expected.repeat(len(ways), 0), atol=1e-6)
    assert list(together.index) == [*(f"image {number}" for number in range(6)), str(path), str(path)]
    for array, picture in arrays(open_image(path)): np.testing.assert_array_equal(bundle.predict(array), bundle.predict(picture))
    np.testing.assert_allclose(bundle.predict(np.array([str(path)] * 2)), expected.repeat(2, 0), atol=1e-6)


def test_one_open_file_for_many_threads(saved, inbox):
    file = io.BytesIO((inbox / "a.jpg").read_bytes())
    assert not load_bundle(saved).predict([file] * 40).attrs["errors"]


def test_broken_images_in_memory_are_rows(saved, inbox):
    content, bundle = (inbox / "a.jpg").read_bytes(), load_bundle(saved)
    class Failing:
        def read(self): raise RuntimeError("the camera was unplugged")
    closed = io.BytesIO(content)
    closed.close()
    table = bundle.predict([content, b"", content[:500], b"<html>", Failing(), closed])
    errors = table.attrs["errors"]
    assert sorted(errors) == [1, 2, 3, 4, 5] and table.iloc[0].notna().all() and table.iloc[1:].isna().all(axis=None)
    assert "the camera was unplugged" in errors[4] and all("BytesIO" not in line and len(line) < 200 for line in errors.values())


STRANGE = {
    "float32": (np.zeros((4, 4, 3), np.float32), "an array of float32 is no image: give uint8"), "int64": (np.zeros((4, 4), int), "an array of int64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "channels come last, as array.transpose(1, 2, 0)"), "many": (np.zeros((2, 8, 8, 3), np.uint8), "give a list"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "shape (8, 8, 2)"), "nothing": (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
    "a tensor": (torch.zeros(3, 8, 8), "Tensor is no image"), "a number": (5, "int is no image"), "None": (None, "NoneType is no image"),
    "a dictionary": ({"image": b""}, "dict is no image"), "text": (io.StringIO("x"), "open it with mode 'rb'"), "a class": (Image.Image, "type is no image"),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_image_is_named(name, several, saved):
    given, words = STRANGE[name]
    with pytest.raises((TypeError, ValueError)) as refused: load_bundle(saved).predict([b"an image", given] if several else given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_network_is_made_ready_once(trained, inbox, monkeypatch):
    made = []
    def count(*given, **options):
        made.append(1)
        return inference_copy(*given, **options)
    monkeypatch.setattr("transfer_nbs.inference.inference_copy", count)
    bundle = untrained("bn_eval", ("a", "b"))
    for _ in range(3): bundle.predict(inbox / "a.jpg", device="cpu")
    replace(bundle, temperature=2.0).predict(inbox / "a.jpg", device="cpu")
    assert len(made) == 1
    for again in (pickle.loads(pickle.dumps(bundle)), deepcopy(bundle)):  # which bring no copy along, and make their own
        again.predict(inbox / "a.jpg", device="cpu")
        again.predict(inbox / "a.jpg", device="cpu")
    assert len(made) == 3


def write_through_data(model): model.head.linear.bias.data[0] += 1
def write_numpy(model): model.head.linear.weight.detach().numpy()[:] += 0.1


def write_under_no_grad(model):
    with torch.no_grad(): model.body.conv1.weight.mul_(1.5)


def load_other(model): model.load_state_dict(untrained("bn_eval", ("c", "d", "e")).model.state_dict() | {"body.bn1.bias": torch.ones(64)})
def other_head(model): model.head = build_model(RECIPES["bn_eval"], CompareSettings(size=32, device="cpu"), num_classes=3, seed=9).head
def move_statistics(model): model.body.bn1.running_mean += 1


def train(model):
    model.train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


@pytest.mark.parametrize("change", [write_through_data, write_numpy, write_under_no_grad, load_other, other_head, move_statistics, train])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_changed_weights_change_the_answer(change, layout, inbox):
    bundle = untrained("bn_eval", ("a", "b", "c"))
    bundle.model.to(memory_format=layout)
    before = bundle.logits([inbox / "a.jpg"], device="cpu")[0]
    change(bundle.model)
    after = bundle.logits([inbox / "a.jpg"], device="cpu")[0]
    assert not torch.equal(before, after)
    assert torch.equal(after, replace(bundle, model=deepcopy(bundle.model)).logits([inbox / "a.jpg"], device="cpu")[0])


def test_threads_may_predict_at_once(inbox):
    bundle, answers = untrained("bn_eval", ("a", "b")), []
    threads = [threading.Thread(target=lambda: answers.append(bundle.predict(inbox / "a.jpg", device="cpu").to_numpy())) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(answers) == 8 and all(np.array_equal(answer, answers[0]) for answer in answers)


def test_the_copy_goes_with_its_model_and_after_a_training(figures, trained, monkeypatch):
    import transfer_nbs.inference as module
    (folder, table), (result, _) = figures, trained
    make_bundle(result.model, result.spec, recipe=RECIPES["deeper_head"], settings=dict(arch="resnet18"), table=table, folder=folder)
    assert result.model not in module._ready
    bundle = untrained("bn_eval", ("a", "b"))
    copy = weakref.ref(ready_copy(bundle.model, CPU))
    del bundle
    gc.collect()
    assert copy() is None
