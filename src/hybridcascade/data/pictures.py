"""The picture source: which pictures there are, what is known of each, and how to open it.

Identity is the sample id and never a position in a batch: whatever belongs to a picture (its label,
its votes, its target distribution) is kept in one row with its id and travels with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hybridcascade.data.images import MAX_PIXELS, decode_picture, to_rgb
from hybridcascade.data.messages import complaint
from hybridcascade.data.trees import Tree
from hybridcascade.errors import ClassListError, DataError, PictureError, did_you_mean

__all__ = [
    "HeldPicture",
    "MemorySource",
    "Picture",
    "PictureSource",
    "Sample",
    "StackedPicture",
    "StoredPicture",
    "no_such_split",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one picture.

    Attributes:
        id: relative path with `/`; unique in its source.
        label: row of the source's class list, or None.
        votes: one number >= 0 a class of the source's class list (votes or probabilities, not
            normalised), or None.
        split: such as `train`, or None.
    """

    id: str
    label: int | None = None
    votes: tuple[float, ...] | None = None
    split: str | None = None


class Picture(Protocol):
    """How to open one picture."""

    def open(self) -> Image.Image:
        """Return the picture, upright RGB; raises PictureError."""

    def stamp(self) -> str:
        """Return what tells one state of the picture from another, cheaply."""


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture file in a folder or zip."""

    tree: Tree
    name: str
    max_pixels: int = MAX_PIXELS

    def open(self) -> Image.Image:
        """Decode the picture; raises PictureError."""
        try:
            with self.tree.open(self.name) as stream:
                return decode_picture(stream, self.max_pixels, self.name)
        except OSError as error:
            reason = error.strerror or str(error)
            where = f"{self.tree.name}, {self.name}"
            raise PictureError(complaint(where, "a readable file", reason, "Replace it or leave it out")) from error

    def stamp(self) -> str:
        """Return the size, and in an archive the checksum, of the file."""
        return self.tree.stamp(self.name)

    def modified(self) -> str:
        """Return when the file was last written, where the stamp does not see its content."""
        return self.tree.modified(self.name)


@dataclass(frozen=True, slots=True)
class HeldPicture:
    """A picture in memory."""

    image: Image.Image

    def open(self) -> Image.Image:
        """Return the picture as RGB; raises PictureError."""
        return to_rgb(self.image)

    def stamp(self) -> str:
        """Return a hash of the pixels."""
        return hashlib.sha256(self.image.mode.encode() + self.image.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class StackedPicture:
    """A picture in a stack of pictures, uint8 `[N, 3, H, W]`, shared by all of them."""

    stack: Tensor
    row: int

    def open(self) -> Image.Image:
        """Return the picture."""
        return Image.fromarray(self.stack[self.row].permute(1, 2, 0).contiguous().numpy())

    def stamp(self) -> str:
        """Return a hash of the pixels."""
        return hashlib.sha256(self.stack[self.row].numpy().tobytes()).hexdigest()


class PictureSource:
    """Pictures with their samples, row by row. It pickles, so loader workers of any start method get it.

    Args:
        samples: one a picture.
        pictures: how to open each.
        classes: what labels and votes of the samples count in; None when there are none.
        name: for messages.

    Attributes:
        samples: N of them, in row order.
        pictures: N of them, in row order.
        classes: as given.

    Raises:
        DataError: no picture, an id twice, or lists of different lengths.
    """

    def __init__(
        self, samples: Iterable[Sample], pictures: Sequence[Picture], classes: Sequence[str] | None, name: str
    ) -> None:
        self.samples = tuple(samples)
        self.classes = None if classes is None else tuple(classes)
        self.name = name
        self.pictures = tuple(pictures)
        if len(self.samples) != len(self.pictures):
            raise DataError(f"{name}: {len(self.samples)} samples for {len(self.pictures)} pictures")
        if not self.samples:
            raise DataError(complaint(name, "at least one picture", "none", "Check the path"))
        seen: set[str] = set()
        for sample in self.samples:
            if sample.id in seen:
                message = complaint(name, "every id once", f"{sample.id!r} twice", "Rename or remove one of the two")
                raise DataError(message)
            seen.add(sample.id)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> tuple[str, ...]:
        """Sample ids in row order."""
        return tuple(sample.id for sample in self.samples)

    def open(self, row: int) -> Image.Image:
        """Return a picture, upright RGB, 8 bits.

        Raises:
            PictureError: it cannot be decoded or is too large.
        """
        return self.pictures[row].open()

    def fingerprint(self, exact: bool = False) -> str:
        """Return a hash of ids, labels, votes and file sizes (checksums in archives, pixels in memory).

        It is for provenance: a picture replaced by another of the same size in bytes is not noticed.

        Args:
            exact: take the dates of files in as well, so that it is; for what must not outlive a change. A copy
                of the pictures then has another hash.
        """
        digest = hashlib.sha256(repr(self.classes).encode())
        for row, sample in enumerate(self.samples):
            picture = self.pictures[row]
            digest.update(repr((sample.id, sample.label, sample.votes, picture.stamp())).encode())
            if exact and (modified := getattr(picture, "modified", None)):
                digest.update(modified().encode())
        return digest.hexdigest()

    def take(self, rows: Sequence[int]) -> Self:
        """Return the source of some rows, in the given order."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.samples = tuple(self.samples[row] for row in rows)
        part.pictures = tuple(self.pictures[row] for row in rows)
        return part

    def subset(self, split: str) -> Self:
        """Return the rows of one split.

        Raises:
            DataError: no picture is in it; the message lists the splits there are.
        """
        rows = [row for row, sample in enumerate(self.samples) if sample.split == split]
        if not rows:
            raise DataError(no_such_split(self.name, split, (sample.split for sample in self.samples)))
        return self.take(rows)

    def unlabeled(self) -> Self:
        """Return the same pictures without labels and votes, for training that must not see them."""
        bare = self.take(range(len(self)))
        bare.samples = tuple(replace(sample, label=None, votes=None) for sample in self.samples)
        bare.classes = None
        return bare

    def targets(self, classes: Sequence[str]) -> Tensor:
        """Return the target distributions: votes divided by their sum, else one-hot labels.

        Args:
            classes: K names, the order of the columns.

        Returns:
            float32 `[N, K]`, rows sum to 1, in row order.

        Raises:
            DataError: a picture has neither votes nor a label.
            ClassListError: a label or a voted class is not in `classes`.
        """
        self._demand_labels()
        column = [self._column(name, classes) for name in self.classes or ()]
        table = np.zeros((len(self), len(classes)), dtype=np.float64)
        for row, sample in enumerate(self.samples):
            if sample.votes is not None:
                for index, vote in enumerate(sample.votes):
                    table[row, self._known(column, index, classes)] = vote
                table[row] /= table[row].sum()
            elif sample.label is not None:
                table[row, self._known(column, sample.label, classes)] = 1.0
        return torch.from_numpy(table).float()

    def labels(self, classes: Sequence[str]) -> Tensor:
        """Return the labels: as stated, else the class with most votes (the first of `classes` on a tie).

        Args:
            classes: K names that the numbers count in.

        Returns:
            int64 `[N]`, in row order.

        Raises:
            DataError: a picture has neither a label nor votes.
            ClassListError: a label or a voted class is not in `classes`.
        """
        result = self.targets(classes).argmax(dim=1)
        column = [self._column(name, classes) for name in self.classes or ()]
        for row, sample in enumerate(self.samples):
            if sample.label is not None:
                result[row] = self._known(column, sample.label, classes)
        return result

    def _demand_labels(self) -> None:
        bare = [sample.id for sample in self.samples if sample.label is None and sample.votes is None]
        if bare:
            found = f"neither for {len(bare)} of {len(self)}, first {bare[0]!r}"
            remedy = "Give a folder per class, or a manifest with labels or votes"
            raise DataError(complaint(self.name, "a label or votes for every picture", found, remedy))

    @staticmethod
    def _column(name: str, classes: Sequence[str]) -> int | None:
        return classes.index(name) if name in classes else None

    def _known(self, column: Sequence[int | None], index: int, classes: Sequence[str]) -> int:
        known = column[index]
        if known is None:
            name = (self.classes or ())[index]
            found = f"{name!r}.{did_you_mean(name, classes)}"
            remedy = "Use the model's classes, or correct the data"
            raise ClassListError(complaint(self.name, f"only the classes {', '.join(classes)}", found, remedy))
        return known


