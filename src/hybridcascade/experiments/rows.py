"""Run one row: one method, tuned with one seed in one arena, then evaluated once."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridcascade.compose import build_method, plain_view_of, tune
from hybridcascade.data.loaders import image_loader
from hybridcascade.data.sources import PictureSource
from hybridcascade.data.stored import stored_image_loader
from hybridcascade.data.targets import choose_share, choose_shots
from hybridcascade.engine.feature_store import FeatureStore
from hybridcascade.engine.records import PhaseRecord
from hybridcascade.engine.watching import EpochWatch
from hybridcascade.evaluation.distribution import distribution_score
from hybridcascade.evaluation.metrics import score
from hybridcascade.experiments.arena import Arena
from hybridcascade.experiments.plans import RowPlan
from hybridcascade.inference import pick_device
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import method_entry
from hybridcascade.stored_features import feature_layout, feature_table
from hybridcascade.supervision import give_geometry
from hybridcascade.types import ImageBatch

__all__ = ["RowResult", "count_trained", "run_row"]

_BATCH = 256  # pictures in a forward pass of the evaluation


@dataclass(frozen=True)
class RowResult:
    """One finished row.

    Attributes:
        metrics: of the test pictures, as `evaluation.metrics.score` and `evaluation.distribution.distribution_score`
            give them.
        clean_metrics: of the test pictures without the shift; only for a method that trains nothing.
        trained_parameters: how many numbers the optimiser changed, in all phases.
        seconds: wall time of building and training, without evaluation.
        records: one a phase.
        method: the tuned method, on the CPU.
        probabilities: predicted distributions of the test pictures, float32 `[M, K]`.
    """

    metrics: Mapping[str, float]
    clean_metrics: Mapping[str, float] | None
    trained_parameters: int
    seconds: float
    records: tuple[PhaseRecord, ...]
    method: Method
    probabilities: Tensor

    def values(self) -> dict[str, Any]:
        """Plain values for a store."""
        return {
            "metrics": dict(self.metrics),
            "clean_metrics": None if self.clean_metrics is None else dict(self.clean_metrics),
            "trained_parameters": self.trained_parameters,
            "seconds": round(self.seconds, 3),
            "learned": self.method.learned(),
            "phases": [
                {
                    "phase": record.phase,
                    "epochs": record.epochs,
                    "steps": record.steps,
                    "seconds": round(record.seconds, 3),
                    "loss": [round(epoch.loss, 6) for epoch in record.history[-_MOST_EPOCHS:]],
                }
                for record in self.records
            ],
        }


_MOST_EPOCHS = 1000  # the text phase counts each step as an epoch


def run_row(
    arena: Arena, plan: RowPlan, seed: int, device: str = "auto", progress: bool = False,
    features: FeatureStore | None = None, watch: EpochWatch | None = None,
) -> RowResult:  # fmt: skip
    """Tune a method in an arena and evaluate its last epoch.

    The truth of the test pictures is read after all training is done, once.

    Args:
        arena: of this seed; it stays as it is.
        plan: the method with all its numbers.
        seed: of order, augmentation, noise and random starts.
        device: auto, cpu, cuda or mps.
        progress: show progress bars on stderr, where that is a terminal.
        features: where the features of a heads phase are kept; None keeps them in memory.
        watch: measures each epoch.

    Raises:
        HybridCascadeError: the method and the arena do not fit.
    """
    torch.manual_seed(seed)  # whatever draws without a seed of its own draws the same in a resumed comparison
    images = method_entry(plan.method).images
    texts = arena.texts.get(plan.texts, arena.texts["templates"])
    train, targets = _supervision(arena, plan, seed)
    began = time.perf_counter()
    # tuning changes LayerNorms in place: every row has a tower of its own
    method = build_method(
        plan.method, copy.deepcopy(arena.backbone), texts, len(arena.classes), seed, dict(plan.settings)
    )
    give_geometry(method, plan.settings, arena.classes, arena.space)
    records = tune(
        method, plan.phases, texts, train if images != "none" else None, targets=targets, view=plan.view,
        seed=seed, progress=progress, device=device, features=features, watch=watch,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    ran = method.phases_with(plan.phases)
    frozen_tower = "heads" in ran and "image" not in ran
    probabilities = predict(method, arena.test, device, features if frozen_tower else None)
    clean = _score_clean(arena, method, device) if not method.phases else None
    return RowResult(
        metrics={
            **score(probabilities, arena.test_truth, arena.test_labels),
            **distribution_score(probabilities, arena.test_truth),
        },
        clean_metrics=clean,
        trained_parameters=count_trained(method, plan.phases),
        seconds=seconds,
        records=tuple(records),
        method=method.cpu(),
        probabilities=probabilities,
    )


def _supervision(arena: Arena, plan: RowPlan, seed: int) -> tuple[PictureSource, Tensor | None]:
    """Training pictures and their targets `[N, K]`; a row of zeros has none."""
    if plan.targets is None:
        return arena.train, None
    targets = arena.targets(plan.targets)
    ids = arena.train.ids
    if plan.shots is not None:
        chosen = choose_shots(ids, targets.argmax(dim=1).tolist(), plan.shots, seed)
    elif plan.target_share < 1:
        chosen = choose_share(ids, range(len(ids)), plan.target_share, seed)
    else:
        return arena.train, targets
    if plan.target_rest == "left_out":
        return arena.train.take(chosen), targets[chosen]
    some = torch.zeros_like(targets)
    some[chosen] = targets[chosen]
    return arena.train, some


def predict(
    method: Method, source: PictureSource, device: str = "auto", features: FeatureStore | None = None
) -> Tensor:
    """Return the predicted distributions of all pictures, float32 `[M, K]`, on the CPU.

    Args:
        method: tuned.
        source: M pictures.
        device: auto, cpu, cuda or mps.
        features: read the pictures' features from this store, for a method that runs on stored features: the rows
            of an ablation share one pass of the tower over the test pictures. None runs the tower.
    """
    place = pick_device(device)
    method.to(place).eval()
    backbone: Any = method.backbone
    view, bare = plain_view_of(backbone), source.unlabeled()
    batches: Iterable[ImageBatch]
    if features is None:
        batches = image_loader(bare, view, _BATCH)
    else:
        needs = method.feature_needs()
        backbone.stored_layout = feature_layout(backbone, needs)
        table = feature_table(backbone, needs, bare, view, features, place)
        batches = stored_image_loader(table.rows, bare.ids, needs.views, _BATCH)
    with torch.inference_mode():
        return torch.cat([method(batch.images.to(place)).probabilities.cpu() for batch in batches])


def count_trained(method: Method, phases: Iterable[str]) -> int:
    """Return how many numbers train in some phase, of those that `phases` has numbers for."""
    parameters = dict(method.named_parameters())
    ran = method.phases_with(phases)
    names: frozenset[str] = frozenset().union(*(method.trainable_names(phase) for phase in ran))
    return sum(parameters[name].numel() for name in names)


def _score_clean(arena: Arena, method: Method, device: str) -> dict[str, float] | None:
    """Zero-shot without the shift: what the shift took is measured against it."""
    if arena.clean_test is None or arena.clean_truth is None:
        return None
    return score(predict(method, arena.clean_test, device), arena.clean_truth, arena.clean_labels)
