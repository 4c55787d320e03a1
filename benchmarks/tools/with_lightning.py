"""Lightning as the documentation of its BackboneFinetuning has it, or as its page on transfer learning has a frozen body."""

import logging
import warnings

import torch
from common import MEAN, STD, Clock, Pictures, last_linear, make_network, read_job, report
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms


class Classifier(LightningModule):
    "A backbone and a head, named as the callback demands."
    def __init__(self, network: nn.Module, *, fixed: bool):
        super().__init__()
        name, self.head = last_linear(network)
        network.set_submodule(name, nn.Identity())
        self.backbone, self.fixed = network, fixed
        self.trained_on = self.validated = self.correct = 0

    def forward(self, images):
        if not self.fixed: return self.head(self.backbone(images))
        self.backbone.eval()
        with torch.no_grad(): features = self.backbone(images)
        return self.head(features)

    def training_step(self, batch, _):
        images, labels = batch
        self.trained_on += len(labels)
        return nn.functional.cross_entropy(self(images), labels)

    def on_validation_epoch_start(self): self.validated = self.correct = 0

    def validation_step(self, batch, _):
        images, labels = batch
        logits = self(images)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))
        self.correct += (logits.argmax(1) == labels).sum().item()
        self.validated += len(labels)

    def configure_optimizers(self): return torch.optim.Adam(self.head.parameters(), lr=1e-3)  # the callback adds the backbone


def make_loaders(job: dict) -> tuple[DataLoader, DataLoader]:
    "The transforms of Lightning's own example of fine-tuning: each picture squeezed into a square, half of them mirrored in training."
    resize, last = transforms.Resize((job["size"], job["size"])), [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train = transforms.Compose([resize, transforms.RandomHorizontalFlip(), *last])
    common = dict(batch_size=job["batch_size"], num_workers=job["workers"])
    return (DataLoader(Pictures(job["train"], train), shuffle=True, **common),
            DataLoader(Pictures(job["valid"], transforms.Compose([resize, *last])), **common))


def main() -> None:
    "One epoch with a frozen backbone, then perhaps one with everything. What would only cost time (logs, checkpoints, bars) is switched off."
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    job = read_job()
    fixed = job["way"] == "no_grad"
    model = Classifier(make_network(job), fixed=fixed)
    clock = Clock()
    trainer = Trainer(max_epochs=job["epochs"], accelerator="cpu", precision="bf16-mixed" if job["precision"] == "bfloat16" else "32-true",
                      callbacks=[] if fixed else [BackboneFinetuning(unfreeze_backbone_at_epoch=1)], logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
    trainer.fit(model, *make_loaders(job))
    report(job, clock, accuracy=model.correct / model.validated, validated=model.validated, trained_on=model.trained_on, packages=("lightning",),
           note="Adam, head 1e-3" + ", backbone 1e-4" * (job["epochs"] > 1)
           + ("" if fixed else "; the callback leaves the BN layers of a frozen backbone trainable, so it computes all gradients"))


if __name__ == "__main__": main()
