"""Align the colours of the pictures with what CLIP's weights expect, from the pictures alone.

A change of light, paper or camera moves the mean and the spread of each colour channel of a whole set, and
CLIP was trained on pictures with others. One affine map a channel takes the set's moments to the expected
ones; it is part of the model, the same for every picture, and so keeps what sets pictures apart.

The moments of a set also depend on what it shows: pictures of sadness are dark. So the pictures are
weighted until the predicted classes have equal shares, and the map is the weaker the fewer classes there
seem to be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridcascade.labelling.sinkhorn import breadth
from hybridcascade.methods.parts import collect_rows
from hybridcascade.types import ImageBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["InputAlignment", "align_input", "balanced_moments"]

_log = logging.getLogger(__name__)

_ROUNDS = 2  # predict, weigh, align; more changes nothing that could be measured
_NARROW = 0.8  # breadth of the predicted classes below which moments are taken to be the content's
_UNRECORDED = 0.5  # share of the map when the weights do not say what they were trained on
_LEAST_STD = 1e-3  # of a channel, in units of CLIP's preprocessing


@dataclass(frozen=True)
class InputAlignment:
    """What was found and done.

    Attributes:
        scale, shift: of each colour channel of normalised pictures, `[3]` each.
        strength: share of the way to the expected moments, 0 to 1.
        breadth: of the predicted classes after the full map, see `labelling.sinkhorn.breadth`.
    """

    scale: Tensor
    shift: Tensor
    strength: float
    breadth: float


def balanced_moments(mean: Tensor, square: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, every predicted class counting alike.

    Picture n weighs `sum_k p_nk / sum_m p_mk`; a class that is hardly predicted counts less.

    Args:
        mean: of each picture's channels, `[N, 3]`.
        square: mean square of each picture's channels, `[N, 3]`.
        probabilities: predictions, `[N, K]`.

    Returns:
        Mean and standard deviation over all pixels, `[3]` each.
    """
    share = probabilities.mean(dim=0)
    weight = (probabilities / share.clamp_min(0.5 / len(share))).sum(dim=1)
    weight = weight / weight.sum()
    first, second = weight @ mean, weight @ square
    return first, (second - first.square()).clamp_min(_LEAST_STD**2).sqrt()


def align_input(
    backbone: ClipBackbone,
    plain: Iterable[ImageBatch],
    logits_of: Callable[[Tensor], Tensor],
    strength: float,
    device: torch.device,
) -> InputAlignment:
    """Set the input map of a backbone from unlabelled pictures.

    Args:
        backbone: changed in place, `input_scale` and `input_shift`.
        plain: all training pictures once, in the plain view.
        logits_of: pictures `[B, 3, H, W]` to zero-shot scores `[B, K]`, through this backbone.
        strength: share of the way to the expected moments, 0 to 1, before what the evidence takes off it.
        device: where the pictures are sent.
    """
    goal_mean, goal_std = (value.to(device) for value in backbone.expected_pixels())
    _set(backbone, torch.ones(3), torch.zeros(3))
    # Moments and first predictions in one pass: decoding the pictures is what a pass costs.
    first = collect_rows(plain, lambda images: torch.cat([_moments(images), logits_of(images)], dim=1), device)
    mean, square, logits = first[:, :3], first[:, 3:6], first[:, 6:]
    for _ in range(_ROUNDS):
        found = balanced_moments(mean, square, logits.softmax(dim=1))
        _set(backbone, *_affine(found, (goal_mean, goal_std), 1.0))
        logits = collect_rows(plain, logits_of, device)
    width = breadth(logits.softmax(dim=1))
    share = strength * min(1.0, max(0.0, (width - _NARROW) / (1 - _NARROW)))
    share *= 1.0 if backbone.pixel_mean is not None else _UNRECORDED
    scale, shift = _affine(found, (goal_mean, goal_std), share)
    _set(backbone, scale, shift)
    _log.info("colours aligned by %.2f: scale %s, shift %s", share, scale.tolist(), shift.tolist())
    return InputAlignment(scale.cpu(), shift.cpu(), share, width)


def _moments(images: Tensor) -> Tensor:
    """Mean and mean square of each channel of `[B, 3, H, W]`, `[B, 6]`."""
    return torch.cat([images.mean(dim=(2, 3)), images.square().mean(dim=(2, 3))], dim=1)


def _affine(found: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
    """Scale and shift that take the found moments `share` of the way to the goal; spreads on a log scale."""
    mean = (1 - share) * found[0] + share * goal[0]
    std = found[1] ** (1 - share) * goal[1] ** share
    scale = std / found[1]
    return scale, mean - scale * found[0]


@torch.no_grad()
def _set(backbone: ClipBackbone, scale: Tensor, shift: Tensor) -> None:
    backbone.input_scale.copy_(scale)
    backbone.input_shift.copy_(shift)
