"""What `predict` accepts, turned into one numbered list of pictures with unique ids.

Accepted: a path (picture, folder, zip, manifest), a PIL picture, an array, or a list that mixes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridcascade.data.sources import MemorySource, PictureSource, open_source
from hybridcascade.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["InputPicture", "collect_pictures"]


@dataclass(frozen=True)
class InputPicture:
    """One picture to predict.

    Attributes:
        id: unique among the pictures of one call.
        source: who can open it.
        row: its row in `source`.
    """

    id: str
    source: PictureSource
    row: int

    def open(self) -> Image:
        """Decode the picture to RGB.

        Raises:
            PictureError: it cannot be read.
        """
        return self.source.open(self.row)


def collect_pictures(inputs: Any, allow_outside: bool = False) -> list[InputPicture]:
    """List the pictures of `inputs` in order.

    Ids are the relative paths inside a single folder, zip or manifest; with several inputs they begin with
    the input as it was given; pictures in memory are called `picture-<place>`, counted from 0. An id that
    comes again gets `#2`, `#3`.

    Args:
        inputs: a path, a PIL picture, a uint8 array `[H, W, 3]` or `[N, H, W, 3]`, a source of the data
            room, or a sequence that mixes them.
        allow_outside: manifests may point out of their own folder.

    Raises:
        DataError: a path does not exist, an input has another type, or there is no picture at all.
    """
    entries = _as_list(inputs)
    found: list[InputPicture] = []
    for place, entry in enumerate(entries):
        found += _pictures_of(entry, place, len(entries) == 1, allow_outside)
    if not found:
        raise DataError("there is no picture to predict: give a picture, a folder, a zip or a manifest")
    return _with_unique_ids(found)


def _as_list(inputs: Any) -> list[Any]:
    if isinstance(inputs, (str, os.PathLike, PictureSource, np.ndarray)) or _is_pil(inputs):
        return [inputs]
    if isinstance(inputs, Iterable):
        return list(inputs)
    return [inputs]


def _pictures_of(entry: Any, place: int, alone: bool, allow_outside: bool) -> list[InputPicture]:
    if isinstance(entry, PictureSource):
        return [InputPicture(s.id, entry, row) for row, s in enumerate(entry.samples)]
    if isinstance(entry, (str, os.PathLike)):
        return _pictures_at(Path(entry), alone, allow_outside)
    if isinstance(entry, np.ndarray):
        return _pictures_in_array(entry, place, alone)
    if _is_pil(entry):
        return _pictures_in_memory([entry], [f"picture-{place}"])
    raise DataError(
        f"input {place} is a {type(entry).__name__}; expected a path, a PIL picture or a uint8 array [H, W, 3]"
    )


def _pictures_at(path: Path, alone: bool, allow_outside: bool) -> list[InputPicture]:
    if not path.exists():
        raise DataError(f"there is nothing at {str(path)!r}: expected a picture, a folder, a .zip or a manifest")
    source = open_source(path, allow_outside=allow_outside)
    single = path.is_file() and len(source) == 1 and source.samples[0].id == path.name
    if alone or single:
        return [InputPicture(path.as_posix() if single and not alone else s.id, source, r)
                for r, s in enumerate(source.samples)]  # fmt: skip
    return [InputPicture(f"{path.as_posix()}/{s.id}", source, row) for row, s in enumerate(source.samples)]


def _pictures_in_array(array: np.ndarray, place: int, alone: bool) -> list[InputPicture]:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise DataError(
            f"input {place} is an array of {array.dtype} {list(array.shape)}; "
            "expected uint8 [H, W, 3] or [N, H, W, 3], RGB, 0 to 255"
        )
    if array.ndim == 3:
        return _pictures_in_memory([array], [f"picture-{place}"])
    names = [f"picture-{row}" if alone else f"picture-{place}/{row}" for row in range(len(array))]
    return _pictures_in_memory(list(array), names)


def _pictures_in_memory(pictures: Sequence[Any], ids: list[str]) -> list[InputPicture]:
    source = MemorySource(pictures, ids)
    return [InputPicture(name, source, row) for row, name in enumerate(ids)]


def _is_pil(value: Any) -> bool:
    # Only the data room names PIL; a PIL picture is known by what it can do.
    return all(hasattr(value, name) for name in ("convert", "getbands", "size"))


def _with_unique_ids(pictures: list[InputPicture]) -> list[InputPicture]:
    seen: dict[str, int] = {}
    unique = []
    taken = {p.id for p in pictures}
    for picture in pictures:
        count = seen.get(picture.id, 0) + 1
        seen[picture.id] = count
        name = picture.id
        while count > 1 and name in taken:
            name = f"{picture.id}#{count}"
            count += 1
        taken.add(name)
        unique.append(InputPicture(name, picture.source, picture.row))
    return unique
