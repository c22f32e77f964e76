"""Neighbour smoothing: pictures that look alike should have labels alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hybridcascade.errors import SettingsError

__all__ = ["nearest_neighbours", "neighbour_mean", "smooth_by_neighbours"]


def nearest_neighbours(features: Tensor, count: int, chunk_cells: int = 2**24) -> tuple[Tensor, Tensor]:
    """Find the nearest other pictures by cosine, some rows at a time.

    Args:
        features: `[N, E]`, of any length; a zero row has cosine 0 with all.
        count: neighbours of a picture, at least 1; at most N - 1 are there.
        chunk_cells: at most so many cosines are held at once (but at least one row of them).

    Returns:
        Cosines `[N, n]` in float32 from high to low, and rows `[N, n]` in int64, with
        `n = min(count, N - 1)`. A picture is not its own neighbour; a copy of it can be.

    Raises:
        SettingsError: `count` is below 1.
    """
    if count < 1:
        raise SettingsError(f"expected at least one neighbour, got {count}")
    total = len(features)
    units = functional.normalize(features.float(), dim=1)
    kept = min(count, total - 1)
    cosines, rows = units.new_empty(total, kept), torch.empty(total, kept, dtype=torch.long, device=units.device)
    step = max(1, chunk_cells // max(total, 1))
    for start in range(0, total, step):
        part = units[start : start + step] @ units.T
        own = torch.arange(len(part), device=part.device)
        part[own, start + own] = -torch.inf
        cosines[start : start + step], rows[start : start + step] = part.topk(kept, dim=1)
    return cosines, rows


def neighbour_mean(values: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weighted mean of the neighbours' values, `[N, K]`.

    Args:
        values: `[N, K]`.
        rows: neighbours of each picture, int64 `[N, n]`.
        weights: of each neighbour, not negative, `[N, n]`; None for equal ones. Where they are all 0 the
            picture keeps its own value.
    """
    if weights is None:
        weights = torch.ones(rows.shape, device=values.device)
    weights = weights.to(values.dtype)
    sums = weights.sum(dim=1, keepdim=True)
    mean = torch.zeros_like(values)
    for number in range(rows.shape[1]):  # never [N, n, K] at once
        mean.addcmul_(weights[:, number, None], values[rows[:, number]])
    return torch.where(sums > 0, mean / sums.clamp_min(torch.finfo(values.dtype).tiny), values)


def smooth_by_neighbours(
    probabilities: Tensor, rows: Tensor, share: float = 0.5, rounds: int = 1, weights: Tensor | None = None
) -> Tensor:
    """Mix each prediction with the mean of its neighbours': `p <- (1 - a) p + a mean_j p_j`.

    It assumes nothing about class shares: it does not fall below zero-shot when classes are missing or
    rare, as long as neighbours mostly share their class.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        rows: neighbours of each picture, int64 `[N, n]`, see `nearest_neighbours`.
        share: a, the neighbours' part, in `[0, 1]`.
        rounds: how often, at least 0; each round reaches one neighbour further.
        weights: of each neighbour, see `neighbour_mean`.

    Returns:
        Smoothed predictions in the dtype of `probabilities`, rows sum to 1.

    Raises:
        SettingsError: a number is out of range.

    Source: the diffusion step of label propagation (Zhou et al., NIPS 2003; ZLaP, CVPR 2024), cut short.
    """
    if not 0 <= share <= 1 or rounds < 0:
        raise SettingsError(f"expected a neighbour share in [0, 1] and no negative rounds, got {share} and {rounds}")
    smoothed = probabilities.double()
    for _ in range(rounds):
        smoothed = smoothed.lerp(neighbour_mean(smoothed, rows, weights), share)
    return smoothed.to(probabilities.dtype)
