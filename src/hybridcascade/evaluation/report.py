"""The report: one HTML page that needs nothing else, to keep, print or send.

Style, pictures and plots are inside the page; its content security policy forbids everything from outside.
All text from users is escaped. The page is written beside its place and renamed, so an old report survives
a full disk. `page` lays the sections out; this module holds what goes in and the file that comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import DataError
from hybridcascade.evaluation.page import render_page
from hybridcascade.evaluation.plots import TrainingCurve
from hybridcascade.evaluation.protocol import ResultRow

if TYPE_CHECKING:
    from hybridcascade.engine.records import PhaseRecord
    from hybridcascade.evaluation.metrics import Reliability

__all__ = ["Example", "Learned", "ReportData", "TrainingCurve", "training_curve", "write_report"]

Learned = Mapping[str, "float | Sequence[float] | Sequence[Sequence[float]]"]
"""Learned quantities of one method: a number, one a stage, or one sequence a stage."""


@dataclass(frozen=True)
class Example:
    """One picture with what is true of it and what was predicted.

    Attributes:
        picture: PNG, JPEG, GIF or WebP bytes, or uint8 `[H, W, 3]`.
        id: sample id.
        truth: true distribution, K values summing to 1, or None where unknown.
        predictions: predicted distribution by method, K values each.
    """

    picture: bytes | NDArray[np.uint8]
    id: str
    truth: Sequence[float] | None
    predictions: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows; empty parts are left out.

    Attributes:
        title: heading of the page.
        classes: K class names, the order of every distribution.
        rows: one a method and seed; the first method is the baseline that the headline compares with.
        ceiling: metrics of the best possible predictor, where known.
        summary: a paragraph under the heading.
        command: what made the results, to be run again.
        model: backbone in words.
        data: test data in words, with its number of pictures; say here when it is generated.
        seed: of the runs, in words or a number.
        versions: package versions by name.
        examples: pictures; about a dozen stay readable.
        shown: methods drawn for each example, at most three; all are in its table. Empty: the first and the best.
        learned: learned quantities by method. `stage_weights` and names such as `nga_weights` (one sequence a
            stage) or `block_weights_cls_stage_1` (one name a stage, a plot for `cls`) are drawn, others listed.
        blocks: blocks of each stage by method, to label the NGA weights.
        curves: training curves by method and phase.
        reliability: from `metrics.reliability`, by method.
        protocol: how the figures were taken, a sentence or two.
        notes: remarks on how to read the figures, a paragraph each.
    """

    title: str
    classes: Sequence[str]
    rows: Sequence[ResultRow]
    ceiling: Mapping[str, float] | None = None
    summary: str = ""
    command: str = ""
    model: str = ""
    data: str = ""
    seed: int | str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    shown: Sequence[str] = ()
    learned: Mapping[str, Learned] = field(default_factory=dict)
    blocks: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, TrainingCurve]] = field(default_factory=dict)
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    protocol: str = "The last checkpoint was evaluated, once. No label of a test picture was read before."
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError("a report needs at least one result row")
        for example in self.examples:
            named = {} if example.truth is None else {"the true distribution": example.truth}
            for name, values in (named | dict(example.predictions)).items():
                if len(values) != len(self.classes):
                    raise DataError(
                        f"example {example.id!r}: {name} has {len(values)} values for {len(self.classes)} classes"
                    )


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page; an older one is replaced only once the new one is complete.

    Args:
        path: the HTML file; its folder is made.
        data: what to show.

    Returns:
        The path written.

    Raises:
        DataError: a picture or distribution cannot be shown.
        OSError: the file cannot be written; what was there before is still there.
    """
    target = Path(path)
    write_text(target, render_page(data))
    return target


def training_curve(record: PhaseRecord) -> TrainingCurve:
    """Return the curve of one phase as the engine recorded it, an entry an epoch, the highest rate of its groups."""
    history = record.history
    return TrainingCurve(
        step=[epoch.epoch + 1 for epoch in history],
        loss=[epoch.loss for epoch in history],
        lr=[max(epoch.lr.values(), default=0.0) for epoch in history],
        unit="epoch",
    )