class MemorySource(PictureSource):
    """Pictures of one size in memory; loaders turn whole batches of them into tensors at once.

    Args:
        images: uint8 `[N, H, W, 3]`.
        ids: N unique ids; `000000`, `000001`, ... when None.
        targets: votes or probabilities, `[N, K]`, >= 0 with positive row sums, or None.
        classes: K names; needed with `targets`.
        labels: rows of `classes`, N of them, or None.
        name: for messages.

    Raises:
        DataError: wrong shapes or types, no picture, or an id twice.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        ids: Sequence[str] | None = None,
        targets: NDArray[np.floating] | Tensor | None = None,
        classes: Sequence[str] | None = None,
        labels: Sequence[int] | NDArray[np.integer] | None = None,
        name: str = "pictures in memory",
    ) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            found = f"{images.dtype} {list(images.shape)}"
            raise DataError(complaint(name, "uint8 pictures [N, H, W, 3]", found, "Convert the array"))
        count = len(images)
        ids = [f"{row:06d}" for row in range(count)] if ids is None else ids
        votes = _vote_rows(targets, count, classes, name)
        marks: list[int | None] = [None] * count if labels is None else [int(label) for label in labels]
        if len(ids) != count or len(marks) != count:
            found = f"{len(ids)} ids and {len(marks)} labels"
            raise DataError(complaint(name, f"{count} of each", found, "Give one a picture"))
        if classes is not None and any(mark is not None and not 0 <= mark < len(classes) for mark in marks):
            raise DataError(complaint(name, f"labels in 0..{len(classes) - 1}", "others", "Correct the labels"))
        samples = (Sample(i, mark, vote) for i, mark, vote in zip(ids, marks, votes, strict=True))
        self.stack = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
        super().__init__(samples, [StackedPicture(self.stack, row) for row in range(count)], classes, name)

    def take(self, rows: Sequence[int]) -> Self:
        """Return the source of some rows, in the given order."""
        part = super().take(rows)
        part.stack = self.stack[torch.as_tensor(list(rows), dtype=torch.int64)]
        part.pictures = tuple(StackedPicture(part.stack, row) for row in range(len(part.samples)))
        return part


def no_such_split(name: str, split: str, present: Iterable[str | None]) -> str:
    """Return the message for a split that nothing is in."""
    splits = sorted({part for part in present if part is not None})
    found = f"the splits {', '.join(splits)}" if splits else "no splits"
    remedy = "Choose another split, or none" if splits else "Leave the split out, or make one: --make_split hash:0.8"
    return complaint(name, f"pictures of split {split!r}", found, remedy)


def _vote_rows(
    targets: NDArray[np.floating] | Tensor | None, count: int, classes: Sequence[str] | None, name: str
) -> list[tuple[float, ...] | None]:
    if targets is None:
        return [None] * count
    table = np.asarray(targets, dtype=np.float64)
    if classes is None or table.shape != (count, len(classes)):
        wanted = f"[{count}, {len(classes)}]" if classes is not None else "class names beside them"
        raise DataError(complaint(name, f"targets {wanted}", f"{list(table.shape)}", "Give one row a picture"))
    wrong = ~(np.isfinite(table).all(axis=1) & (table >= 0).all(axis=1) & (table.sum(axis=1) > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = str(table[row].tolist())
        expected = "numbers >= 0 with a positive sum"
        raise DataError(complaint(f"{name}, row {row} of the targets", expected, found, "Correct the row"))
    return [tuple(row) for row in table.tolist()]
