"""Shape soft labels by what is known about the classes: which are near each other, which oppose each other.

Both are off at strength 0 and never forbid a class: a picture that evokes opposite emotions keeps both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError

__all__ = ["gate_polarity", "spread_to_near"]


def spread_to_near(labels: Tensor, near: Tensor, strength: float) -> Tensor:
    """Give each class's share partly to the classes near it: `(1 - s) q + s q A`.

    Args:
        labels: q, rows sum to 1, `[N, K]`.
        near: A, the distribution that each class stands for, rows sum to 1, `[K, K]`; such as a wheel's prior.
        strength: s in `[0, 1]`; 0 changes nothing.

    Returns:
        Labels, `[N, K]`, rows sum to 1.

    Raises:
        SettingsError: the strength is out of range, or `near` is no matrix of distributions over these classes.
    """
    _check_range("wheel", strength, 1.0)
    count = labels.shape[1]
    matrix = near.to(labels.device, labels.dtype)
    if matrix.shape != (count, count) or not torch.allclose(matrix.sum(dim=1), matrix.new_ones(count), atol=1e-4):
        raise SettingsError(f"expected a matrix of {count} distributions over {count} classes, got {tuple(near.shape)}")
    return (1 - strength) * labels + strength * labels @ matrix


def gate_polarity(labels: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Take from the side, pleasant or unpleasant, that a label says less of: a soft gate.

    With g the larger and h the smaller of the two sides' masses, each class of the smaller side is multiplied
    by `(h / g)^strength`; classes that are neither stay; then rows are normalised.

    Args:
        labels: rows sum to 1, `[N, K]`.
        signs: 1 pleasant, -1 unpleasant, 0 neither, `[K]`.
        strength: 0 or above; 0 changes nothing.

    Returns:
        Labels, `[N, K]`, rows sum to 1.

    Raises:
        SettingsError: the strength is negative, or there is not one sign a class.
    """
    _check_range("polarity_gate", strength, float("inf"))
    if signs.shape != labels.shape[1:]:
        raise SettingsError(f"expected one polarity for each of {labels.shape[1]} classes, got {tuple(signs.shape)}")
    if strength == 0:
        return labels
    sides = torch.stack([signs > 0, signs < 0]).to(labels.device, labels.dtype)  # [2, K]
    mass = labels @ sides.T
    factor = (mass / mass.amax(dim=1, keepdim=True).clamp_min(1e-12)).clamp_min(1e-12) ** strength
    gated = labels * (factor @ sides + (1 - sides.sum(dim=0)))
    return gated / gated.sum(dim=1, keepdim=True)


def _check_range(name: str, strength: float, high: float) -> None:
    if not 0 <= strength <= high:
        raise SettingsError(f"expected {name} in [0, {high:g}], got {strength}")
