"""Loaders of stored features: the same batches as those of pictures, `[B, V, F]` in place of `[B, 3, H, W]`.

Order and choice of views depend on (seed, epoch, row) and on nothing else, as `data.loaders` has it for
pictures; the order of an epoch is the same as that of the pictures with the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hybridcascade.data.loaders import EpochSampler, InOrder, SampleKey, as_it_is, mixed_seed
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.types import ImageBatch, TargetBatch, UnlabeledBatch

__all__ = ["StoredBatches", "stored_image_loader", "stored_loader", "stored_view"]

Rows = Callable[[Tensor], Tensor]
"""Rows int64 `[B]` to their features, float32 `[B, V, F]`."""


def stored_view(seed: int, epoch: int, row: int, views: int) -> int:
    """Return which of the stored views the student sees of a row in an epoch, 0 to `views` - 1."""
    return mixed_seed(seed, epoch, row) % views


class StoredBatches(Dataset[UnlabeledBatch | ImageBatch]):
    """A data set that makes whole batches of stored features at once.

    Args:
        rows: reads features.
        ids: sample ids by row, N of them.
        views: V.
        seed: of the choice of views.
        targets: float32 `[N, K]` by row, zeros where a row has none, or None.
        plain_only: make `ImageBatch`es.
    """

    def __init__(
        self,
        rows: Rows,
        ids: Sequence[str],
        views: int,
        seed: int = 0,
        targets: Tensor | None = None,
        plain_only: bool = False,
    ) -> None:
        self.rows, self.ids, self.views, self.seed = rows, tuple(ids), views, seed
        self.targets, self.plain_only = targets, plain_only
        known = None if targets is None else targets.sum(dim=1) > 0
        self.known = None if known is None or bool(known.all()) else known

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: SampleKey) -> UnlabeledBatch | ImageBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey]) -> UnlabeledBatch | ImageBatch:
        """Make the batch of some keys, in their order."""
        index = torch.tensor([key.row for key in keys], dtype=torch.int64)
        ids = tuple(self.ids[key.row] for key in keys)
        plain = self.rows(index)
        if self.plain_only:
            return ImageBatch(index, ids, plain)
        chosen = torch.tensor([stored_view(self.seed, key.epoch, key.row, self.views) for key in keys])
        strong = plain[torch.arange(len(keys)), chosen].unsqueeze(1)
        if self.targets is None:
            return UnlabeledBatch(index, ids, plain, strong)
        known = None if self.known is None else self.known[index]
        return TargetBatch(index, ids, plain, strong, self.targets[index], known)


def stored_loader(
    rows: Rows, ids: Sequence[str], views: int, batch_size: int, seed: int, targets: Tensor | None = None
) -> DataLoader[UnlabeledBatch]:
    """Load stored features for training: all views as `plain`, one of them, drawn anew each epoch, as `strong`.

    Args:
        rows: reads features, int64 `[B]` to float32 `[B, V, F]`.
        ids: sample ids by row, N of them.
        views: V.
        batch_size: pictures a batch B, > 0.
        seed: of order and choice of views.
        targets: distributions by row, float `[N, K]`, zeros where a row has none; None makes batches without.

    Raises:
        SettingsError: a batch size that cannot be used.
        DataError: targets of another length.
    """
    if targets is not None and (targets.dim() != 2 or len(targets) != len(ids)):
        raise DataError(f"stored features: expected targets [{len(ids)}, K], found {list(targets.shape)}")
    table = None if targets is None else targets.to(torch.float32)
    batches = StoredBatches(rows, ids, views, seed, table)
    sampler = EpochSampler(len(ids), seed)
    return cast("DataLoader[UnlabeledBatch]", _loader(batches, batch_size, sampler, seed))


def stored_image_loader(rows: Rows, ids: Sequence[str], views: int, batch_size: int) -> DataLoader[ImageBatch]:
    """Load all stored features once in row order, the same on every rank; arguments as in `stored_loader`."""
    batches = StoredBatches(rows, ids, views, plain_only=True)
    return cast("DataLoader[ImageBatch]", _loader(batches, batch_size, InOrder(len(ids)), 0))


def _loader(
    batches: StoredBatches, batch_size: int, sampler: EpochSampler | InOrder, seed: int
) -> DataLoader[UnlabeledBatch | ImageBatch]:
    if batch_size < 1:
        raise SettingsError(f"batch size: expected a number > 0, found {batch_size}")
    return DataLoader(
        batches,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=as_it_is,
        generator=torch.Generator().manual_seed(mixed_seed(seed)),
    )
