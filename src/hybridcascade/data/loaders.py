"""Loaders whose pictures, order and augmentations depend on (seed, epoch, row) and on nothing else.

Not on the number of workers, not on the global random state, not on what was loaded before: so a
resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from hybridcascade.data.messages import complaint
from hybridcascade.data.pictures import MemorySource, PictureSource
from hybridcascade.data.views import PlainView, StrongView, pixels_of
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.types import ImageBatch, TargetBatch, UnlabeledBatch

__all__ = [
    "EpochSampler",
    "InOrder",
    "PictureBatches",
    "SampleKey",
    "as_it_is",
    "image_loader",
    "mixed_seed",
    "target_loader",
    "unlabeled_loader",
]


class SampleKey(NamedTuple):
    """What a loader asks its data set for: a row, and the epoch that its augmentation belongs to."""

    epoch: int
    row: int


def mixed_seed(*parts: int) -> int:
    """Mix integers into one seed in 0..2**63-1; neighbours give unrelated seeds."""
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


class EpochSampler(Sampler[SampleKey]):
    """Every row once an epoch, in an order drawn from (seed, epoch).

    With `torch.distributed` initialised each rank gets its own share; the first rows of the order are
    given twice where the ranks could not have equally many otherwise. Lightning calls `set_epoch`.

    Args:
        length: number of rows N, > 0.
        seed: any integer.
        shuffle: False keeps the order of the rows.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0-based) of the next iteration."""
        self.epoch = epoch

    def order(self) -> list[int]:
        """Return the rows of this epoch, of all ranks together."""
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        return cast("list[int]", torch.randperm(self.length, generator=generator).tolist())

    def __iter__(self) -> Iterator[SampleKey]:
        rank, world = _rank()
        rows = self.order()
        padded = rows + [rows[i % self.length] for i in range(-self.length % world)]
        return iter([SampleKey(self.epoch, row) for row in padded[rank::world]])

    def __len__(self) -> int:
        return -(-self.length // _rank()[1])


def _rank() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class PictureBatches(Dataset[UnlabeledBatch | ImageBatch]):
    """A data set that makes whole batches at once.

    Args:
        source: the pictures.
        plain: the plain view.
        strong: the strong view; None gives the plain view twice.
        seed: of the augmentations.
        targets: float32 `[N, K]` by row, or None.
        known: which rows have a target, bool `[N]`; None means all.
        plain_only: make `ImageBatch`es.
    """

    def __init__(
        self,
        source: PictureSource,
        plain: PlainView,
        strong: StrongView | None = None,
        seed: int = 0,
        targets: Tensor | None = None,
        plain_only: bool = False,
        known: Tensor | None = None,
    ) -> None:
        self.source, self.plain, self.strong = source, plain, strong
        self.seed, self.targets, self.known, self.plain_only = seed, targets, known, plain_only
        self.ids = source.ids

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> UnlabeledBatch | ImageBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey]) -> UnlabeledBatch | ImageBatch:
        """Make the batch of some keys, in their order."""
        index = torch.tensor([key.row for key in keys], dtype=torch.int64)
        ids = tuple(self.ids[key.row] for key in keys)
        stack = self._stacked(index)
        images = [] if stack is not None else [self.source.open(key.row) for key in keys]
        plain = torch.stack([self.plain(image) for image in images]) if stack is None else self.plain.normalize(stack)
        if self.plain_only:
            return ImageBatch(index, ids, plain)
        if self.strong is None:
            strong = plain.clone()
        else:
            pixels = [pixels_of(image) for image in images] if stack is None else list(stack)
            strong = self.strong(pixels, [mixed_seed(self.seed, key.epoch, key.row) for key in keys])
        if self.targets is None:
            return UnlabeledBatch(index, ids, plain, strong)
        known = None if self.known is None else self.known[index]
        return TargetBatch(index, ids, plain, strong, self.targets[index], known)

    def _stacked(self, index: Tensor) -> Tensor | None:
        """Return the pictures as one uint8 tensor `[B, 3, H, W]` when they already have the view's size."""
        if isinstance(self.source, MemorySource) and self.plain.keeps(*self.source.stack.shape[-2:]):
            return self.source.stack[index]
        return None


