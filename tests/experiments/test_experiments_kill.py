"""`compare` killed with -9 in the middle and started again ends with the table of an undisturbed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridcascade.cli import main

_SCRIPT = """
import sys
from pathlib import Path
import hybridcascade.backbone.loading as loading
loading.nano_folder = lambda: Path(sys.argv[1])
from hybridcascade.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run_until(lines: int, store: Path, command: list[str]) -> None:
    """Start `compare` in a process of its own and kill it with -9 once the store has some rows."""
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, *command], stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < ends:
        if store.exists() and store.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait(timeout=60) == -signal.SIGKILL, "it ended before it could be killed"


def timeless(table: str) -> list[list[str]]:
    """The lines of the table without the last column, which is the wall time."""
    return [line.split("|")[:-2] for line in table.splitlines() if line.startswith("|")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_killed_and_started_again(
    recipe: Path, tmp_path: Path, offline_nano: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--recipe", str(recipe), "--methods", "text_only,lafter", "--seeds", "2"]
    words += ["--device", "cpu", "--markdown"]
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    assert main([*words, "--out", str(calm), "--json", str(tmp_path / "calm.json")]) == 0
    calm_table = capsys.readouterr().out
    run_until(3, disturbed / "results.jsonl", [str(offline_nano), *words, "--out", str(disturbed)])
    survived = (disturbed / "results.jsonl").read_bytes().count(b"\n")
    assert 3 <= survived < 8
    assert not (disturbed / "table.md").exists()
    with (disturbed / "results.jsonl").open("ab") as file:
        file.write(b'{"key": "0123')  # as if the kill had come while a line was written
    assert main([*words, "--out", str(disturbed), "--json", str(tmp_path / "disturbed.json")]) == 0
    captured = capsys.readouterr()
    assert f"{survived} are in" in captured.err
    assert "torn" in captured.err
    assert timeless(captured.out) == timeless(calm_table)
    assert len(timeless(calm_table)) == 2 + 4
    documents = [json.loads((tmp_path / name).read_text()) for name in ("calm.json", "disturbed.json")]
    assert documents[0] == documents[1]
    assert len(documents[0]["rows"]) == 8
