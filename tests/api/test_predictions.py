"""The result object: rows, labels, errors, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridcascade.errors import SettingsError
from hybridcascade.predictions import Predictions


@pytest.fixture
def three() -> Predictions:
    nan = float("nan")
    return Predictions(
        ids=("a.jpg", "bad.jpg", "sub/c.jpg"),
        classes=("awe", "fear"),
        probabilities=np.array([[0.25, 0.75], [nan, nan], [0.5, 0.5]], np.float32),
        errors=(None, "truncated", None),
        stage_probabilities=np.array(
            [[[0.9, 0.1], [0.2, 0.8]], [[nan, nan], [nan, nan]], [[0.4, 0.6], [0.5, 0.5]]], np.float32
        ),
        stage_weights=np.array([[0.3, 0.7], [nan, nan], [0.3, 0.7]], np.float32),
        seconds=0.5,
    )


def test_rows(three: Predictions) -> None:
    assert three.labels == ("fear", None, "awe")
    assert three.stage_labels == (("awe", "fear"), (), ("fear", "awe"))
    assert three.failed == [("bad.jpg", "truncated")]
    first, bad, _ = three
    assert first.probabilities == {"awe": 0.25, "fear": 0.75}
    assert (bad.label, bad.probabilities, bad.error) == (None, {}, "truncated")


def test_csv_has_a_row_for_the_bad_picture_with_empty_cells(three: Predictions) -> None:
    assert three.to_csv().splitlines() == [
        "id,label,prob_awe,prob_fear,error",
        "a.jpg,fear,0.25,0.75,",
        "bad.jpg,,,,truncated",
        "sub/c.jpg,awe,0.5,0.5,",
    ]


def test_json_lines(three: Predictions) -> None:
    rows = [json.loads(line) for line in three.to_json().splitlines()]
    assert rows[0] == {"id": "a.jpg", "label": "fear", "prob_awe": 0.25, "prob_fear": 0.75, "error": None}
    assert rows[1] == {"id": "bad.jpg", "label": None, "prob_awe": None, "prob_fear": None, "error": "truncated"}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_read_back_equal(three: Predictions, tmp_path: Path, ending: str) -> None:
    path = three.save(tmp_path / "new" / f"p.{ending}")
    readers = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}
    frame = readers[ending](path)
    assert list(frame.columns) == three.columns()
    assert list(frame["id"]) == list(three.ids)
    np.testing.assert_allclose(frame[["prob_awe", "prob_fear"]].to_numpy(float), three.probabilities, atol=1e-6)
    assert frame["error"].isna().tolist() == [True, False, True]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unknown_ending_is_refused(three: Predictions, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.csv, \.jsonl, \.parquet"):
        three.save(tmp_path / "p.xlsx")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_old_file_survives_a_full_disk(
    three: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"p.{ending}"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        three.save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="shape"):
        Predictions(("a",), ("x", "y"), np.zeros((1, 3), np.float32), (None,))
