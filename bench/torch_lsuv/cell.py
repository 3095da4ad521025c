"""One cell of the study: a net, an initialiser, a seed; trained in a process of its own.

Read next: bench/torch_lsuv/study_nets.py, the nets.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from bench.common.contest import Setting
from bench.torch_lsuv.package import imported
from bench.torch_lsuv.study_nets import NETS
from engine.data import load


class Cell:
    """The contestant that trains. settings: those of study.py; data_dir: where CIFAR-10 lies;
    package: the folder of the package lsuv, for init "package"."""

    def __init__(self, entry: Setting, settings: dict, data_dir: str | None, package: str | None):
        torch.set_num_threads(entry.threads)
        self.settings, self.package = settings, package
        train = load("cifar10", data_dir, settings["images"]).train
        x = torch.from_numpy(np.ascontiguousarray(train.images.transpose(0, 3, 1, 2))).float()
        self.x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
        self.labels = torch.from_numpy(train.labels).long()

    def train(self, net: str, init: str, seed: int) -> list[float | None]:
        """The training loss before the first epoch and after each: None, and nothing after it,
        where it is not finite."""
        s = self.settings
        torch.manual_seed(seed)
        model = NETS[net]()
        self.initialise(model, init, seed)
        if net in s["adamw"]:
            optimizer = torch.optim.AdamW(model.parameters(), s["rates"][net])
        else:
            optimizer = torch.optim.SGD(model.parameters(), s["rates"][net], s["momentum"])
        batches = len(self.x) // s["batch"]
        steps = s["epochs"] * batches
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        rng, losses = np.random.default_rng(seed), [self.loss(model)]
        for _ in range(s["epochs"]):
            order = torch.from_numpy(rng.permutation(len(self.x)))
            for rows in order[: batches * s["batch"]].split(s["batch"]):
                optimizer.zero_grad()
                F.cross_entropy(model(self.x[rows]), self.labels[rows]).backward()
                optimizer.step()
                falling.step()
            losses.append(self.loss(model))
            if losses[-1] is None:
                break
        return losses

    def initialise(self, model, init: str, seed: int) -> None:
        batch = self.x[: self.settings["init_images"]]
        if init == "package":
            imported(self.package).lsuv_with_singlebatch(model, batch, verbose=False)
        elif init == "ours":
            import lsuv.torch

            lsuv.torch.init(model, batch, seed=seed)

    def loss(self, model) -> float | None:
        """The mean over the first images of the training set, in evaluation mode."""
        n = self.settings["judged"]
        model.eval()
        with torch.no_grad():
            scores = torch.cat([model(x) for x in self.x[:n].split(250)])
            loss = float(F.cross_entropy(scores, self.labels[:n]))
        model.train()
        return loss if math.isfinite(loss) else None
