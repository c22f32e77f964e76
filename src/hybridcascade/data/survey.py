"""What is in a data set: counts, balance, votes, ties, what is missing, unreadable or there twice."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridcascade.data.archives import ZipTree
from hybridcascade.data.lookalikes import Mark, find_lookalikes, mark_picture
from hybridcascade.data.manifest import parse_manifest
from hybridcascade.data.pictures import PictureSource
from hybridcascade.data.published import published_source, split_by_rule
from hybridcascade.data.readers.base import Place, Reading, winner
from hybridcascade.data.readers.catalogue import AUTO, NONE, READERS, read_place
from hybridcascade.data.sources import open_source
from hybridcascade.data.tables import read_table
from hybridcascade.data.trees import FolderTree, Tree
from hybridcascade.errors import DataError, PictureError

__all__ = ["Pair", "Survey", "survey"]

NO_SPLIT = "no split"
NO_LABEL = "no label"


@dataclass(frozen=True)
class Pair:
    """Two pictures that look alike.

    Attributes:
        first: id.
        second: id.
        bits: of the 128 of their hashes that differ.
        splits: of both.
        labels: of both.
    """

    first: str
    second: str
    bits: int
    splits: tuple[str, str]
    labels: tuple[str, str]


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        path: as given.
        format: of the layout, in words.
        pictures: how many are read.
        classes: K names, empty without labels.
        splits: split -> pictures.
        balance: class -> split -> pictures; the class is the label, else the class with most votes.
        votes: pictures with votes, and the smallest and largest sum of votes of one; empty without votes.
        vote_mass: class -> mean share of the votes.
        ties: ids of pictures on which two classes have most votes.
        against_votes: ids whose stated label is not the class with most votes.
        keywords: keyword -> class -> pictures; empty where the data has none.
        missing: listed, but not there.
        left_out: why -> how many.
        unreadable: id and reason.
        pairs: pictures that look alike.
        split_source: where the split comes from.
        remarks: on the data.
    """

    path: str
    format: str
    pictures: int
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    balance: Mapping[str, Mapping[str, int]]
    votes: Mapping[str, float]
    vote_mass: Mapping[str, float]
    ties: tuple[str, ...]
    against_votes: tuple[str, ...]
    keywords: Mapping[str, Mapping[str, int]]
    missing: tuple[str, ...]
    left_out: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    pairs: tuple[Pair, ...]
    split_source: str | None
    remarks: tuple[str, ...]
    source: PictureSource = field(repr=False)

    @property
    def leaks(self) -> tuple[Pair, ...]:
        """Pairs whose pictures are in two splits."""
        return tuple(pair for pair in self.pairs if pair.splits[0] != pair.splits[1])

    @property
    def keyword_agreement(self) -> tuple[int, int] | None:
        """On how many pictures keyword and label are the same, and of how many; None without keywords."""
        total = sum(sum(row.values()) for row in self.keywords.values())
        same = sum(row.get(keyword, 0) for keyword, row in self.keywords.items())
        return (same, total) if total else None

    def plain(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "source"}
        values["pairs"] = [dataclasses.asdict(pair) for pair in self.pairs]
        values["pairs_across_splits"] = len(self.leaks)
        values["keyword_agreement"] = self.keyword_agreement
        return values


def survey(
    path: str | Path, form: str = AUTO, make_split: str | None = None, decode: bool = True, workers: int | None = None
) -> Survey:
    """Look through a data set; every picture is decoded once.

    Args:
        path: what `open_source` takes.
        form: layout, as in `open_source`.
        make_split: rule for a split, as in `open_source`.
        decode: False leaves the pictures closed: nothing is then known of unreadable ones and duplicates.
        workers: threads; the number of cores, at most 8, when None.

    Raises:
        SettingsError: no such layout or rule.
        DataError: the data cannot be opened.
    """
    source, reading, words, keywords = _open(Path(path), form)
    if make_split is not None:
        source = split_by_rule(source, make_split)
    labels = _labels(source)
    splits = [sample.split or NO_SPLIT for sample in source.samples]
    marks, unreadable = _decode(source, workers) if decode else ([], ())
    pairs = tuple(
        Pair(source.ids[a], source.ids[b], bits, (splits[a], splits[b]), (labels[a], labels[b]))
        for a, b, bits in find_lookalikes(marks)
    )
    names = (*(source.classes or ()), *([NO_LABEL] if NO_LABEL in labels else []))
    counted = Counter(zip(labels, splits, strict=True))
    order = _split_order(splits)
    votes, mass = _votes(source)
    return Survey(
        path=str(path),
        format=words,
        pictures=len(source),
        classes=source.classes or (),
        splits={split: splits.count(split) for split in order},
        balance={name: {split: counted[name, split] for split in order} for name in names},
        votes=votes,
        vote_mass=mass,
        ties=tuple(s.id for s in source.samples if s.votes is not None and winner(s.votes) is None),
        against_votes=tuple(s.id for s in source.samples if _against(s.label, s.votes)),
        keywords=_keyword_table(source, labels, keywords),
        missing=reading.missing if reading else (),
        left_out=reading.left_out if reading else {},
        unreadable=unreadable,
        pairs=pairs,
        split_source=make_split or (reading.split if reading else None),
        remarks=reading.remarks if reading else (),
        source=source,
    )


