"""`train_step`: one optimiser step of the image phase, on a batch that is already decoded.

Ours are the library's own method classes on its own backbone, run as the engine runs them. The
reference is always LaFTer's step in fp32, with teacher and student computed in the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.floor import train_step_flops
from benchmarks.models import Models, class_pictures, distort, geometry, plain_tower
from benchmarks.reference import PlainLafter
from benchmarks.runner import Contest
from hybridcascade.engine.trained import declare
from hybridcascade.methods.base import Method
from hybridcascade.methods.hybrid_cascade import HybridCascade
from hybridcascade.methods.lafter import Lafter
from hybridcascade.types import ImageBatch, UnlabeledBatch

__all__ = ["OurStep", "make_batch", "make_method", "plain_lafter", "train_step_contests"]

LR, WEIGHT_DECAY = 5e-4, 0.01


def make_batch(size: int, pictures: int, seed: int = 0) -> UnlabeledBatch:
    """A batch of smooth random pictures in two views.

    Args:
        size: height and width in pixels.
        pictures: B.
        seed: of the draw.
    """
    plain = class_pictures(pictures, size, seed)
    names = tuple(str(i) for i in range(pictures))
    return UnlabeledBatch(torch.arange(pictures), names, plain, distort(plain, 0.3, seed + 1))


def make_method(kind: type[Method], backbone: Any, prompts: int, classes: int, **settings: Any) -> Method:
    """A method of the library on random class texts.

    Args:
        kind: `Lafter` or `HybridCascade`.
        backbone: its LayerNorms will be trained in place.
        prompts: M.
        classes: K.
        settings: of the method, where they differ from its defaults.
    """
    texts = F.normalize(torch.randn(classes, backbone.embed_dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    build: Callable[..., Method] = kind
    return build(
        backbone=backbone, text_features=texts, text_labels=torch.arange(classes), class_count=classes,
        seed=0, prompts=prompts, **settings,
    )  # fmt: skip


class OurStep:
    """Steps of a method as the engine takes them.

    Args:
        method: begun and opened for the image phase here.
        batch: the batch of every step.
    """

    def __init__(self, method: Method, batch: UnlabeledBatch) -> None:
        self.method = method
        self.batch = batch
        self.steps = 0
        method.requires_grad_(False)
        method.begin_phase("image", [ImageBatch(batch.index, batch.ids, batch.plain)])
        groups = [{"params": parameters} for _, parameters in declare(method, "image")]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)

    def loss(self) -> Tensor:
        """Loss of the batch."""
        return self.method.training_loss("image", self.batch, self.steps).loss

    def __call__(self, number: int = 0) -> float:
        """One step; returns its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.method.after_step("image")
        self.steps += 1
        return loss.item()


def plain_lafter(models: Models, method: Lafter) -> PlainLafter:
    """The reference, started where a `Lafter` method is."""
    prompts = method.prompts.tokens[0]
    return PlainLafter(plain_tower(models.exact), prompts, method.head.weight, LR, WEIGHT_DECAY)


def train_step_contests(models: Models, batch: int, prompts: int, classes: int, square: int) -> list[Contest]:
    """The contests of a model: our default method, and LaFTer computed exactly as the reference computes it.

    Args:
        models: the model.
        batch: B.
        prompts: M, for all programs.
        classes: K.
        square: for the matmul rate.
    """
    pictures = make_batch(models.ours.image_size, batch)
    sizes = geometry(models.ours)
    start = make_method(Lafter, models.exact, prompts, classes, preset="custom")
    assert isinstance(start, Lafter)
    reference = plain_lafter(models, start)

    def reference_step(number: int) -> float:
        return reference.step(pictures.plain, pictures.strong)

    def contest(name: str, method: Method, live_teacher: bool) -> Contest:
        return Contest(
            name=f"train_step/{models.name}/{name}",
            ours=OurStep(method, pictures),
            reference=reference_step,
            pictures=batch,
            flops=train_step_flops(sizes, batch, prompts, live_teacher),
            dtype=models.ours.compute_dtype,
            geometry=sizes,
            rows=batch * (1 + prompts + sizes.patches),
            square=square,
            facts={"model": models.name, "batch": batch, "prompts": prompts, "teacher": _TEACHER[live_teacher]},
        )

    # one after the other on the same backbone: only the LayerNorms' values change, not the work
    return [
        contest("hybrid_cascade", make_method(HybridCascade, models.ours, prompts, classes), False),
        contest("lafter_faithful", make_method(Lafter, models.ours, prompts, classes, preset="custom"), True),
    ]


_TEACHER = {True: "computed in every step", False: "computed once, before training"}
