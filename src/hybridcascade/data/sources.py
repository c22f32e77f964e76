"""Opening what the user points at: a picture, a folder, a folder per class, a manifest, a zip of these."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybridcascade.data.archives import ZipTree
from hybridcascade.data.images import MAX_PIXELS
from hybridcascade.data.layout import read_layout
from hybridcascade.data.manifest import Entry, parse_manifest
from hybridcascade.data.messages import complaint
from hybridcascade.data.pictures import (
    HeldPicture,
    MemorySource,
    Picture,
    PictureSource,
    Sample,
    StoredPicture,
    no_such_split,
)
from hybridcascade.data.published import open_published, split_by_rule
from hybridcascade.data.readers.base import Place
from hybridcascade.data.readers.catalogue import AUTO, NONE, check_format
from hybridcascade.data.tables import TABLE_ENDINGS, Table, read_table
from hybridcascade.data.trees import FolderTree, Tree, endings, is_picture
from hybridcascade.errors import DataError, ManifestError, PictureError

__all__ = [
    "MemorySource",
    "PictureSource",
    "Sample",
    "UnreadablePicture",
    "drop_unreadable",
    "join_sources",
    "open_pictures",
    "open_source",
    "scan_pictures",
]

log = logging.getLogger(__name__)


class UnreadablePicture(NamedTuple):
    """A picture that was left out, and why, in one line."""

    id: str
    reason: str


def open_source(
    path: str | PathLike[str],
    classes: Sequence[str] | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
    form: str = AUTO,
    make_split: str | None = None,
) -> PictureSource:
    """Open a source of pictures. No picture is decoded unless `strict`.

    Args:
        path: a picture; a folder (searched to its bottom); a manifest `.csv`, `.tsv`, `.parquet` or
            `.jsonl`; or a zip. A folder or zip with a manifest at its top (`manifest.*`, else the only
            table with a column `path`) is read through it; else the layouts of published data sets
            (`data/readers`) and folders per class are recognised. A `split_zhou_*.json` is one too.
        classes: what labels must be; leave it out where labels are not to be used. None takes the
            classes as found.
        split: keep only this split.
        allow_outside: let a manifest's paths leave its folder.
        strict: decode every picture once and stop at the first that cannot be read.
        max_pixels: pictures with more pixels are refused when they are opened.
        form: the layout: `auto`, `none` (a manifest or folders, no published data set), or a reader with its
            options, such as `emotion6@classes=6`; then no manifest is looked for.
        make_split: rule that gives pictures a split where the data has none, such as `hash:0.8`.

    Raises:
        SettingsError: no such layout or rule.
        DataError: nothing there, nothing to read, a damaged archive, an unknown split, or `make_split` where
            there is a split already.
        ManifestError: the first wrong row of a manifest, with file, row and column.
        PictureError: with `strict`, the first unreadable picture.
    """
    check_format(form)
    if make_split is not None:
        whole = open_source(path, classes, None, allow_outside, strict, max_pixels, form)
        source = split_by_rule(whole, make_split)
        return source if split is None else source.subset(split)
    place = Path(path)
    if place.is_dir():
        source = _open_tree(FolderTree(place), classes, split, allow_outside, max_pixels, form)
    elif not place.is_file():
        raise DataError(complaint(str(path), "a picture, folder, manifest or zip", "nothing", "Check the path"))
    elif place.suffix.lower() == ".zip":
        source = _open_tree(ZipTree(place), classes, split, False, max_pixels, form)
    elif place.suffix.lower() == ".json" and form != NONE:
        at = Place(FolderTree(place.parent), place.name)
        source = _part(open_published(at, "split_zhou" if form == AUTO else form, classes, max_pixels), split)
    elif place.suffix.lower() in TABLE_ENDINGS:
        tree = FolderTree(place.parent)
        source = _open_manifest(tree, place.name, str(path), classes, split, allow_outside, max_pixels)
    elif is_picture(place.name):
        single = StoredPicture(FolderTree(place.parent), place.name, max_pixels)
        source = PictureSource([Sample(place.name)], [single], None, str(path))
    else:
        remedy = f"Give a folder, a .zip, a picture, or a manifest ({', '.join(TABLE_ENDINGS)})"
        raise DataError(complaint(str(path), "a known kind of file", repr(place.suffix), remedy))
    if strict:
        scan_pictures(source, strict=True)
    return source


def _open_tree(
    tree: Tree, classes: Sequence[str] | None, split: str | None, allow_outside: bool, max_pixels: int, form: str
) -> PictureSource:
    files = tree.files()
    if form in (AUTO, NONE) and (manifest := _find_manifest(tree, files)) is not None:
        shown = f"{tree.name}/{manifest}"
        return _open_manifest(tree, manifest, shown, classes, split, allow_outside, max_pixels)
    if form != NONE and (known := open_published(Place(tree, files=files), form, classes, max_pixels)) is not None:
        return _part(known, split)
    names = [name for name in files if is_picture(name)]
    if not names:
        remedy = "Check the path; pictures end in .jpg, .png, .webp, .tif, ..."
        raise DataError(complaint(tree.name, "at least one picture", endings(files), remedy))
    layout = read_layout(names, classes)
    index = {name: row for row, name in enumerate(layout.classes or ())}
    samples = [
        Sample(name, None if label is None else index[label], None, part)
        for name, label, part in zip(names, layout.labels, layout.splits, strict=True)
    ]
    pictures = [StoredPicture(tree, name, max_pixels) for name in names]
    return _part(PictureSource(samples, pictures, layout.classes, tree.name), split)


def _part(source: PictureSource | None, split: str | None) -> PictureSource:
    assert source is not None
    return source if split is None else source.subset(split)


def _find_manifest(tree: Tree, files: Sequence[str]) -> str | None:
    """Return the manifest at the top of a folder or zip (in the one folder a zip often has), or None."""
    shared = os.path.commonpath(files) if len(files) > 1 else ""
    top = {"", shared.replace(os.sep, "/")}
    tables = [name for name in files if name.lower().endswith(TABLE_ENDINGS) and name.rpartition("/")[0] in top]
    named = [name for name in tables if name.rpartition("/")[2].rpartition(".")[0].lower() == "manifest"]
    if not named:
        named = [name for name in tables if "path" in _columns(tree, name)]
    if len(named) > 1:
        remedy = "Name the one to use, or keep a single manifest.csv"
        raise DataError(complaint(tree.name, "one manifest", ", ".join(named), remedy))
    if named:
        log.info("%s: reading the manifest %s", tree.name, named[0])
    return named[0] if named else None


def _columns(tree: Tree, name: str) -> tuple[str, ...]:
    try:
        with tree.open(name) as stream:
            return read_table(stream, name).columns
    except ManifestError as error:
        # Tables of any kind lie beside pictures; one that is no manifest is none of our business.
        log.info("%s is not read as a manifest: %s", name, error)
        return ()


def _open_manifest(
    tree: Tree,
    name: str,
    shown: str,
    classes: Sequence[str] | None,
    split: str | None,
    allow_outside: bool,
    max_pixels: int,
) -> PictureSource:
    try:
        with tree.open(name) as stream:
            table = read_table(stream, shown)
    except OSError as error:
        message = complaint(shown, "a readable manifest", error.strerror or str(error), "Check the file")
        raise ManifestError(message) from error
    manifest = parse_manifest(table, classes, allow_outside)
    base = name.rpartition("/")[0]
    base = f"{base}/" if base else ""
    finder = _Finder(tree, base, table, allow_outside, max_pixels)
    # Only what is asked for must exist: a test split need not bring the training pictures along.
    kept = [entry for entry in manifest.entries if split is None or entry.split == split]
    if not kept:
        raise DataError(no_such_split(shown, str(split), (entry.split for entry in manifest.entries)))
    samples = [Sample(entry.id, entry.label, entry.votes, entry.split) for entry in kept]
    return PictureSource(samples, finder.find(kept), manifest.classes, shown)


class _Finder:
    """Finds the pictures of manifest entries, or says which row points nowhere or out of the root."""

    def __init__(self, tree: Tree, base: str, table: Table, allow_outside: bool, max_pixels: int) -> None:
        self.tree, self.base, self.table = tree, base, table
        self.allow_outside, self.max_pixels = allow_outside, max_pixels
        self.archives: dict[str, ZipTree] = {}

    def find(self, entries: Sequence[Entry]) -> list[Picture]:
        found: list[Picture] = []
        lost: list[Entry] = []
        for entry in entries:
            tree = self.tree if entry.zip is None else self._archive(entry)
            name = entry.path if entry.zip is not None else self.base + entry.path
            if not tree.has(name):
                lost.append(entry)
                continue
            if entry.zip is None:
                self._guard(entry, name, "path")
            found.append(StoredPicture(tree, name, self.max_pixels))
        if lost:
            first = lost[0]
            more = f" (and {len(lost) - 1} more rows like it)" if len(lost) > 1 else ""
            inside = f"{self.tree.name}/{first.zip}" if first.zip else self.tree.name
            remedy = "Correct the path or remove the row; paths start at the folder of the manifest"
            where = self.table.where(first.row, "path")
            raise ManifestError(complaint(where, f"a file in {inside}", f"no {first.path!r}{more}", remedy))
        return found

    def _archive(self, entry: Entry) -> ZipTree:
        assert entry.zip is not None
        if entry.zip not in self.archives:
            where = self.table.where(entry.row, "zip")
            if not isinstance(self.tree, FolderTree):
                remedy = "Unpack the outer archive, or put the pictures directly into it"
                raise ManifestError(complaint(where, "no archive inside an archive", repr(entry.zip), remedy))
            name = self.base + entry.zip
            if not self.tree.has(name):
                message = complaint(where, f"an archive in {self.tree.name}", f"no {entry.zip!r}", "Correct the cell")
                raise ManifestError(message)
            self._guard(entry, name, "zip")
            self.archives[entry.zip] = ZipTree(self.tree.root / name)
        return self.archives[entry.zip]

    def _guard(self, entry: Entry, name: str, column: str) -> None:
        if not self.allow_outside and not self.tree.contains(name):
            where = self.table.where(entry.row, column)
            expected = "a file below the folder of the manifest"
            remedy = "Copy the file there, or allow paths outside"
            raise ManifestError(complaint(where, expected, f"{name!r}, a link that leads out of it", remedy))


def open_pictures(
    items: str | PathLike[str] | Image.Image | Sequence[str | PathLike[str] | Image.Image | NDArray[np.uint8]],
    max_pixels: int = MAX_PIXELS,
) -> PictureSource:
    """Open whatever is to be predicted; labels are left aside.

    Args:
        items: one path (as for `open_source`) or picture, or a list of paths, Pillow pictures and uint8
            arrays `[H, W, 3]`.
        max_pixels: pictures with more pixels are refused when they are opened.

    Returns:
        Ids: of a single folder, zip or manifest as in `open_source`; in a list a file's path as written,
        for a folder's pictures the folder as written and the relative path; `image-0001`, ... (the
        position in the list) for pictures in memory.

    Raises:
        DataError: as `open_source`, an empty list, or an id twice.
    """
    if isinstance(items, str | PathLike):
        # What is to be predicted is what lies there, not what the lists of a data set say.
        return open_source(items, max_pixels=max_pixels, form=NONE).unlabeled()
    if isinstance(items, Image.Image):
        items = [items]
    if not len(items):
        raise DataError("pictures: expected at least one, found an empty list. Give paths or pictures.")
    return join_sources([_item(item, number, max_pixels) for number, item in enumerate(items, start=1)])


def _item(item: str | PathLike[str] | Image.Image | NDArray[np.uint8], number: int, max_pixels: int) -> PictureSource:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
            found = f"{item.dtype} {list(item.shape)}"
            raise DataError(complaint(f"picture {number}", "a uint8 array [H, W, 3]", found, "Convert it"))
        item = Image.fromarray(item)
    if isinstance(item, Image.Image):
        return PictureSource([Sample(f"image-{number:04d}")], [HeldPicture(item)], None, f"picture {number}")
    source = open_source(item, max_pixels=max_pixels, form=NONE).unlabeled()
    written = Path(item).as_posix()
    whole = Path(item).is_file() and len(source) == 1 and source.ids[0] == Path(item).name
    ids = [written] if whole else [f"{written}/{name}" for name in source.ids]
    source.samples = tuple(Sample(name) for name in ids)
    return source


def join_sources(sources: Sequence[PictureSource]) -> PictureSource:
    """Put sources one after the other; labels and votes are left aside, for their classes may differ.

    Raises:
        DataError: no source, or an id in two of them.
    """
    samples = [Sample(sample.id, split=sample.split) for source in sources for sample in source.samples]
    pictures = [picture for source in sources for picture in source.pictures]
    return PictureSource(samples, pictures, None, ", ".join(source.name for source in sources[:3]))


def scan_pictures(source: PictureSource, strict: bool = False, workers: int | None = None) -> list[UnreadablePicture]:
    """Decode every picture once and list those that cannot be read.

    It is done before training, so that the rows that targets and pseudo-labels count in stay the same
    from the first epoch to the last.

    Args:
        source: the pictures.
        strict: stop at the first unreadable one instead.
        workers: threads (decoding releases the interpreter lock); the number of cores, at most 8, when None.

    Raises:
        PictureError: with `strict`, the first unreadable picture in row order.
    """
    if isinstance(source, MemorySource):
        return []

    def check(row: int) -> UnreadablePicture | None:
        try:
            source.open(row)
        except PictureError as error:
            if strict:
                raise
            return UnreadablePicture(source.samples[row].id, str(error))
        return None

    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        return [problem for problem in pool.map(check, range(len(source))) if problem is not None]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def drop_unreadable(source: PictureSource, strict: bool = False) -> tuple[PictureSource, list[UnreadablePicture]]:
    """Return the source without its unreadable pictures, and the list of these.

    Args:
        source: the pictures.
        strict: raise at the first unreadable one instead.

    Raises:
        PictureError: with `strict`, the first unreadable picture.
        DataError: none can be read.
    """
    problems = scan_pictures(source, strict)
    if not problems:
        return source, []
    bad = {problem.id for problem in problems}
    rows = [row for row, sample in enumerate(source.samples) if sample.id not in bad]
    if not rows:
        found = f"none of {len(source)}; first: {problems[0].reason}"
        raise DataError(complaint(source.name, "at least one readable picture", found, "Check the files"))
    log.warning("%s: %d of %d pictures cannot be read and are left out", source.name, len(bad), len(source))
    return source.take(rows), problems
