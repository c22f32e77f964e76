"""The demo: every method on the shifted sandbox, with the same unlabelled pictures, against the true ceiling.

The pictures are generated, so their true distributions are known exactly; the figures compare the methods
with each other and with the best possible predictor, and say nothing about photographs.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridcascade.demo_config import DemoConfig, DemoRow, check_demo_folder
from hybridcascade.engine.atomic import write_json
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.memory import keep_freed_memory
from hybridcascade.engine.provenance import collect_provenance
from hybridcascade.engine.records import PhaseRecord
from hybridcascade.errors import SettingsError
from hybridcascade.evaluation.metrics import reliability
from hybridcascade.evaluation.protocol import ResultRow, results_dict
from hybridcascade.evaluation.report import Example, ReportData, TrainingCurve, training_curve, write_report
from hybridcascade.evaluation.tables import results_table, to_plain
from hybridcascade.experiments.arena import Arena, sandbox_arena
from hybridcascade.experiments.kinds import SandboxSpec
from hybridcascade.experiments.plans import RowPlan
from hybridcascade.experiments.rows import RowResult, run_row
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import method_entry
from hybridcascade.methods.settings import PhaseDefaults, default_view, method_settings
from hybridcascade.sandbox.texts import CLASSES, COVERAGE
from hybridcascade.types import StagePlan

__all__ = ["DemoResult", "run_demo"]

logger = logging.getLogger(__name__)

_METRICS = ("accuracy", "macro_f1", "ece", "kl")
_EXAMPLES = 12


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        results: content of `results.json`.
        table: the same as text.
        folder: where both and the report are.
    """

    results: dict[str, Any]
    table: str
    folder: Path

    @property
    def report(self) -> Path:
        """The page with everything."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class _Tuned:
    """One finished row of the demo."""

    row: ResultRow
    result: RowResult


def run_demo(config: DemoConfig, say: Callable[[str], None] = logger.info, progress: bool = False) -> DemoResult:
    """Run the demo.

    Args:
        config: rows, sizes and seed; `shipped_demo()` has the shipped ones.
        say: told what happens, a line a row.
        progress: show progress bars on stderr, where that is a terminal.

    Raises:
        SettingsError: there are no rows, or a row contradicts itself.
        OutputExistsError: the output folder holds something that is no demo.
    """
    if not config.rows:
        raise SettingsError("the demo has no rows: start from recipes/demo.yaml (--config recipes/demo.yaml)")
    plans = [row.train_config(config.seed, config.backbone) for row in config.rows]  # wrong rows stop here
    check_demo_folder(config.out, config.overwrite)
    keep_freed_memory()
    folder = RunFolder.create(config.out, overwrite=True)
    folder.write_config(config.resolved())
    say(f"{config.train_pictures} unlabelled and {config.test_pictures} test pictures of the {config.domain} sandbox")
    arena = _arena(config)
    tuned = []
    for row, plan in zip(config.rows, plans, strict=True):
        done = _run_row(arena, _row_plan(row, plan.phases()), config.seed, progress)
        tuned.append(done)
        metrics = done.row.metrics
        say(f"{row.method:<20} accuracy {metrics['accuracy']:.1%}  KL {metrics['kl']:.3f}  {done.row.seconds:.1f} s")
    return _write(config, folder, arena, tuned)


def _arena(config: DemoConfig) -> Arena:
    spec = SandboxSpec(config.train_pictures, config.test_pictures, config.domain)
    return sandbox_arena(spec, config.backbone, with_clean=False)(config.seed)


def _row_plan(row: DemoRow, phases: Mapping[str, PhaseDefaults]) -> RowPlan:
    return RowPlan(
        label=row.method,
        method=row.method,
        settings=dataclasses.asdict(method_settings(row.method, row.settings)),
        phases=phases,
        view=row.view or default_view(row.method),
        targets="default" if method_entry(row.method).images == "targets" else None,
        texts="templates" if row.method == "zero_shot" else "descriptions",
    )


def _run_row(arena: Arena, plan: RowPlan, seed: int, progress: bool) -> _Tuned:
    began = time.perf_counter()
    result = run_row(arena, plan, seed, progress=progress)
    row = ResultRow(
        plan.method, seed, {name: result.metrics[name] for name in _METRICS}, result.trained_parameters,
        time.perf_counter() - began, plan.targets is not None,
    )  # fmt: skip
    return _Tuned(row, result)


def _write(config: DemoConfig, folder: RunFolder, arena: Arena, tuned: Sequence[_Tuned]) -> DemoResult:
    ceiling = arena.ceiling or {}
    rows = [done.row for done in tuned]
    plain: Any = results_dict(rows, ceiling)
    kept = [{key: row[key] for key in ("method", "seed", "metrics")} for row in plain["rows"]]
    results = {"ceiling": plain["ceiling"], "rows": kept}
    provenance = collect_provenance(seed=config.seed, dataset=_data_words(config))
    folder.write_provenance(provenance)
    write_json(folder.path / "results.json", results)
    table = to_plain(results_table(rows, ceiling, _data_words(config)))
    write_report(folder.path / "report.html", _report_data(config, arena, tuned, ceiling, provenance))
    return DemoResult(results, table, folder.path)


def _report_data(
    config: DemoConfig, arena: Arena, tuned: Sequence[_Tuned],
    ceiling: Mapping[str, float], provenance: Mapping[str, Any],
) -> ReportData:  # fmt: skip
    truth, labels = arena.test_truth, arena.test_labels
    return ReportData(
        title="hybridcascade demo",
        classes=CLASSES,
        rows=[done.row for done in tuned],
        ceiling=ceiling,
        summary=(
            "Eight evoked emotions in generated paintings whose true distributions are known. The nano CLIP was "
            "trained on clean paintings; here they are aged, and tuning has to bridge that without labels."
        ),
        command=f"hybridcascade demo --out {shlex.quote(config.out)} --seed {config.seed}",
        model=f"{arena.backbone.name}, computing in {str(arena.backbone.compute_dtype).removeprefix('torch.')}",
        data=_data_words(config),
        seed=config.seed,
        versions={name: v for name, v in provenance["versions"].items() if v},
        examples=_examples(arena, tuned),
        learned={done.row.method: done.result.method.learned() for done in tuned},
        blocks={
            done.row.method: plan.stages
            for done in tuned
            if isinstance(plan := _plan_of(done.result.method), StagePlan)
        },
        curves={done.row.method: curves for done in tuned if (curves := _curves(done.result.records))},
        reliability={done.row.method: reliability(done.result.probabilities, truth, labels) for done in tuned},
        notes=[
            "Accuracy counts the emotion that caused a picture; several emotions can cause the same picture, so "
            "even the exact posterior reaches only the ceiling. KL compares with the exact posterior.",
            f"Captions of the nano CLIP named: {', '.join(f'{k} {v:.0%}' for k, v in COVERAGE.items())}.",
        ],
    )


def _data_words(config: DemoConfig) -> str:
    return (
        f"{config.test_pictures} test and {config.train_pictures} unlabelled training pictures, generated "
        f"({config.domain} sandbox, seed {config.seed})"
    )


def _examples(arena: Arena, tuned: Sequence[_Tuned]) -> list[Example]:
    rows = range(min(_EXAMPLES, len(arena.test)))  # the first ones: nobody chose them
    return [
        Example(
            np.asarray(arena.test.open(i)),
            arena.test.ids[i],
            arena.test_truth[i].tolist(),
            {done.row.method: done.result.probabilities[i].tolist() for done in tuned},
        )
        for i in rows
    ]


def _plan_of(method: Method) -> object:
    return getattr(method, "plan", None)


def _curves(records: Sequence[PhaseRecord]) -> dict[str, TrainingCurve]:
    return {record.phase: training_curve(record) for record in records if record.history}
