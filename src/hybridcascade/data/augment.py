"""Colour jitter, grey and blur for a whole batch, every picture with parameters of its own.

torchvision's functions take one factor for a batch. Here each picture has its own, and pictures that
do the same operation at the same time are done together. The results equal torchvision's
`adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue`, `rgb_to_grayscale` and
`gaussian_blur` on float pictures, picture by picture (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Jitter", "blur", "grey", "jitter"]

_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Jitter:
    """One picture's colour jitter.

    Attributes:
        order: the four operations (0 brightness, 1 contrast, 2 saturation, 3 hue) as they follow.
        factors: of brightness, contrast and saturation (1 changes nothing), and the turn of the hue in
            -0.5..0.5 of the circle (0 changes nothing).
    """

    order: tuple[int, ...]
    factors: tuple[float, float, float, float]


def jitter(batch: Tensor, draws: Sequence[Jitter | None]) -> Tensor:
    """Jitter the colours of pictures.

    Args:
        batch: float32 `[B, 3, H, W]` in 0..1.
        draws: B of them; None leaves a picture as it is.

    Returns:
        float32 `[B, 3, H, W]` in 0..1, a new tensor.
    """
    result = batch.clone()
    operations = (_brightness, _contrast, _saturation, _hue)
    for step in range(len(operations)):
        for kind, operation in enumerate(operations):
            rows = [row for row, draw in enumerate(draws) if draw is not None and draw.order[step] == kind]
            if not rows:
                continue
            index = torch.tensor(rows)
            factors = torch.tensor([draw.factors[kind] for draw in draws if draw and draw.order[step] == kind])
            result[index] = operation(result[index], factors.view(-1, 1, 1, 1))
    return result


def grey(batch: Tensor, chosen: Sequence[bool]) -> Tensor:
    """Take the colour out of the chosen pictures of a batch `[B, 3, H, W]`."""
    if not any(chosen):
        return batch
    index = torch.tensor([row for row, choice in enumerate(chosen) if choice])
    result = batch.clone()
    result[index] = _luma(batch[index]).expand(-1, 3, -1, -1)
    return result


def blur(batch: Tensor, sigmas: Sequence[float], taps: int) -> Tensor:
    """Blur each picture with a Gaussian of its own, the border mirrored.

    Args:
        batch: float32 `[B, 3, H, W]`.
        sigmas: B standard deviations in pixels, > 0.
        taps: width of the kernel in pixels, odd.

    Returns:
        float32 `[B, 3, H, W]`.
    """
    height, width = batch.shape[-2:]
    reach = (taps - 1) / 2
    positions = torch.arange(-reach, reach + 1)
    scales = torch.tensor(list(sigmas), dtype=torch.float32).view(-1, 1)
    kernels = torch.softmax(-0.5 * (positions / scales).square(), dim=1)
    # A blur of one axis is a product with a banded matrix; one small product a picture beats a
    # depth-wise convolution by far on a CPU.
    rows, columns = _banded(kernels, height), _banded(kernels, width)
    return rows.unsqueeze(1) @ batch @ columns.transpose(1, 2).unsqueeze(1)


def _banded(kernels: Tensor, length: int) -> Tensor:
    """Return the matrices `[B, length, length]` that convolve a mirrored line with kernels `[B, taps]`."""
    taps = kernels.shape[1]
    offsets = torch.arange(taps) - taps // 2
    sources = torch.arange(length).view(-1, 1) + offsets
    # Mirror at the first and last pixel; lines shorter than the kernel are mirrored more than once.
    period = max(1, 2 * (length - 1))
    sources = sources.remainder(period)
    sources = torch.minimum(sources, period - sources) if length > 1 else torch.zeros_like(sources)
    matrix = torch.zeros(kernels.shape[0], length, length)
    weights = kernels.unsqueeze(1).expand(-1, length, -1)
    return matrix.scatter_add_(2, sources.expand(kernels.shape[0], -1, -1), weights)


def _luma(batch: Tensor) -> Tensor:
    red, green, blue = batch.unbind(dim=1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).unsqueeze(1)


def _brightness(batch: Tensor, factor: Tensor) -> Tensor:
    return (batch * factor).clamp_(0.0, 1.0)


def _contrast(batch: Tensor, factor: Tensor) -> Tensor:
    # One axis after the other: a single large sum would be split between threads, and its last digit
    # would depend on how many there are.
    mean = _luma(batch).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return (batch * factor).add_((1.0 - factor) * mean).clamp_(0.0, 1.0)


def _saturation(batch: Tensor, factor: Tensor) -> Tensor:
    return (batch * factor).add_((1.0 - factor) * _luma(batch)).clamp_(0.0, 1.0)


def _hue(batch: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue, value and saturation kept.

    In HSV with hue h in 0..6 and chroma c, a channel is v - c * clamp(min(k, 4 - k), 0, 1) with
    k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue: no table of sextants is needed.
    """
    red, green, blue = batch.unbind(dim=1)
    low, high = torch.aminmax(batch, dim=1)
    chroma = high - low
    safe = torch.where(chroma > 0.0, chroma, torch.ones_like(chroma))
    hue = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    hue = hue + 6.0 * turn.view(-1, 1, 1)
    offsets = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (hue.unsqueeze(1) + offsets).remainder_(6.0)
    share = torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)
    return high.unsqueeze(1) - chroma.unsqueeze(1) * share