def unlabeled_loader(
    source: PictureSource,
    plain: PlainView,
    strong: StrongView | None,
    batch_size: int,
    seed: int,
    drop_last: bool = False,
    workers: int = 0,
    shuffle: bool = True,
) -> DataLoader[UnlabeledBatch]:
    """Load pictures in a plain and a strong view, without labels.

    Args:
        source: the pictures; their labels, if they have any, are not passed on.
        plain: the plain view.
        strong: the strong view; None gives the plain view twice.
        batch_size: pictures a batch B, > 0.
        seed: of order and augmentation.
        drop_last: leave out a last batch that is smaller.
        workers: processes that load ahead; 0 loads in this one.
        shuffle: draw a new order every epoch.

    Raises:
        SettingsError: a batch size or number of workers that cannot be used.
    """
    batches = PictureBatches(source, plain, strong, seed)
    return cast("DataLoader[UnlabeledBatch]", _loader(batches, batch_size, seed, drop_last, workers, shuffle))


def target_loader(
    source: PictureSource,
    targets: Tensor,
    plain: PlainView,
    strong: StrongView | None,
    batch_size: int,
    seed: int,
    drop_last: bool = False,
    workers: int = 0,
    shuffle: bool = True,
    known: Tensor | None = None,
) -> DataLoader[TargetBatch]:
    """Load pictures in two views with their target distributions; other arguments as `unlabeled_loader`.

    Args:
        source: the pictures.
        targets: distributions by row, float `[N, K]`, rows sum to 1, zeros where not known (`data.targets`).
        plain: the plain view.
        strong: the strong view; None gives the plain view twice.
        batch_size: pictures a batch B, > 0.
        seed: of order and augmentation.
        drop_last: leave out a last batch that is smaller.
        workers: processes that load ahead; 0 loads in this one.
        shuffle: draw a new order every epoch.
        known: which rows have a target, bool `[N]`; None means all.

    Raises:
        DataError: targets of another length, or a known row that is no distribution.
        SettingsError: a batch size or number of workers that cannot be used.
    """
    if targets.ndim != 2 or len(targets) != len(source):
        found = f"{list(targets.shape)}"
        remedy = "Give one row a picture, in row order"
        raise DataError(complaint(source.name, f"targets [{len(source)}, K]", found, remedy))
    table = targets.to(torch.float32)
    if known is not None and (known.dtype != torch.bool or known.shape != targets.shape[:1]):
        found = f"{known.dtype} {list(known.shape)}"
        raise DataError(complaint(source.name, f"a bool mask [{len(source)}]", found, "Give one value a picture"))
    wrong = ~((table >= 0).all(dim=1) & ((table.sum(dim=1) - 1.0).abs() < 1e-4))
    if known is not None:
        wrong &= known
        table = torch.where(known[:, None], table, 0.0)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        where = f"{source.name}, target of {source.samples[row].id!r}"
        found = str(table[row].tolist())
        raise DataError(complaint(where, "numbers >= 0 that sum to 1", found, "Divide the votes by their sum"))
    batches = PictureBatches(source, plain, strong, seed, table, known=known)
    return cast("DataLoader[TargetBatch]", _loader(batches, batch_size, seed, drop_last, workers, shuffle))


def image_loader(source: PictureSource, view: PlainView, batch_size: int, workers: int = 0) -> DataLoader[ImageBatch]:
    """Load all pictures once in row order, in one view, the same on every rank.

    Args:
        source: the pictures.
        view: the plain view.
        batch_size: pictures a batch B, > 0.
        workers: processes that load ahead; 0 loads in this one.

    Raises:
        SettingsError: a batch size or number of workers that cannot be used.
    """
    batches = PictureBatches(source, view, plain_only=True)
    return cast("DataLoader[ImageBatch]", _loader(batches, batch_size, 0, False, workers, False, sharded=False))


class InOrder(Sampler[SampleKey]):
    """Every row in order, on every rank: begin_phase and prediction need all of them.

    Args:
        length: number of rows N.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(0, row) for row in range(self.length))

    def __len__(self) -> int:
        return self.length


def _loader(
    batches: PictureBatches,
    batch_size: int,
    seed: int,
    drop_last: bool,
    workers: int,
    shuffle: bool,
    sharded: bool = True,
) -> DataLoader[UnlabeledBatch | ImageBatch]:
    if batch_size < 1:
        raise SettingsError(f"batch size: expected a number > 0, found {batch_size}")
    if workers < 0:
        raise SettingsError(f"workers: expected a number >= 0, found {workers}")
    sampler: Sampler[SampleKey] = EpochSampler(len(batches), seed, shuffle) if sharded else InOrder(len(batches))
    return DataLoader(
        batches,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=as_it_is,
        persistent_workers=workers > 0,
        # Otherwise every iteration would draw a number from the global random state.
        generator=torch.Generator().manual_seed(mixed_seed(seed)),
    )


def as_it_is(batch: Any) -> Any:
    """Return the batch: it was made whole (module level, so that it pickles)."""
    return batch
