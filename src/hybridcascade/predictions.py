"""The result of a prediction: names, distributions, stage verdicts, errors; as table, JSON or file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridcascade.engine.atomic import replacing, write_text
from hybridcascade.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "PredictionRow", "Predictions", "check_output_name"]

FORMATS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class PredictionRow:
    """The verdict on one picture.

    Attributes:
        id: sample id: the relative path, or the place in the list for pictures in memory.
        label: most probable class; None when the picture could not be read.
        probabilities: `{class: probability}` in class order; empty when the picture could not be read.
        stages: label of each stage, shallow to deep; empty for single-stage methods.
        error: why the picture could not be read; None when it could.
    """

    id: str
    label: str | None
    probabilities: dict[str, float]
    stages: tuple[str, ...]
    error: str | None


@dataclass(frozen=True)
class Predictions:
    """Verdicts on N pictures over K classes, in the order of the input.

    Attributes:
        ids: sample ids, unique, N of them.
        classes: class names, K of them.
        probabilities: float32 `[N, K]`, rows sum to 1; a row of NaN where the picture could not be read.
        errors: reason for each picture that could not be read, None for the others, N of them.
        stage_probabilities: float32 `[N, S, K]`, what each stage alone would say, or None for
            single-stage methods; NaN where the picture could not be read.
        stage_weights: float32 `[N, S]`, weight of each stage in the verdict, or None.
        seconds: time from the first picture to the last, decoding included.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    errors: tuple[str | None, ...]
    stage_probabilities: NDArray[np.float32] | None = None
    stage_weights: NDArray[np.float32] | None = None
    seconds: float = math.nan

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.classes))
        if self.probabilities.shape != expected:
            raise ValueError(f"probabilities must have shape {expected}, got {self.probabilities.shape}")
        if len(self.errors) != len(self.ids):
            raise ValueError(f"errors must have {len(self.ids)} entries, got {len(self.errors)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[PredictionRow]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, row: int) -> PredictionRow:
        error = self.errors[row]
        shares = {} if error else dict(zip(self.classes, self.probabilities[row].tolist(), strict=True))
        return PredictionRow(self.ids[row], self.labels[row], shares, self.stage_labels[row], error)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """Most probable class of each picture (the first of equals); None where it could not be read."""
        best = np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1) if len(self) else []
        return tuple(None if error else self.classes[k] for k, error in zip(best, self.errors, strict=True))

    @property
    def stage_labels(self) -> tuple[tuple[str, ...], ...]:
        """Most probable class of each stage, shallow to deep; empty for single-stage methods."""
        if self.stage_probabilities is None:
            return tuple(() for _ in self.ids)
        best = np.nan_to_num(self.stage_probabilities, nan=-1.0).argmax(axis=2)
        return tuple(
            () if error else tuple(self.classes[k] for k in row) for row, error in zip(best, self.errors, strict=True)
        )

    @property
    def failed(self) -> list[tuple[str, str]]:
        """`(id, reason)` of each picture that could not be read."""
        return [(i, error) for i, error in zip(self.ids, self.errors, strict=True) if error]

    def columns(self) -> list[str]:
        """Column names of the table: id, label, `prob_<class>` for each class, error."""
        return ["id", "label", *(f"prob_{name}" for name in self.classes), "error"]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table; None in the cells of a picture that could not be read."""
        names = self.columns()
        labels = self.labels
        for row, (sample, error) in enumerate(zip(self.ids, self.errors, strict=True)):
            shares = [None] * len(self.classes) if error else [float(p) for p in self.probabilities[row]]
            yield dict(zip(names, [sample, labels[row], *shares, error], strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as a data frame: id, label, `prob_<class>`, error."""
        import pandas as pd

        frame = pd.DataFrame({"id": list(self.ids), "label": list(self.labels)}, dtype=object)
        for column, name in enumerate(self.classes):
            frame[f"prob_{name}"] = self.probabilities[:, column]
        frame["error"] = pd.Series(list(self.errors), dtype=object)
        return frame

    def to_csv(self) -> str:
        """Return the table as CSV text; cells of a picture that could not be read are empty."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns(), lineterminator="\n")
        writer.writeheader()
        for record in self.records():
            writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in record.items()})
        return buffer.getvalue()

    def to_json(self) -> str:
        """Return the table as JSON lines, one object a picture."""
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records())

    def save(self, path: str | Path) -> Path:
        """Write the table; the ending chooses CSV, JSON lines or Parquet. An old file survives a failed write.

        Raises:
            SettingsError: the ending is none of .csv, .jsonl, .parquet.
            OSError: the file cannot be written; what was there before is still there.
        """
        target = Path(path)
        ending = check_output_name(target)
        if ending == ".parquet":
            with replacing(target) as beside:
                self.to_pandas().to_parquet(beside, index=False)
        else:
            write_text(target, self.to_csv() if ending == ".csv" else self.to_json())
        return target


def check_output_name(path: str | Path) -> str:
    """Return the ending of a table's file name, so that a wrong one is told before the work is done.

    Raises:
        SettingsError: the ending is none of .csv, .jsonl, .parquet.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise SettingsError(f"cannot write {str(path)!r}: the ending must be {', '.join(FORMATS)}")
    return ending
