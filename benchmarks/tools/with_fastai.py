"""fastai as its vision tutorial has it: ImageDataLoaders, vision_learner, and fit_one_cycle or fine_tune."""

import pandas as pd
from common import Clock, make_network, read_job, report
from fastai.vision.all import (Callback, CategoryBlock, ImageDataLoaders, Resize, accuracy, aug_transforms, default_device, has_pool_type, imagenet_stats,
                               model_meta, models, vision_learner)
from fastai.vision.learner import default_split
from torch import nn


class CountImages(Callback):
    "How many images were trained on, and validated in the last validation."
    def before_fit(self): self.trained_on = getattr(self, "trained_on", 0)

    def before_validate(self): self.validated = 0

    def after_batch(self):
        if self.training: self.trained_on += len(self.yb[0])
        else: self.validated += len(self.yb[0])


def make_dataloaders(job: dict) -> ImageDataLoaders:
    "The tutorial resizes to 460 px first where pictures are large; to the final size at once is its other, faster way."
    table = pd.DataFrame([(file, job["classes"][label], side == "valid") for side in ("train", "valid") for file, label in job[side]],
                         columns=["file", "class", "valid"])
    return ImageDataLoaders.from_df(table, path="/", valid_col="valid", y_block=CategoryBlock(vocab=job["classes"]), item_tfms=Resize(job["size"]),
                                    batch_tfms=aug_transforms(), bs=job["batch_size"], num_workers=job["workers"], seed=job["seed"])


def describe(network: nn.Module, arch: str) -> dict:
    "Where fastai cuts and groups this network: as it knows itself, or else before the pooling, or the classifier where the pooling is no module."
    known = model_meta.get(getattr(models, arch, None))
    if known: return dict(cut=known["cut"], split=known["split"], stats=imagenet_stats)
    return dict(cut=None if any(has_pool_type(child) for child in network.children()) else -1, split=default_split, stats=imagenet_stats)


def main() -> None:
    "fit_one_cycle on the frozen body at fine_tune's rate for it, or fine_tune itself."
    job = read_job()
    default_device(False)  # the CPU, as for all tools
    network = make_network(job)
    def arch(pretrained): return network
    model_meta[arch] = describe(network, job["arch"])  # where it looks; vision_learner ignores its own `cut`
    clock, counter = Clock(), CountImages()
    dls = make_dataloaders(job)
    learn = vision_learner(dls, arch, metrics=accuracy, cbs=counter)
    with learn.no_bar(), learn.no_logging():
        if job["epochs"] == 1: learn.fit_one_cycle(1, slice(2e-3), pct_start=0.99)  # as fine_tune begins
        else: learn.fine_tune(1)
    note = "default head, rate 2e-3 as in fine_tune"
    if job["precision"] != "float32": note += "; float32, since its MixedPrecision asks for CUDA's autocast"
    report(job, clock, accuracy=learn.recorder.values[-1][-1], validated=counter.validated, trained_on=counter.trained_on,
           packages=("fastai", "fastcore"), precision="float32", note=note)


if __name__ == "__main__": main()
