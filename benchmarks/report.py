"""The report of a benchmark: JSON for programs, a table for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import Entry

__all__ = ["machine_facts", "table", "write_json"]

_FLAGS = ("amx_bf16", "amx_tile", "amx_int8", "avx512_bf16", "avx512f", "avx2")


def machine_facts(kept_memory: bool) -> dict[str, Any]:
    """What a reader must know to compare figures.

    Args:
        kept_memory: what `keep_freed_memory` has answered; it holds for both programs.
    """
    flags, model = _cpu()
    return {
        "cpu": model,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "keeps_freed_memory": kept_memory,
        "malloc_environment": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_") or k == "GLIBC_TUNABLES"},
    }


def _cpu() -> tuple[frozenset[str], str]:
    """CPU flags and name, where Linux tells them."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return frozenset(), platform.processor()
    lines = dict(line.split(":", 1) for line in file.read_text().split("\n\n")[0].splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in lines.items()}
    return frozenset(found.get("flags", "").split()), found.get("model name", platform.processor())


def write_json(file: Path, benchmark: str, machine: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Write the report.

    Args:
        file: overwritten.
        benchmark: `train_step` or `encode`.
        machine: see `machine_facts`.
        entries: in order.
    """
    content = {
        "benchmark": benchmark,
        "ratio_is": "median over pairs of reference seconds / our seconds; above 1, ours is faster",
        "floor_share_is": "seconds that the FLOPs need at the matmul rate measured in this run / our median seconds",
        "machine": machine,
        "entries": [entry.as_json() for entry in entries],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table(entries: Sequence[Entry]) -> str:
    """The entries as a Markdown table."""
    head = ["entry", "ours s", "reference s", "ratio (range)", "floor share", "agreement"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for entry in entries:
        facts = entry.facts
        agreement = facts.get("argmax_agreement")
        lines.append(
            [
                entry.name,
                f"{facts['ours_s']:.3f}",
                f"{facts['reference_s']:.3f}",
                f"{entry.ratio:.2f} ({facts['ratio_min']:.2f}-{facts['ratio_max']:.2f})",
                f"{entry.floor_share:.0%}",
                "" if agreement is None else f"{agreement:.2%}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
