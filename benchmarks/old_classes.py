"""How far a pretrained network gets on classes that it already had, with its own classifier and without any training.

    python benchmarks/old_classes.py PHOTOGRAPHS/hymenoptera mobilenet_v2_imagenet.pth --out nbs/results/hymenoptera/old_classes.json

The classes of a folder are looked up by name among ImageNet's (ant and bee for ants and bees), and only their logits are compared."""

import json
from pathlib import Path

import torch
from fastcore.script import call_parse
from torchvision import models

from transfer_nbs.weight_files import read_weights
from transfer_nbs.named_weights import colour_statistics
from transfer_nbs.files import check_writable
from transfer_nbs.intervals import accuracy_interval
from transfer_nbs.data import make_loaders, read_folder
from transfer_nbs.views import ImageSpec
from transfer_nbs.console import user_errors
from transfer_nbs.files import write_file
from transfer_nbs.hardware import describe_environment
from transfer_nbs.training import evaluate


class OldClasses(torch.nn.Module):
    "A network that answers with the logits of some of its classes."
    def __init__(self, network: torch.nn.Module, classes: list[int]):
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, images: torch.Tensor) -> torch.Tensor: return self.network(images)[:, self.classes]


@call_parse
def old_classes(
    folder: str,  # folder of images, as for transfer_compare
    weights: str,  # a file with the state_dict of torchvision's network, classifier included
    arch: str = "mobilenet_v2",  # a classification network of torchvision
    size: int = 224,  # height and width for the network, pixels
    out: str = "runs/old_classes.json",  # file for the result
):
    "Accuracy on the validation images of a folder, by the network's own answers."
    with user_errors("old_classes"):
        check_writable(Path(out).parent)
        table, known = read_folder(folder), models.get_model_weights(arch).DEFAULT.meta["categories"]
        names = sorted(set(table["class"]))
        missing = [name for name in names if name.removesuffix("s") not in known]
        if missing: raise ValueError(f"{missing[0]} is none of the classes that {arch} was trained on")
        mean, std = colour_statistics(arch)
        network = models.get_model(arch)
        try: network.load_state_dict(read_weights(weights))
        except RuntimeError: raise ValueError(f"the weights in {weights} are not those of a whole {arch}, classifier included") from None
        _, loader = make_loaders(table, folder, ImageSpec(tuple(names), size=size, mean=mean, std=std))
        correct = evaluate(OldClasses(network, [known.index(name.removesuffix("s")) for name in names]), loader).correct
        accuracy, low, high = accuracy_interval(correct[None])
        write_file(Path(out), json.dumps(dict(classes=names, correct=int(correct.sum()), images=len(correct), accuracy=round(accuracy, 4), low=round(low, 4), high=round(high, 4),
                                              arch=arch, size=size, environment=describe_environment()), indent=1) + "\n")
        print(f"{correct.sum()} of {len(correct)} right, {accuracy:.3f} [{low:.3f}, {high:.3f}]")
