"""The loop of the article, which is that of PyTorch's own transfer-learning tutorial."""

import torch
from common import MEAN, STD, Clock, Pictures, last_linear, make_network, read_job, report
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms


def make_loaders(job: dict) -> tuple[DataLoader, DataLoader]:
    "Random crops and flips to train on, the centres of the pictures to validate with."
    size, normalize = job["size"], transforms.Normalize(MEAN, STD)
    train = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
    valid = transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), transforms.ToTensor(), normalize])
    common = dict(batch_size=job["batch_size"], num_workers=job["workers"])
    return DataLoader(Pictures(job["train"], train), shuffle=True, **common), DataLoader(Pictures(job["valid"], valid), **common)


def run_epoch(model: nn.Module, loader: DataLoader, job: dict, optimizer: torch.optim.Optimizer | None = None) -> tuple[int, int]:
    "Train for one epoch, or validate where there is no optimizer; how many images were right, and how many there were."
    model.train(optimizer is not None)
    loss_sum, correct, seen = 0.0, 0, 0
    for images, labels in loader:
        with torch.set_grad_enabled(optimizer is not None):
            with torch.autocast("cpu", torch.bfloat16, enabled=job["precision"] == "bfloat16"):
                logits = model(images)
                loss = nn.functional.cross_entropy(logits, labels)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return correct, seen


def main() -> None:
    "A frozen body for one epoch, then perhaps everything, the body at a hundredth of the head's rate."
    job = read_job()
    model = make_network(job)
    clock, trained_on = Clock(), 0
    train_loader, valid_loader = make_loaders(job)
    head = list(last_linear(model)[1].parameters())
    body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
    for epoch in range(job["epochs"]):
        for parameter in body: parameter.requires_grad_(epoch > 0)
        groups = [dict(params=head, lr=1e-3)] + [dict(params=body, lr=1e-5)] * (epoch > 0)
        trained_on += run_epoch(model, train_loader, job, torch.optim.Adam(groups))[1]
        correct, validated = run_epoch(model, valid_loader, job)
    report(job, clock, accuracy=correct / validated, validated=validated, trained_on=trained_on,
           note="Adam, head 1e-3" + ", body 1e-5" * (job["epochs"] > 1))


if __name__ == "__main__": main()
