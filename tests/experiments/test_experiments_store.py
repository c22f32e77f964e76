"""The store: rows are on the disk when `add` returns, torn lines go, other files are refused."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from hybridcascade.errors import CheckpointError
from hybridcascade.experiments.store import ResultStore, row_key


def test_rows_are_read_back_and_found_by_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    store = ResultStore(path)
    assert len(store) == 0
    assert not path.exists()
    returned = store.add("k1", {"metrics": {"accuracy": 0.1 + 0.2, "kl": float("nan")}, "learned": {"s": (1.0, 2.0)}})
    store.add("k2", {"name": "Grüße\nzwei Zeilen"})
    again = ResultStore(path)
    assert len(again) == 2
    expected = {"key": "k1", "metrics": {"accuracy": 0.1 + 0.2, "kl": None}, "learned": {"s": [1.0, 2.0]}}
    assert again.get("k1") == returned == expected
    assert again.get("k2") == {"key": "k2", "name": "Grüße\nzwei Zeilen"}
    assert "k3" not in again
    assert again.get("k3") is None
    assert path.read_bytes().count(b"\n") == 2
    with pytest.raises(ValueError, match="k1"):
        again.add("k1", {})


def test_a_row_is_flushed_to_the_disk_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda handle: (flushed.append(os.fstat(handle).st_size), real(handle)))
    ResultStore(tmp_path / "r.jsonl").add("k", {"a": 1})
    assert flushed == [(tmp_path / "r.jsonl").stat().st_size]


@pytest.mark.parametrize("torn", [b'{"key": "k3", "acc', b'{"key": "k3"}', b"{", b"\xff\xfe"])
def test_a_torn_last_line_is_dropped_with_a_warning(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.jsonl"
    store = ResultStore(path)
    store.add("k1", {"a": 1})
    store.add("k2", {"a": 2})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with caplog.at_level(logging.WARNING):
        again = ResultStore(path)
    assert "torn" in caplog.text
    assert len(again) == 2
    assert "k3" not in again
    again.add("k3", {"a": 3})
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k1", "k2", "k3"]


def test_a_damaged_line_in_the_middle_costs_only_its_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": "k1", "a": 1}\n{"key": "k2", \n{"key": "k3", "a": 3}\n')
    with caplog.at_level(logging.WARNING):
        store = ResultStore(path)
    assert "line 2" in caplog.text
    assert ("k1" in store, "k2" in store, "k3" in store) == (True, False, True)


@pytest.mark.parametrize("content", ["a diary\n", "[1, 2]\n", '{"no": "key"}\n'])
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "diary.txt"
    path.write_text(content + "torn")
    with pytest.raises(CheckpointError, match="nothing was changed"):
        ResultStore(path)
    assert path.read_text() == content + "torn"


def test_keys_depend_on_content_alone() -> None:
    key = row_key({"a": (1, 2), "b": {"x": 1.5, "y": None}})
    assert key == row_key({"b": {"y": None, "x": 1.5}, "a": [1, 2]})
    assert len(key) == 32
    assert key != row_key({"a": (1, 2), "b": {"x": 1.5000001, "y": None}})
    with pytest.raises(ValueError, match="JSON"):
        row_key({"a": float("nan")})
