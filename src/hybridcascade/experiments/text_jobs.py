"""The rows of `texts compare`: every method with every set of texts, all else unchanged. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hybridcascade.config import split_names
from hybridcascade.errors import SettingsError
from hybridcascade.experiments.jobs import ExperimentConfig, Job, command_line
from hybridcascade.experiments.options import ExperimentOptions
from hybridcascade.experiments.plans import Recipe, RowPlan, parse_seeds, plan_row, read_experiment
from hybridcascade.experiments.summary import FLOOR
from hybridcascade.experiments.text_set import TextSet

__all__ = ["TextsConfig", "text_jobs", "text_sets"]


@dataclass(frozen=True)
class TextsConfig(ExperimentOptions):
    """What `texts compare` compares."""

    descriptions: str | None = None
    """Description sets divided by commas: mikels8, ekman6_neutral, or JSON files. Each is tried with all templates."""

    templates: str = "general,evoked_emotion"
    """Template sets divided by commas: general, evoked_emotion, or text files with one a line."""

    methods: str = "zero_shot,text_only"
    """Methods that get each set of texts."""

    out: str = "runs/texts"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not split_names(self.templates) or not split_names(self.methods):
            raise SettingsError("--templates and --methods: expected at least one name each, found none")


def text_sets(config: TextsConfig) -> list[TextSet]:
    """Return the sets: the names alone, each of the templates, each of the descriptions with each of the templates.

    Raises:
        SettingsError: two sets would have one name in the table.
    """
    templates = split_names(config.templates)
    described = [TextSet(template, name) for name in split_names(config.descriptions) for template in templates]
    sets = [TextSet(), *(TextSet(template) for template in templates), *described]
    labels = [one.label for one in sets]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SettingsError(
            f"texts: expected each set once, found twice: {', '.join(twice)}. Files need different names"
        )
    return sets


def text_jobs(config: TextsConfig, recipes: Sequence[str]) -> tuple[ExperimentConfig, list[Job]]:
    """Plan a comparison of texts.

    Args:
        config: the options.
        recipes: paths, or names of shipped recipes.

    Returns:
        What running needs, and a job a recipe: the recipe's own texts first, then every set.

    Raises:
        SettingsError: no recipe, a wrong one, or unknown names.
        TextError: a file of texts cannot be read.
    """
    if not recipes:
        raise SettingsError(
            "say where to compare: --recipe sandbox.yaml (or a file of your own with an arena: section)"
        )
    sets = text_sets(config)
    read = [read_experiment(name, config.backbone) for name in recipes]
    jobs = [Job(recipe, tuple(_plans(recipe, config, sets)), text_sets=tuple(sets)) for recipe in read]
    options = {
        "recipe": list(recipes), "descriptions": config.descriptions, "templates": config.templates,
        "methods": config.methods, "seeds": config.seeds, "backbone": config.backbone,
        "out": config.out, "store": config.store,
    }  # fmt: skip
    command = command_line("texts compare", options).replace("'texts compare'", "texts compare")
    return ExperimentConfig(parse_seeds(config.seeds), FLOOR, config.out, config.store, config.device, command), jobs


def _plans(recipe: Recipe, config: TextsConfig, sets: Sequence[TextSet]) -> list[RowPlan]:
    methods = list(dict.fromkeys(split_names(config.methods)))
    own = [plan_row(recipe, method) for method in dict.fromkeys([FLOOR, *methods])]
    keys = {one: one.key() for one in sets}
    return own + [
        dataclasses.replace(plan, label=f"{plan.label}: {one.label}", texts=key)
        for plan in own
        if plan.label in methods
        for one, key in keys.items()
    ]
