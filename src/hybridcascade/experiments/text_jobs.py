"""The rows of `texts compare`: every method with every set of texts, all else unchanged. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hybridcascade.config import DEVICES, one_of
from hybridcascade.errors import SettingsError
from hybridcascade.experiments.full_table import metric_names
from hybridcascade.experiments.jobs import ExperimentConfig, Job, command_line
from hybridcascade.experiments.plans import Recipe, RowPlan, parse_seeds, plan_row, read_experiment
from hybridcascade.experiments.summary import FLOOR
from hybridcascade.experiments.text_set import TextSet

__all__ = ["TextsConfig", "text_jobs", "text_sets"]


@dataclass(frozen=True)
class TextsConfig:
    """What `texts compare` compares."""

    descriptions: str | None = None
    """Description sets divided by commas: mikels8, ekman6_neutral, or JSON files. Each is tried with all templates."""

    templates: str = "general,evoked_emotion"
    """Template sets divided by commas: general, evoked_emotion, or text files with one a line."""

    methods: str = "zero_shot,text_only"
    """Methods that get each set of texts."""

    seeds: str = "5"
    """How many seeds (5 means 0 to 4), or which: 0,3,7."""

    backbone: str | None = None
    """CLIP weights of all rows, in place of those of the recipe."""

    out: str = "runs/texts"
    """Folder for tables, plots and the store of results; the same command goes on from what is there."""

    store: str | None = None
    """File of finished rows, to share them with comparisons and ablations. Left out: in --out."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    metrics: str | None = None
    """Print these metrics instead, a method a column: names divided by commas, or all (full.md in --out has all):
    accuracy, macro_f1, ece, kl, nll, brier, chebyshev, clark, clark_norm, canberra, canberra_norm, cosine,
    intersection, argmax_accuracy, average_rank."""

    csv: bool = False
    """Print the table as CSV (table.csv in --out has it too)."""

    latex: bool = False
    """Print the table as LaTeX (table.tex in --out has it too)."""

    markdown: bool = False
    """Print the table as Markdown (table.md in --out has it too)."""

    def __post_init__(self) -> None:
        parse_seeds(self.seeds)
        one_of("device", self.device, DEVICES)
        metric_names(self.metrics)
        if self.csv + self.latex + self.markdown > 1:
            raise SettingsError("--csv, --latex and --markdown: choose one for the terminal; --out has all three")
        if not _names(self.templates) or not _names(self.methods):
            raise SettingsError("--templates and --methods: expected at least one name each, found none")


def text_sets(config: TextsConfig) -> list[TextSet]:
    """Return the sets: the names alone, each of the templates, each of the descriptions with each of the templates.

    Raises:
        SettingsError: two sets would have one name in the table.
    """
    templates = _names(config.templates)
    described = [TextSet(template, name) for name in _names(config.descriptions) for template in templates]
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
    methods = list(dict.fromkeys(_names(config.methods)))
    own = [plan_row(recipe, method) for method in dict.fromkeys([FLOOR, *methods])]
    keys = {one: one.key() for one in sets}
    return own + [
        dataclasses.replace(plan, label=f"{plan.label}: {one.label}", texts=key)
        for plan in own
        if plan.label in methods
        for one, key in keys.items()
    ]


def _names(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
