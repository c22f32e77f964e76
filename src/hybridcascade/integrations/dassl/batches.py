"""Pictures as Dassl's loaders give them, turned into our batches. Labels and domains are never looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hybridcascade.data.views import PlainView, StrongView, pixels_of
from hybridcascade.types import ImageBatch, UnlabeledBatch

__all__ = ["PlainPictures", "RandomView", "unlabeled_batch"]


class RandomView:
    """A strong view as a Dassl transform: Pillow picture -> float `[3, H, W]`, its seed drawn from torch's generator.

    Loader workers have generators of their own, so their pictures differ; with a seeded run they repeat.

    Args:
        strong: the view; None for the plain one.
        plain: the plain view.
    """

    def __init__(self, strong: StrongView | None, plain: PlainView) -> None:
        self.strong, self.plain = strong, plain

    def __call__(self, image: Any) -> Tensor:
        """Return a Pillow picture in a view of its own."""
        if self.strong is None:
            return self.plain(image)
        seed = int(torch.randint(2**62, ()).item())
        return self.strong([pixels_of(image)], [seed])[0]


class PlainPictures:
    """All training pictures once, in order, in the plain view, from a Dassl loader that neither shuffles nor drops."""

    def __init__(self, loader: Iterable[Mapping[str, Any]]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[ImageBatch]:
        for batch in self.loader:
            yield ImageBatch(batch["index"], tuple(batch["impath"]), batch["img"])


def unlabeled_batch(batch: Mapping[str, Any], device: torch.device) -> UnlabeledBatch:
    """Return a training batch of Dassl without what label-free training must not see.

    Args:
        batch: of a loader with two transforms: `index`, `impath`, `img` (plain), `img2` (strong).
        device: where the tensors go.
    """
    return UnlabeledBatch(batch["index"], tuple(batch["impath"]), batch["img"], batch["img2"]).to(device)
