"""`python -m benchmarks train_step | encode --json FILE`, or `python -m benchmarks convergence --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.encode import encode_contest
from benchmarks.models import MODELS, prepare
from benchmarks.report import machine_facts, table, write_json
from benchmarks.runner import Entry, run_contest
from benchmarks.train_step import train_step_contests
from hybridcascade.engine.memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["convergence"]:
        from benchmarks import convergence

        return convergence.main(given[1:])
    options = _parse(arguments)
    kept = keep_freed_memory()  # it holds for both programs alike: they share the process
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = machine_facts(kept)
    entries = [entry for name in options.models for entry in _entries(options, name)]
    if options.json:
        write_json(options.json, options.benchmark, machine, entries)
    print(table(entries))
    return 0


def _entries(options: argparse.Namespace, name: str) -> list[Entry]:
    with tempfile.TemporaryDirectory() as folder:
        models = prepare(name, Path(folder), options.precision)
    if options.benchmark == "train_step":
        contests = train_step_contests(models, options.batch, options.prompts, options.classes, options.square)
        return [run_contest(contest, options.pairs, options.warmup) for contest in contests]
    contest, race = encode_contest(models, options.batch, options.classes, options.square)
    race.prepare(options.pairs, options.warmup)
    entry = run_contest(contest, options.pairs, options.warmup)
    entry.facts.update(race.agreement())
    return [entry]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed against a plain fp32 reference and against the matmul rate; see docs/performance.md. "
        "`convergence --help` tells of the other benchmark, of progressive training.",
    )
    parser.add_argument("benchmark", choices=("train_step", "encode"))
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "nano"], choices=MODELS)
    parser.add_argument("--batch", type=int, help="pictures in a batch (default: 50 to train, 100 to encode)")
    parser.add_argument("--prompts", type=int, default=50, help="prompt tokens of train_step")
    parser.add_argument("--classes", type=int, help="classes (default: 8 to train, 100 to encode)")
    parser.add_argument("--pairs", type=int, help="pairs that count (default: 5 to train, 10 to encode)")
    parser.add_argument("--warmup", type=int, default=1, help="pairs before them")
    parser.add_argument("--precision", default="auto", help="of ours: auto, fp32, bf16 or fp16")
    parser.add_argument("--threads", type=int, help="threads of both programs (default: torch's choice)")
    parser.add_argument("--square", type=int, default=4096, help="side of the square product of the matmul rate")
    training = {"batch": 50, "classes": 8, "pairs": 5}
    encoding = {"batch": 100, "classes": 100, "pairs": 10}
    options = parser.parse_args(arguments)
    for key, value in (training if options.benchmark == "train_step" else encoding).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


if __name__ == "__main__":
    sys.exit(main())
