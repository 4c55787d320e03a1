"""What the tools have in common: the job they are given, the network they begin with, and the line they end with."""

import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as every tool's documentation has them


def read_job() -> dict:
    "The job whose file the driver names on the command line, its threads and its seed set."
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    return job


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    "The classifier of a network, which is its last linear layer, and its name."
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def load_weights(network: nn.Module, file: str) -> None:
    "Fill a network with weights. Raises ValueError where they lack anything but the classifier, or hold what the network has not."
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file
        tensors = load_file(file)
    else: tensors = torch.load(file, map_location="cpu", weights_only=True)
    classifier = last_linear(network)[0] + "."
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(classifier)}  # its classes are other ones
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.startswith(classifier) and not name.endswith("num_batches_tracked")]
    if missing or unexpected: raise ValueError(f"{file} does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def make_network(job: dict) -> nn.Module:
    "Torchvision's network with the job's weights, and a new classifier for the job's classes."
    network = torchvision.models.get_model(job["arch"], weights=None)
    load_weights(network, job["weights"])
    name, old = last_linear(network)
    network.set_submodule(name, nn.Linear(old.in_features, len(job["classes"])))
    return network


class Pictures(Dataset):
    "As torchvision's ImageFolder, of files and labels that are known already."
    def __init__(self, files: list[tuple[str, int]], transform):
        self.files, self.transform = files, transform

    def __len__(self): return len(self.files)

    def __getitem__(self, index):
        file, label = self.files[index]
        with open(file, "rb") as opened: return self.transform(Image.open(opened).convert("RGB")), label


class Clock:
    "Seconds since it was made."
    def __init__(self): self.start = time.perf_counter()

    def seconds(self) -> float: return time.perf_counter() - self.start


def report(
    job: dict,
    clock: Clock,
    *,
    accuracy: float,  # of the last validation
    validated: int,  # images in it
    trained_on: int,  # images of all epochs
    packages: tuple[str, ...] = (),  # whose versions to name, beside those that all tools use
    precision: str | None = None,  # computed with; None: as the job says
    note: str = "",
) -> None:
    "Print the result as one line of JSON."
    seconds = clock.seconds()
    versions = {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy", *packages)}
    print(json.dumps(dict(seconds=round(seconds, 3), accuracy=float(accuracy), validated=int(validated), trained_on=int(trained_on) // job["epochs"],
                          versions=versions, precision=precision or job["precision"], note=note)), flush=True)
