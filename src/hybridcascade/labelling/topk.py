"""Pseudo-labels from the most confident pictures of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError

__all__ = ["topk_labels"]

_COLUMNS = 64
"""Classes sorted at once; bounds the memory to `64 N` sorted entries."""


def topk_labels(probabilities: Tensor, per_class: float = 16, predicted_only: bool = False) -> tuple[Tensor, Tensor]:
    """Label the most confident pictures of each class; the others weigh nothing.

    A picture that several classes choose goes to the one that is surest of it; the class that loses it
    gets no other in its place. Every class chooses alike, so classes that are missing from the pictures
    get pictures too, fewer with `predicted_only`: with classes missing the labels that count are mostly
    wrong, far below zero-shot.

    Args:
        probabilities: `[N, K]`.
        per_class: pictures a class chooses: a whole number of at least 1, or below 1 a share of N / K
            (at least one picture then). A class with fewer candidates takes those.
        predicted_only: a class chooses among the pictures that it is the first maximum of (UPL) and not
            among all (GRIP).

    Returns:
        Labels, float32 `[N, K]`, all mass on one class: the choosing one, or the first maximum where none
        chose. Weights, float32 `[N]`: 1 where chosen, else 0.

    Raises:
        SettingsError: `per_class` is neither a share nor a whole number.

    Source: UPL (Huang et al., 2022); FPL and GRIP (Menghini et al., NeurIPS 2023); shares of N / K: NoLA.
    """
    total, classes = probabilities.shape
    if not per_class > 0 or (per_class >= 1 and per_class != int(per_class)):
        raise SettingsError(f"expected per_class to be a whole number from 1 or a share in (0, 1), got {per_class}")
    count = max(1, round(per_class * total / classes)) if per_class < 1 else int(per_class)
    count = min(count, total)
    favourite = probabilities.argmax(dim=1)
    scores = probabilities.double()
    best = torch.full((total,), -torch.inf, dtype=torch.float64, device=scores.device)
    chosen = favourite.clone()
    for start in range(0, classes, _COLUMNS):
        part = scores[:, start : start + _COLUMNS]
        if predicted_only:
            numbers = torch.arange(start, start + part.shape[1], device=part.device)
            part = part.masked_fill(favourite[:, None] != numbers, -torch.inf)
        values, rows = part.sort(dim=0, descending=True, stable=True)
        for column in range(part.shape[1]):
            value, row = values[:count, column], rows[:count, column]
            wins = value > best[row]  # the first class wins a tie
            best[row[wins]], chosen[row[wins]] = value[wins], start + column
    labels = torch.zeros(total, classes, device=scores.device).scatter_(1, chosen[:, None], 1.0)
    return labels, (best > -torch.inf).float()