def _open(path: Path, form: str) -> tuple[PictureSource, Reading | None, str, dict[str, str]]:
    """Source, reading, format in words, and keyword by id."""
    tree: Tree | None = None
    if path.is_dir():
        tree = FolderTree(path)
    elif path.is_file() and path.suffix.lower() == ".zip":
        tree = ZipTree(path)
    only = path.name if path.is_file() and path.suffix.lower() == ".json" else None
    if only:
        tree, form = FolderTree(path.parent), "split_zhou" if form == AUTO else form
    plain = None if only or form not in (AUTO, NONE) else _try_manifest(path)
    if plain is None and tree is not None and form != NONE:
        place = Place(tree, only)
        if (reading := read_place(place, form)) is not None:
            keywords = {row.path: row.keyword for row in reading.rows if row.keyword}
            words = f"{reading.format} ({reading.title}): {READERS[reading.format].files}"
            return published_source(place, reading), reading, words, keywords
    source = plain or open_source(path, form=NONE)
    table, keywords = _table_keywords(source)
    words = f"manifest {table}" if table else "folders of pictures" if source.classes else "pictures without labels"
    return source, None, words, keywords


def _try_manifest(path: Path) -> PictureSource | None:
    """The source where a manifest says what is in it, which goes before everything else; None without one."""
    try:
        source = open_source(path, form=NONE)
    except DataError:
        if path.suffix.lower() in (".csv", ".tsv", ".parquet", ".jsonl"):
            raise
        return None  # the layout of a published data set may hold what folders alone do not say
    return source if source.name != str(path) or (path.is_file() and path.suffix.lower() != ".zip") else None


def _table_keywords(source: PictureSource) -> tuple[str, dict[str, str]]:
    """Name of the manifest, and its column `keyword` by id, where there are any."""
    file = Path(source.name)
    if not file.is_file() or file.suffix.lower() not in (".csv", ".tsv", ".parquet", ".jsonl"):
        inner = source.name.rpartition("/")[2]
        return (inner if inner.endswith((".csv", ".tsv", ".parquet", ".jsonl")) else ""), {}
    with file.open("rb") as stream:
        table = read_table(stream, source.name)
    if "keyword" not in table.columns:
        return file.name, {}
    entries = parse_manifest(table, source.classes, allow_outside=True).entries
    return file.name, {e.id: str(e.row.cells["keyword"]) for e in entries if e.row.cells.get("keyword")}


def _labels(source: PictureSource) -> list[str]:
    names = source.classes or ()
    found = []
    for sample in source.samples:
        row = sample.label if sample.label is not None else winner(sample.votes) if sample.votes else None
        if row is None and sample.votes is not None:
            row = sample.votes.index(max(sample.votes))  # a tie: the first, as in training
        found.append(NO_LABEL if row is None else names[row])
    return found


def _against(label: int | None, votes: Sequence[float] | None) -> bool:
    return label is not None and votes is not None and votes[label] < max(votes)


def _votes(source: PictureSource) -> tuple[dict[str, float], dict[str, float]]:
    rows = [sample.votes for sample in source.samples if sample.votes is not None]
    if not rows:
        return {}, {}
    sums = [sum(row) for row in rows]
    mass = [sum(row[k] / total for row, total in zip(rows, sums, strict=True)) for k in range(len(rows[0]))]
    zeros = sum(vote == 0 for row in rows for vote in row) / (len(rows) * len(rows[0]))
    summary = {"pictures": len(rows), "smallest_sum": min(sums), "largest_sum": max(sums), "share_of_zeros": zeros}
    return summary, {name: mass[k] / len(rows) for k, name in enumerate(source.classes or ())}


def _keyword_table(
    source: PictureSource, labels: Sequence[str], keywords: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    counted = Counter((keywords[i], label) for i, label in zip(source.ids, labels, strict=True) if i in keywords)
    names = sorted({keyword for keyword, _ in counted})
    return {word: {name: counted[word, name] for name in source.classes or () if counted[word, name]} for word in names}


def _split_order(splits: Sequence[str]) -> list[str]:
    known = [name for name in ("train", "val", "test") if name in splits]
    return [*known, *sorted(set(splits) - set(known))]


def _decode(source: PictureSource, workers: int | None) -> tuple[list[Mark | None], tuple[tuple[str, str], ...]]:
    def look(row: int) -> Mark | str:
        try:
            return mark_picture(source.open(row))
        except PictureError as error:
            return str(error)

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(look, range(len(source))))
    problems = ((i, mark) for i, mark in zip(source.ids, found, strict=True) if isinstance(mark, str))
    return [None if isinstance(mark, str) else mark for mark in found], tuple(problems)
