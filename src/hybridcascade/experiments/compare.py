"""Run the rows of a comparison, each once, and say what came out.

Rows that the store has are not run again, so a comparison that was killed goes on where it was.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.cachedir import feature_cache_folder
from hybridcascade.engine.atomic import make_folder, write_json
from hybridcascade.engine.feature_store import FeatureStore
from hybridcascade.engine.memory import keep_freed_memory
from hybridcascade.engine.provenance import collect_provenance, git_state
from hybridcascade.evaluation.protocol import ResultRow
from hybridcascade.evaluation.tables import Table
from hybridcascade.experiments.arena import Arena
from hybridcascade.experiments.jobs import MARKER, STORE, ExperimentConfig, Job, check_folder
from hybridcascade.experiments.outputs import write_outputs
from hybridcascade.experiments.plans import RowPlan
from hybridcascade.experiments.rows import RowResult, run_row
from hybridcascade.experiments.store import ResultStore
from hybridcascade.experiments.summary import Compared, ComparedRow, compare_rows, to_json

__all__ = ["Experiment", "run_experiment", "run_rows"]

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
RunRow = Callable[[Arena, RowPlan, int], RowResult]


@dataclass(frozen=True)
class Experiment:
    """What a comparison found.

    Attributes:
        rows: one a method, recipe and seed.
        compared: one a method and recipe.
        table: the same laid out.
        folder: where the files are.
    """

    rows: tuple[ComparedRow, ...]
    compared: tuple[Compared, ...]
    table: Table
    folder: Path

    def json(self) -> dict[str, Any]:
        """Plain values: `{"rows": [...], "summary": [...]}`."""
        return to_json(self.rows, self.compared)


def run_experiment(config: ExperimentConfig, jobs: Sequence[Job], say: Say = logger.info) -> Experiment:
    """Run all rows that the store lacks, then write tables and plots.

    Args:
        config: seeds, baseline, folder, device.
        jobs: rows by recipe.
        say: told what happens, a line a row.

    Raises:
        OutputExistsError: the folder holds something that is no comparison.
        OutputPlaceError: there can be no folder of this name.
        CheckpointError: the store is none.
        HybridCascadeError: a row cannot be run.
    """
    keep_freed_memory()
    folder = Path(config.out)
    check_folder(folder)
    make_folder(folder)
    made = {"command": config.command, "provenance": collect_provenance(seed=config.seeds[0])}
    write_json(folder / MARKER, made)
    store = ResultStore(config.store or folder / STORE)
    features = FeatureStore(feature_cache_folder("auto"))  # rows of a seed share them, and so do later runs

    def run(arena: Arena, plan: RowPlan, seed: int) -> RowResult:
        return run_row(arena, plan, seed, config.device, features=features)

    stored = run_rows(jobs, config.seeds, store, run, say, config.device)
    rows = [compared_row(job, plan, row) for job, plan, row in stored]
    compared = compare_rows(rows, config.baseline)
    ceilings = {job.recipe.name: row["ceiling"] for job, _, row in stored if row.get("ceiling") is not None}
    other = _other_code([row for _, _, row in stored])
    table = write_outputs(folder, rows, compared, config.command, ceilings, other)
    return Experiment(tuple(rows), tuple(compared), table, folder)


def run_rows(
    jobs: Sequence[Job], seeds: Sequence[int], store: ResultStore, run: RunRow, say: Say, device: str = "auto"
) -> list[tuple[Job, RowPlan, dict[str, Any]]]:
    """Run what the store lacks, seed by seed, so that an arena is made once.

    Args:
        jobs: rows by recipe.
        seeds: of the rows.
        store: of finished rows; each is in it before the next begins.
        run: runs one row.
        say: told a line a row, with what remains.
        device: where the arenas' models are.

    Returns:
        All rows, by recipe, method and seed in the order of the jobs.
    """
    keys = {
        (job.recipe.name, plan.label, seed): plan.key(arena, seed)
        for job in jobs
        for arena in [job.recipe.arena_values()]
        for plan in job.plans
        for seed in seeds
    }
    wanted = set(keys.values())  # two labels may name the same row
    missing = sum(key not in store for key in wanted)
    say(f"{len(wanted)} rows: {len(wanted) - missing} are in {store.path}, {missing} to run")
    _tell_other_code([row for key in keys.values() if (row := store.get(key)) is not None], say)
    progress = _Progress(missing, say)
    without: set[tuple[str, str]] = set()
    for job in jobs:
        make = None
        for seed in seeds:
            todo = [plan for plan in job.plans if keys[job.recipe.name, plan.label, seed] not in store]
            if not todo:
                continue
            recipe = job.recipe
            make = make or recipe.kind.open(recipe.spec, recipe.backbone, recipe.precision, device, job.text_sets)
            arena = make(seed)
            for plan in todo:
                key = keys[recipe.name, plan.label, seed]
                if key in store:  # two labels may name the same row
                    continue
                if plan.label in job.wished and plan.targets is not None and arena.train_targets is None:
                    without.add((recipe.name, plan.label))
                    continue
                began = time.perf_counter()
                result = run(arena, plan, seed)
                store.add(key, _stored(job, plan, seed, arena, result))
                progress.finished(recipe.name, plan.label, seed, result.metrics, time.perf_counter() - began)
    for name, label in sorted(without):
        say(f"{name}: {label} is left out, for the training pictures have no targets")
    found = []
    for job in jobs:
        for plan in job.plans:
            rows = [store.get(keys[job.recipe.name, plan.label, seed]) for seed in seeds]
            found += [(job, plan, row) for row in rows if row is not None]
    return found


def _stored(job: Job, plan: RowPlan, seed: int, arena: Arena, result: RowResult) -> dict[str, Any]:
    ceiling = None if arena.ceiling is None else arena.ceiling.get("accuracy")
    return {
        "recipe": job.recipe.name, "label": plan.label, "seed": seed, **result.values(),
        "row": plan.values(), "words": arena.words, "ceiling": ceiling, "code": _code(),
    }  # fmt: skip


def compared_row(job: Job, plan: RowPlan, row: Mapping[str, Any]) -> ComparedRow:
    """Return a stored row under the label that it has in this comparison."""
    own = ResultRow(
        plan.label, int(row["seed"]), row["metrics"], row["trained_parameters"], row["seconds"],
        plan.targets is not None,
    )  # fmt: skip
    return ComparedRow(job.recipe.name, own, row.get("clean_metrics"), row.get("words", ""))


@functools.cache
def _code() -> str | None:
    """Commit of the code that runs, marked when files differed from it as it was loaded."""
    state = git_state(Path(__file__).resolve())
    return None if state is None else state["commit"] + ("+changes" if state["dirty"] else "")


def _other_code(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows were made by another state of the code than this."""
    own = _code()
    return sum(row.get("code") != own for row in rows)


def _tell_other_code(rows: Sequence[Mapping[str, Any]], say: Say) -> None:
    if other := _other_code(rows):
        say(
            f"{other} of the rows in the store were made by another state of the code than this; "
            "to make all of them with this one, name another folder with --out"
        )


class _Progress:
    """A line for each finished row, with the time that remains at the pace so far."""

    def __init__(self, rows: int, say: Say) -> None:
        self.rows, self.say = rows, say
        self.done, self.seconds = 0, 0.0

    def finished(self, recipe: str, label: str, seed: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.done += 1
        self.seconds += seconds
        left = self.seconds / self.done * (self.rows - self.done)
        rest = f"about {_duration(left)} left" if self.done < self.rows else "all rows are there"
        self.say(
            f"[{self.done}/{self.rows}] {recipe} {label} seed {seed}: accuracy {metrics['accuracy']:.1%}, "
            f"KL {metrics['kl']:.3f}, {seconds:.1f} s; {rest}"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
