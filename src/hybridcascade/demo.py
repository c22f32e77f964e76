"""The demo: every method on the shifted sandbox, with the same unlabelled pictures, against the true ceiling.

The pictures are generated, so their true distributions are known exactly; the figures compare the methods
with each other and with the best possible predictor, and say nothing about photographs.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone
from hybridcascade.compose import build_method, plain_view_of, tune
from hybridcascade.data.loaders import image_loader
from hybridcascade.data.sources import MemorySource
from hybridcascade.demo_config import DemoConfig, DemoRow, check_demo_folder
from hybridcascade.encoded import EncodedTexts, choose_texts, encode_texts
from hybridcascade.engine.atomic import write_json
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.memory import keep_freed_memory
from hybridcascade.engine.provenance import collect_provenance
from hybridcascade.engine.records import PhaseRecord
from hybridcascade.errors import SettingsError
from hybridcascade.evaluation.metrics import reliability, score
from hybridcascade.evaluation.protocol import ResultRow, results_dict
from hybridcascade.evaluation.report import Example, ReportData, TrainingCurve, write_report
from hybridcascade.evaluation.tables import results_table, to_plain
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import method_entry
from hybridcascade.methods.settings import default_view, method_settings
from hybridcascade.sandbox.dataset import SandboxData, make_split
from hybridcascade.sandbox.texts import CLASSES, COVERAGE, TEMPLATES, descriptions
from hybridcascade.sandbox.world import bayes_ceiling
from hybridcascade.types import ImageBatch, StagePlan

__all__ = ["DemoResult", "run_demo"]

logger = logging.getLogger(__name__)

_METRICS = ("accuracy", "macro_f1", "ece", "kl")
_EXAMPLES = 12
_BATCH = 256  # pictures in a forward pass of the evaluation


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
    method: Method
    probabilities: Tensor
    records: tuple[PhaseRecord, ...]


@dataclass(frozen=True)
class _World:
    """What all rows share."""

    train: SandboxData
    test: SandboxData
    backbone: ClipBackbone
    texts: Mapping[str, EncodedTexts]
    seed: int


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
    world = _make_world(config)
    tuned = []
    for row, plan in zip(config.rows, plans, strict=True):
        done = _run_row(world, row, plan.phases(), progress)
        tuned.append(done)
        metrics = done.row.metrics
        say(f"{row.method:<20} accuracy {metrics['accuracy']:.1%}  KL {metrics['kl']:.3f}  {done.row.seconds:.1f} s")
    return _write(config, folder, world, tuned)


def _make_world(config: DemoConfig) -> _World:
    domain: Any = config.domain
    train = make_split("train", config.train_pictures, domain, config.seed)
    test = make_split("test", config.test_pictures, domain, config.seed)
    backbone = load_backbone(config.backbone)
    texts = {
        "templates": choose_texts(CLASSES, "zero_shot", "templates", TEMPLATES),
        "descriptions": choose_texts(CLASSES, "lafter", "descriptions", TEMPLATES, descriptions()),
    }
    encoded = {mode: encode_texts(backbone, rows, None) for mode, rows in texts.items()}
    backbone.drop_text()
    return _World(train, test, backbone, encoded, config.seed)


def _run_row(world: _World, row: DemoRow, phases: Mapping[str, Any], progress: bool) -> _Tuned:
    """Tune and evaluate one method on a backbone of its own (tuning changes LayerNorms in place)."""
    began = time.perf_counter()
    images = method_entry(row.method).images
    texts = world.texts["templates" if row.method == "zero_shot" else "descriptions"]
    settings = dataclasses.asdict(method_settings(row.method, row.settings))
    method = build_method(row.method, copy.deepcopy(world.backbone), texts, len(CLASSES), world.seed, settings)
    source = MemorySource(world.train.images, world.train.ids) if images != "none" else None
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(world.train.emotions), len(CLASSES)).float()
    records = tune(
        method, phases, texts, source, targets=one_hot if images == "targets" else None,
        view=row.view or default_view(row.method), seed=world.seed, progress=progress,
    )  # fmt: skip
    test = image_loader(MemorySource(world.test.images, world.test.ids), plain_view_of(world.backbone), _BATCH)
    probabilities = _predict(method, test)
    metrics = score(probabilities, world.test.posterior, world.test.emotions)
    result = ResultRow(
        row.method, world.seed, {name: metrics[name] for name in _METRICS}, _count_trained(method),
        time.perf_counter() - began, images == "targets",
    )  # fmt: skip
    return _Tuned(result, method, probabilities, tuple(records))


def _predict(method: Method, batches: Iterable[ImageBatch]) -> Tensor:
    """Return the predicted distributions, float32 `[N, K]`."""
    method.eval()
    with torch.inference_mode():
        return torch.cat([method(batch.images).probabilities for batch in batches])


def _count_trained(method: Method) -> int:
    parameters = dict(method.named_parameters())
    names = frozenset().union(*(method.trainable_names(phase) for phase in method.phases))
    return sum(parameters[name].numel() for name in names)


def _write(config: DemoConfig, folder: RunFolder, world: _World, tuned: Sequence[_Tuned]) -> DemoResult:
    ceiling = bayes_ceiling()
    rows = [done.row for done in tuned]
    plain: Any = results_dict(rows, ceiling)
    kept = [{key: row[key] for key in ("method", "seed", "metrics")} for row in plain["rows"]]
    results = {"ceiling": plain["ceiling"], "rows": kept}
    provenance = collect_provenance(seed=config.seed, dataset=_data_words(config))
    folder.write_provenance(provenance)
    write_json(folder.path / "results.json", results)
    table = to_plain(results_table(rows, ceiling, _data_words(config)))
    write_report(folder.path / "report.html", _report_data(config, world, tuned, ceiling, provenance))
    return DemoResult(results, table, folder.path)


def _report_data(
    config: DemoConfig, world: _World, tuned: Sequence[_Tuned],
    ceiling: Mapping[str, float], provenance: Mapping[str, Any],
) -> ReportData:  # fmt: skip
    truth, labels = world.test.posterior, world.test.emotions
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
        model=f"{world.backbone.name}, computing in {str(world.backbone.compute_dtype).removeprefix('torch.')}",
        data=_data_words(config),
        seed=config.seed,
        versions={name: v for name, v in provenance["versions"].items() if v},
        examples=_examples(world, tuned),
        learned={done.row.method: done.method.learned() for done in tuned},
        blocks={done.row.method: plan.stages for done in tuned if isinstance(plan := _plan_of(done.method), StagePlan)},
        curves={done.row.method: curves for done in tuned if (curves := _curves(done.records))},
        reliability={done.row.method: reliability(done.probabilities, truth, labels) for done in tuned},
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


def _examples(world: _World, tuned: Sequence[_Tuned]) -> list[Example]:
    rows = range(min(_EXAMPLES, len(world.test)))  # the first ones: nobody chose them
    return [
        Example(
            world.test.images[i],
            world.test.ids[i],
            world.test.posterior[i].tolist(),
            {done.row.method: done.probabilities[i].tolist() for done in tuned},
        )
        for i in rows
    ]


def _plan_of(method: Method) -> object:
    return getattr(method, "plan", None)


def _curves(records: Sequence[PhaseRecord]) -> dict[str, TrainingCurve]:
    return {
        record.phase: TrainingCurve(
            step=[epoch.step for epoch in record.history],
            loss=[epoch.loss for epoch in record.history],
            lr=[max(epoch.lr.values(), default=0.0) for epoch in record.history],
        )
        for record in records
        if record.history
    }
