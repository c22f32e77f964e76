"""What folder names say: `train/awe/1.jpg` is a picture of the split `train` with the label `awe`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from hybridcascade.errors import did_you_mean

__all__ = ["Layout", "read_layout"]

log = logging.getLogger(__name__)

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Layout(NamedTuple):
    """Class name and split of each picture (None where the folders say nothing), and the classes."""

    labels: tuple[str | None, ...]
    splits: tuple[str | None, ...]
    classes: tuple[str, ...] | None


def read_layout(names: Sequence[str], classes: Sequence[str] | None = None) -> Layout:
    """Read splits and labels off the folders of pictures.

    Folders that all pictures share say nothing and are passed over (a zip often has one), unless they
    name a split or one of `classes`. If then every picture lies in a folder named like a split, that
    is its split. What follows is the label: without `classes`, if every picture lies in a folder and
    there are at least two of them; with `classes`, wherever the folder's name is one of them.

    Args:
        names: relative paths with `/`.
        classes: the class names, or None to take the folders as they are, sorted.
    """
    folders = [name.split("/")[:-1] for name in names]
    shared, folders = _strip_shared(folders, frozenset(classes or ()))
    split = next((_SPLITS[part.lower()] for part in shared if part.lower() in _SPLITS), None)
    splits: list[str | None] = [split] * len(folders)
    if folders and all(parts and parts[0].lower() in _SPLITS for parts in folders):
        splits = [_SPLITS[parts[0].lower()] for parts in folders]
        folders = [parts[1:] for parts in folders]
        _, folders = _strip_shared(folders, frozenset(classes or ()))
    tops = [parts[0] if parts else None for parts in folders]
    found = sorted({top for top in tops if top is not None})
    if classes is None:
        labelled = None not in tops and len(found) > 1
        return Layout(
            tuple(tops if labelled else [None] * len(tops)), tuple(splits), tuple(found) if labelled else None
        )
    unknown = [name for name in found if name not in classes]
    if unknown and len(unknown) < len(found):
        near = did_you_mean(unknown[0], classes)
        log.warning("%d folders are named like no class, first %r.%s", len(unknown), unknown[0], near)
    return Layout(tuple(top if top in classes else None for top in tops), tuple(splits), tuple(classes))


def _strip_shared(folders: list[list[str]], stop: frozenset[str]) -> tuple[list[str], list[list[str]]]:
    shared: list[str] = []
    while folders and all(folders) and len({parts[0] for parts in folders}) == 1 and folders[0][0] not in stop:
        shared.append(folders[0][0])
        folders = [parts[1:] for parts in folders]
    return shared, folders
