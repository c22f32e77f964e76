"""Measure tuned models on unlabelled pictures, to choose among them; the truth, where known, only says the regret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridcascade.compose import load_parts, train
from hybridcascade.config import TrainConfig
from hybridcascade.data.sources import PictureSource, open_source
from hybridcascade.engine.watching import EpochWatch, evaluating
from hybridcascade.errors import SettingsError
from hybridcascade.evaluation.criterion_weights import weighted_mean
from hybridcascade.experiments.arena import Arena
from hybridcascade.experiments.choices import Candidate, SelectConfig
from hybridcascade.experiments.plans import Recipe, RowPlan, parse_seeds, plan_row
from hybridcascade.experiments.rows import predict, run_row
from hybridcascade.inference import pick_device
from hybridcascade.methods.base import Method
from hybridcascade.watching import measure_parts, sample_pictures

__all__ = ["measure_recipe", "measure_runs", "train_runs"]

Say = Callable[[str], None]


def measure_runs(runs: Sequence[str], data: str, pictures: int, device: str, say: Say) -> list[Candidate]:
    """Measure saved runs on unlabelled pictures.

    Args:
        runs: run folders; they must have the same classes.
        data: the pictures; labels are left aside.
        pictures: how many of them to look at.
        device: auto, cpu, cuda or mps.
        say: told a line a run.

    Raises:
        CheckpointError: a folder holds no model.
        SettingsError: the classes differ.
    """
    source = open_source(data).unlabeled()
    found: list[Candidate] = []
    classes: tuple[str, ...] | None = None
    for run in runs:
        parts = load_parts(run)
        if classes is not None and parts.classes != classes:
            raise SettingsError(f"{run}: its classes differ from those of {runs[0]}; choose among runs of one list")
        classes = parts.classes
        found.append(Candidate(run, parts.seed, _measured(parts.method, source, pictures, device)))
        say(f"measured {run}")
    return found


def train_runs(config: SelectConfig, methods: Sequence[str], say: Say) -> list[str]:
    """Tune each method on the user's pictures, in a run folder of its own; finished ones are loaded as they are.

    Returns:
        The run folders.

    Raises:
        HybridCascadeError: of the kind that fits.
    """
    plans = [
        TrainConfig(
            data=config.data, classes=config.classes, method=method, backbone=config.backbone, tune=config.tune,
            out=str(Path(config.out) / method), device=config.device,
            resume=(Path(config.out) / method / "config.yaml").is_file(),
        )
        for method in methods
    ]  # fmt: skip
    for plan in plans:
        say(f"training {plan.method} ...")
        train(plan)
    return [str(plan.out) for plan in plans]


def measure_recipe(recipe: Recipe, config: SelectConfig, methods: Sequence[str], say: Say) -> list[Candidate]:
    """Tune methods in the arena of a recipe and measure each on its unlabelled training pictures.

    Args:
        recipe: with an arena.
        config: seeds, pictures, whether the regret is wanted.
        methods: rows of the recipe.
        say: told a line a row.

    Raises:
        HybridCascadeError: of the kind that fits.
    """
    plans = [plan_row(recipe, name, config.tune) for name in methods]
    supervised = [plan.label for plan in plans if plan.targets is not None]
    if supervised:
        raise SettingsError(f"{', '.join(supervised)}: methods that learn from labels are not chosen without them")
    make = recipe.kind.open(recipe.spec, recipe.backbone, recipe.precision, config.device)
    found = []
    for seed in parse_seeds(config.seeds):
        arena = make(seed)
        for plan in plans:
            found.append(_measure_row(arena, plan, seed, config))
            say(f"measured {plan.label}, seed {seed}")
    return found


def _measure_row(arena: Arena, plan: RowPlan, seed: int, config: SelectConfig) -> Candidate:
    follower = _Follower(arena, config) if config.regret else None
    watch = None if follower is None else EpochWatch(follower)
    result = run_row(arena, plan, seed, config.device, watch=watch)
    parts = _measured(result.method, arena.train, config.pictures, config.device)
    if watch is None or follower is None:
        return Candidate(plan.label, seed, parts)
    return Candidate(plan.label, seed, parts, result.metrics["accuracy"], follower.epochs(watch))


def _measured(method: Method, source: PictureSource, pictures: int, device: str) -> dict[str, float]:
    backbone: Any = method.backbone
    images = sample_pictures(source, backbone, pictures)
    method.to(pick_device(device))
    with evaluating(method):
        return measure_parts(method, images)[0]


class _Follower:
    """Measures each epoch without labels, and notes the test accuracy beside it, which nothing reads before the end."""

    def __init__(self, arena: Arena, config: SelectConfig) -> None:
        if arena.test_labels is None:
            raise SettingsError(f"arena {arena.name!r} has no labels of the test pictures: drop --regret")
        self.arena, self.device, self.labels = arena, config.device, arena.test_labels
        self.images = sample_pictures(arena.train, arena.backbone, config.pictures)
        self.accuracies: list[float] = []

    def __call__(self, method: Method, before: Tensor | None) -> tuple[Mapping[str, float], Tensor]:
        parts, labels = measure_parts(method, self.images)
        device = next(method.parameters()).device
        right = predict(method, self.arena.test, str(device)).argmax(dim=1) == self.labels
        self.accuracies.append(float(torch.mean(right.double())))
        return {"criterion": weighted_mean(parts)}, labels

    def epochs(self, watch: EpochWatch) -> dict[str, list[tuple[float, float]]]:
        """Criterion and accuracy after each epoch, by phase; the measures before a phase are left out."""
        found, position = {}, 0
        for phase, values in watch.values.items():
            if values:
                own = self.accuracies[position + 1 : position + 1 + len(values)]
                found[phase] = list(zip(values, own, strict=True))
                position += 1 + len(values)
        return found
