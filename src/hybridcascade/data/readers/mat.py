"""Votes and folds in MATLAB files: version 5 through scipy, version 7.3 (HDF5) through h5py, both optional."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybridcascade.data.messages import complaint
from hybridcascade.errors import DataError, ManifestError

__all__ = ["MatVotes", "read_mat"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KEYS = ("imgname", "vote", "train_ind", "test_ind")


class MatVotes(NamedTuple):
    """What a file holds.

    Attributes:
        names: N file names.
        votes: N rows of K votes.
        folds: rows (from 0) of training and test pictures of each fold; empty where the file has none.
        transposed: the file has a class a row (K x N), as the published ones do.
    """

    names: tuple[str, ...]
    votes: tuple[tuple[float, ...], ...]
    folds: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    transposed: bool


def read_mat(stream: IO[bytes], where: str, class_count: int) -> MatVotes:
    """Read `imgname`, `vote` and, where there are any, `train_ind` and `test_ind`.

    Args:
        stream: bytes of the file.
        where: the file, for messages.
        class_count: K.

    Raises:
        DataError: scipy or h5py is needed and not installed.
        ManifestError: another content; nothing is guessed.
    """
    content = stream.read()
    # A 7.3 file is HDF5 behind a first block of 512 bytes.
    load = _load_hdf5 if _HDF5 in (content[:8], content[512:520]) else _load_scipy
    found = load(content, where)
    for key in ("imgname", "vote"):
        if key not in found:
            keys = ", ".join(sorted(k for k in found if not k.startswith("__"))) or "nothing"
            raise ManifestError(complaint(where, "imgname and vote", keys, "Give the *_config.mat of the data set"))
    names = tuple(str(name) for name in found["imgname"])
    votes, turned = _votes(np.asarray(found["vote"], dtype=np.float64), len(names), class_count, where)
    folds = _folds(found, len(names), where) if "train_ind" in found and "test_ind" in found else ()
    return MatVotes(names, tuple(tuple(row) for row in votes.tolist()), folds, turned)


def _votes(table: NDArray[np.float64], count: int, classes: int, where: str) -> tuple[NDArray[np.float64], bool]:
    shapes = {(count, classes): False, (classes, count): True}
    if table.shape not in shapes or count == classes:
        wanted = f"votes {classes} x {count} or {count} x {classes}, for {count} names"
        remedy = "Which side is the classes cannot be told" if count == classes else "Copy the file again"
        raise ManifestError(complaint(where, wanted, " x ".join(map(str, table.shape)), remedy))
    turned = shapes[(table.shape[0], table.shape[1])]
    votes = table.T if turned else table
    bad = ~(np.isfinite(votes).all(axis=1) & (votes >= 0).all(axis=1) & (votes.sum(axis=1) > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        wanted = "votes of 0 or above, one of them above 0"
        raise ManifestError(complaint(f"{where}, picture {row + 1}", wanted, str(votes[row].tolist()), "Correct it"))
    return votes, turned


def _folds(found: Mapping[str, Any], count: int, where: str) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Return the folds, if each divides the pictures; numbers count from 1, as MATLAB does."""
    whole = list(range(1, count + 1))
    for trains in _lists(found["train_ind"]):
        for tests in _lists(found["test_ind"]):
            pairs = list(zip(trains, tests, strict=False))
            if len(trains) == len(tests) and all(sorted([*train, *test]) == whole for train, test in pairs):
                return tuple((tuple(i - 1 for i in a), tuple(i - 1 for i in b)) for a, b in pairs)
    wanted = f"train_ind and test_ind that divide the {count} pictures between them, numbers from 1"
    remedy = "This split cannot be used: make one with --make_split hash:0.8"
    raise ManifestError(complaint(where, wanted, "others", remedy))


def _lists(value: Any) -> list[list[list[int]]]:
    """Index lists of the folds, in each way that a table can be read: a fold a row, or a fold a column."""
    parts = value if isinstance(value, list) else None
    table = np.asarray(value, dtype=object) if parts is None else None
    if table is not None and table.size and not np.isscalar(table.ravel()[0]):
        parts = list(table.ravel())
    if parts is not None:
        return [[[int(i) for i in np.asarray(part).ravel()] for part in parts]]
    rows = np.atleast_2d(np.asarray(value))
    return [[[int(i) for i in row] for row in side] for side in (rows, rows.T)]


def _needed(module: str, form: str, where: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        remedy = (
            f"Install it: pip install 'hybridcascade[mat]', or {package} alone "
            "(or use ground_truth.txt, which needs nothing)"
        )
        raise DataError(complaint(where, f"{package} to read a {form} file", "it not installed", remedy)) from error


def _load_scipy(content: bytes, where: str) -> dict[str, Any]:
    reader: Any = _needed("scipy.io", "MATLAB 5", where)
    try:
        found = dict(reader.loadmat(io.BytesIO(content)))
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ManifestError(complaint(where, "a MATLAB file", str(error), "Copy the file again")) from error
    if "imgname" in found:
        found["imgname"] = [str(np.asarray(cell).ravel()[0]) for cell in np.asarray(found["imgname"]).ravel()]
    return found


def _load_hdf5(content: bytes, where: str) -> dict[str, Any]:
    reader: Any = _needed("h5py", "MATLAB 7.3", where)
    try:
        with reader.File(io.BytesIO(content), "r") as file:
            # HDF5 stores a MATLAB array with its sides swapped.
            decode: Mapping[str, Callable[[Any], Any]] = {"imgname": lambda d: _hdf5_texts(file, d)}
            return {key: decode.get(key, lambda d: _hdf5_array(file, d))(file[key]) for key in _KEYS if key in file}
    except (OSError, KeyError, ValueError) as error:
        raise ManifestError(complaint(where, "a MATLAB 7.3 file", str(error), "Copy the file again")) from error


def _hdf5_array(file: Any, data: Any) -> Any:
    if data.dtype == object:  # a cell array: references to its parts
        return [np.asarray(file[reference]).ravel() for reference in np.asarray(data).ravel()]
    return np.asarray(data).T


def _hdf5_texts(file: Any, data: Any) -> list[str]:
    """Texts of a cell array: each is an array of character codes."""
    return ["".join(map(chr, np.asarray(file[reference]).ravel())) for reference in np.asarray(data).ravel()]
