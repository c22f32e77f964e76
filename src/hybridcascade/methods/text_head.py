"""The text stage that several methods begin with: a head learns classes from noisy text features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridcascade.cascade.losses import soft_cross_entropy
from hybridcascade.methods.parts import seeded_generator
from hybridcascade.types import LossReport, TextBatch, UnlabeledBatch

__all__ = ["as_texts", "noisy_text_loss", "text_noise"]


def text_noise(features: Tensor, std: float, seed: int, step: int) -> Tensor:
    """Draw the noise of one step, `[T, E]`, from (seed, `"text"`, step) on the features' device.

    Args:
        features: gives shape and device.
        std: standard deviation in each dimension; the norm of the noise is about `std * sqrt(E)`.
        seed: of the run.
        step: optimiser steps done in the text phase.
    """
    generator = seeded_generator(seed, "text", step, device=features.device)
    return std * torch.randn(features.shape, generator=generator, device=features.device)


def noisy_text_loss(
    head: nn.Module, batch: TextBatch, *, noise_std: float, smoothing: float, seed: int, step: int
) -> LossReport:
    """Loss of the text stage: cross-entropy of the head on text features plus Gaussian noise.

    The noise stands for the gap between texts and pictures; LaFTer does not renormalise after it.

    Args:
        head: `[T, E]` to `[T, K]`.
        batch: all texts.
        noise_std: see `text_noise`.
        smoothing: share of the uniform distribution in the target.
        seed: of the run.
        step: optimiser steps done in the text phase.
    """
    features = batch.features.float()
    logits = head(features + text_noise(features, noise_std, seed, step))
    loss = soft_cross_entropy(logits, batch.labels, smoothing)
    accuracy = (logits.detach().argmax(dim=-1) == batch.labels).float().mean()
    return LossReport(loss, {"text_loss": loss.detach(), "text_accuracy": accuracy})


def as_texts(batch: UnlabeledBatch | TextBatch) -> TextBatch:
    """Return `batch` as the text batch that the text phase must get.

    Raises:
        TypeError: it is a batch of pictures.
    """
    if not isinstance(batch, TextBatch):
        raise TypeError(f"the text phase expects a TextBatch, got {type(batch).__name__}")
    return batch
