"""A small method and its data, for the engine's tests: phases, groups, teacher buffer, EMA, noise."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from hybridcascade.methods.base import Method, ParameterGroup
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

E, K, SIDE, N = 8, 3, 2, 24


class Toy(Method):
    """Frozen `backbone`, a text head, an image adapter, a teacher buffer made in `begin_phase`, an EMA."""

    name = "toy"
    phases = ("text", "image")
    needs = "unlabelled"

    def __init__(self, seed: int = 0, poison: str = "", hold: Path | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = nn.Linear(3 * SIDE * SIDE, E)
        self.head = nn.Linear(E, K)
        self.adapter = nn.Parameter(torch.zeros(E))
        self.gain = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            for parameter in (*self.backbone.parameters(), *self.head.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.register_buffer("teacher_probabilities", torch.zeros(0, K))
        self.register_buffer("teacher_ema", torch.zeros(E))
        self.register_buffer("refreshed", torch.zeros(N))
        self.seed, self.poison, self.hold = seed, poison, hold
        self.events: list[tuple] = []
        self.plain_seen: list[list[int]] = []
        self.python_side = 0.0  # left outside of the tensors by begin_phase

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        if phase == "text":
            return (ParameterGroup("head", ("head.weight", "head.bias")),)
        names = ("adapter", "backbone.bias") if self.poison == "backbone_bias" else ("adapter",)
        return (
            ParameterGroup("adapter", names, lr_scale=0.5, weight_decay=0.0),
            ParameterGroup("head", ("head.weight", "head.bias", "gain"), weight_decay=0.2),
        )

    def begin_phase(self, phase, plain, targets=None):
        self.events.append(("begin_phase", phase, plain is not None))
        self.python_side = float(self.head.weight.detach().sum())
        if phase == "text":
            return
        batches = list(plain)
        self.plain_seen.append([int(i) for b in batches for i in b.index])
        with torch.no_grad():
            self.teacher_probabilities = torch.cat([self(b.images).probabilities for b in batches])

    def begin_epoch(self, phase, epoch, plain):
        self.events.append(("begin_epoch", phase, epoch))
        if phase == "image" and epoch % 2 == 0:
            self.refreshed = torch.rand(N)  # from the global generator, on purpose

    def after_step(self, phase):
        self.events.append(("after_step", phase))
        self.teacher_ema.mul_(0.9).add_(self.adapter.detach(), alpha=0.1)
        if self.poison == "moves_frozen":
            self.backbone.weight.data.add_(1e-3)

    def training_loss(self, phase, batch, step):
        self.events.append(("step", phase, step))
        generator = torch.Generator().manual_seed(hash((self.seed, phase == "text", step)) % 2**31)
        if phase == "text":
            assert isinstance(batch, TextBatch)
            noisy = batch.features + 0.1 * torch.randn(batch.features.shape, generator=generator)
            loss = nn.functional.cross_entropy(self.head(noisy), batch.labels)
            if self.poison == "half_head":
                loss = loss.detach() + noisy.matmul(self.head.weight.T).square().mean()
            return LossReport(loss, {"norm": noisy.detach().norm()})
        assert isinstance(batch, UnlabeledBatch)
        self._maybe_hold(step)
        noise = 0.05 * torch.randn(batch.strong.shape, generator=generator)
        target = self.teacher_probabilities[batch.index]
        weight = 1 + self.refreshed[batch.index] + self.python_side / 100
        logits = self(batch.strong + noise).logits
        loss = -(weight * (target * logits.log_softmax(-1)).sum(-1)).mean()
        if self.poison == "nan" and step == 3:
            loss = loss * float("nan")
        if self.poison == "zero_grad_gain":
            loss = loss + 0 * self.gain
        return LossReport(loss, {"rows": float(batch.index.float().mean())})

    def forward(self, images):
        feature = self.backbone(images.flatten(1)).tanh() + self.adapter
        gain = self.gain.detach() if self.poison in ("zero_grad_gain", "no_grad_gain") else self.gain
        return Prediction(self.head(feature) * gain)

    def _maybe_hold(self, step: int) -> None:
        """In the kill test: say where we are, and wait for the signal."""
        if self.hold is not None and step == int(os.environ["TOY_HOLD_STEP"]):
            self.hold.write_text("here")
            signal.pause()


class Rows(Dataset):
    """Pictures from a seed; the strong view depends on (epoch, row) only, as the library's loaders do it."""

    def __init__(self, strong: bool) -> None:
        self.pixels = torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
        self.strong = strong

    def __getitem__(self, key):
        epoch, row = key if isinstance(key, tuple) else (0, key)
        generator = torch.Generator().manual_seed(1000 * epoch + row)
        return row, self.pixels[row], self.pixels[row] + 0.1 * torch.randn(3, SIDE, SIDE, generator=generator)

    def __len__(self):
        return N

    def collate(self, rows):
        index = torch.tensor([r[0] for r in rows])
        ids = tuple(str(r[0]) for r in rows)
        plain, strong = torch.stack([r[1] for r in rows]), torch.stack([r[2] for r in rows])
        return UnlabeledBatch(index, ids, plain, strong) if self.strong else ImageBatch(index, ids, plain)


class Epochs(Sampler):
    """Order by (seed, epoch); rank-aware, as the library's own sampler."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.epoch, self.orders = seed, 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _share(self):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def __len__(self):
        return N // self._share()[1]

    def __iter__(self):
        rank, world = self._share()
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.seed * 100 + self.epoch)).tolist()
        self.orders.append((self.epoch, order[rank::world]))
        return iter([(self.epoch, row) for row in order[rank::world]])


def train_loader(batch_size: int = 4, workers: int = 0) -> DataLoader:
    rows = Rows(strong=True)
    return DataLoader(rows, batch_size, sampler=Epochs(), collate_fn=rows.collate, num_workers=workers)


def shuffling_loader(batch_size: int = 4) -> DataLoader:
    """As a user would write it: the order comes from torch's global generator."""
    rows = Rows(strong=True)
    return DataLoader(rows, batch_size, shuffle=True, collate_fn=rows.collate)


def plain_loader() -> DataLoader:
    rows = Rows(strong=False)
    return DataLoader(rows, 5, collate_fn=rows.collate)


def texts() -> TextBatch:
    generator = torch.Generator().manual_seed(3)
    features = nn.functional.normalize(torch.randn(12, E, generator=generator), dim=1)
    return TextBatch(features, torch.arange(12) % K)


@dataclass(frozen=True)
class Numbers:
    """Numbers of a phase."""

    epochs: int = 3
    lr: float = 0.01
    weight_decay: float = 0.01
    schedule: str = "none"
    warmup_epochs: float = 3.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1


def both(text: int = 5, image: int = 3, **numbers) -> dict[str, Numbers]:
    """Numbers of both phases."""
    return {"text": Numbers(text, **numbers), "image": Numbers(image, **numbers)}
