"""The plainest pseudo-labels: the teacher's favourite class."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["argmax_labels"]


def argmax_labels(logits: Tensor) -> Tensor:
    """Return all mass on the first maximum, float32 `[N, K]`.

    Args:
        logits: scores or probabilities, `[N, K]`.
    """
    labels = torch.zeros(logits.shape, dtype=torch.float32, device=logits.device)
    return labels.scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
