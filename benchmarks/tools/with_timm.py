"""timm's own parts, put together as in its training script: its datasets, loaders, loss, freezing, optimizer and scheduler."""

import timm
import torch
from common import Clock, last_linear, load_weights, make_network, read_job, report
from timm.data import ImageDataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy, freeze, unfreeze
from torch import nn


def make_model(job: dict) -> nn.Module:
    """timm's model where torchvision's weights fit into one of the same name, which is so for the ResNets; else torchvision's network.

    timm's mobilenet_v2, for one, is called mobilenetv2_100 and names its tensors otherwise."""
    if timm.is_model(job["arch"]):
        model = timm.create_model(job["arch"], num_classes=len(job["classes"]))
        try: load_weights(model, job["weights"])
        except (ValueError, RuntimeError): pass  # other names or other shapes
        else: return model
    network = make_network(job)
    network.pretrained_cfg = dict(classifier=last_linear(network)[0])  # by which timm groups the layers of networks that it doesn't know
    return network


def make_loaders(job: dict) -> tuple:
    "timm's defaults: random crops, flips and colours, normalised batch by batch; to validate, centres."
    common = dict(input_size=(3, job["size"], job["size"]), batch_size=job["batch_size"], num_workers=job["workers"], device=torch.device("cpu"))
    return (create_loader(ImageDataset("", reader=job["train"]), is_training=True, **common),
            create_loader(ImageDataset("", reader=job["valid"]), **common))


def train_epoch(model: nn.Module, loader, optimizer: torch.optim.Optimizer, autocast: torch.autocast) -> int:
    "Train for one epoch; how many images."
    model.train()
    criterion, seen = LabelSmoothingCrossEntropy(smoothing=0.1), 0
    for images, labels in loader:
        with autocast: loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(labels)
    return seen


@torch.inference_mode()
def validate(model: nn.Module, loader, autocast: torch.autocast) -> AverageMeter:
    "Accuracy in per cent, and of how many images."
    model.eval()
    meter = AverageMeter()
    for images, labels in loader:
        with autocast: logits = model(images)
        meter.update(accuracy(logits, labels)[0].item(), len(labels))
    return meter


def main() -> None:
    "A body frozen by timm.utils for one epoch, then perhaps everything; AdamW 1e-3, then with lower rates for earlier layers, as the documentation shows both."
    job = read_job()
    model = make_model(job)
    clock, trained_on = Clock(), 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=job["precision"] == "bfloat16")
    train_loader, valid_loader = make_loaders(job)
    head = last_linear(model)[0].split(".")[0]
    body = [name for name, _ in model.named_children() if name != head]
    for epoch in range(job["epochs"]):
        if epoch == 0: freeze(model, body)
        else: unfreeze(model, body)
        optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.7 if epoch else None)
        scheduler, _ = create_scheduler_v2(optimizer, num_epochs=1, step_on_epochs=True)
        trained_on += train_epoch(model, train_loader, optimizer, autocast)
        scheduler.step(epoch + 1)
        meter = validate(model, valid_loader, autocast)
    report(job, clock, accuracy=meter.avg / 100, validated=meter.count, trained_on=trained_on, packages=("timm",),
           note="AdamW 1e-3" + ", then layer_decay 0.7" * (job["epochs"] > 1) + "; the last batch is dropped where it isn't full")


if __name__ == "__main__": main()
