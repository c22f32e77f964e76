"""Alternate two programs, and turn their times into an entry of the report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.floor import Geometry, matmul_rate

__all__ = ["Contest", "Entry", "run_contest"]


@dataclass(frozen=True)
class Contest:
    """Two programs that do the same job.

    Attributes:
        name: of the entry.
        ours: does the job once; gets the number of the pair (-1 and below while warming up).
        reference: the plain program.
        pictures: pictures in a job.
        flops: that our algorithm cannot do without in a job.
        dtype: of our matrix products.
        geometry: of the model.
        rows: B times tokens, for the matmul rate.
        square: side of the square product of the matmul rate.
        facts: what else the entry should say.
    """

    name: str
    ours: Callable[[int], Any]
    reference: Callable[[int], Any]
    pictures: int
    flops: int
    dtype: torch.dtype
    geometry: Geometry
    rows: int
    square: int = 4096
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One line of the report.

    Attributes:
        name: of the contest.
        ratio: median over the pairs of (time of the reference / our time): above 1, ours is faster.
        floor_share: (FLOPs / matmul rate) / our median time: 1 would be the floor itself.
        rows: each pair: seconds of ours and of the reference, and who went first.
        facts: the other numbers.
    """

    name: str
    ratio: float
    floor_share: float
    rows: list[dict[str, Any]]
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The entry as one flat object."""
        head = {"name": self.name, "ratio": self.ratio, "floor_share": self.floor_share}
        return head | self.facts | {"rows": self.rows}


def run_contest(contest: Contest, pairs: int, warmup: int) -> Entry:
    """Run both programs in turn; who goes first alternates from pair to pair.

    Args:
        contest: what runs.
        pairs: pairs that count.
        warmup: pairs before them that do not.
    """
    rates = [_rate(contest)]
    for number in range(-warmup, 0):
        contest.ours(number)
        contest.reference(number)
    rows = [_pair(contest, number) for number in range(pairs)]
    rates.append(_rate(contest))
    ours = statistics.median(row["ours_s"] for row in rows)
    reference = statistics.median(row["reference_s"] for row in rows)
    rate = max(rates)  # a neighbour on the machine slows a measurement, nothing makes it faster
    facts = {
        "ours_s": ours,
        "reference_s": reference,
        "ours_pictures_per_s": contest.pictures / ours,
        "reference_pictures_per_s": contest.pictures / reference,
        "ratio_min": min(row["ratio"] for row in rows),
        "ratio_max": max(row["ratio"] for row in rows),
        "gflop": contest.flops / 1e9,
        "matmul_gflops": rate / 1e9,
        "floor_s": contest.flops / rate,
        "dtype": str(contest.dtype).removeprefix("torch."),
    }
    ratio = statistics.median(row["ratio"] for row in rows)
    return Entry(contest.name, ratio, contest.flops / rate / ours, rows, facts | contest.facts)


def _rate(contest: Contest) -> float:
    return matmul_rate(contest.dtype, contest.geometry, contest.rows, contest.square)


def _pair(contest: Contest, number: int) -> dict[str, Any]:
    programs = [("ours", contest.ours), ("reference", contest.reference)]
    if number % 2:
        programs.reverse()
    seconds = {}
    for name, program in programs:
        start = time.perf_counter()
        program(number)
        seconds[name] = time.perf_counter() - start
    return {
        "ours_s": seconds["ours"],
        "reference_s": seconds["reference"],
        "ratio": seconds["reference"] / seconds["ours"],
        "first": programs[0][0],
    }
