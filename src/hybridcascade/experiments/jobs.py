"""From the options of `compare` and `ablate` to the rows they run. Needs no torch."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.config import TUNES, one_of, split_names
from hybridcascade.errors import OutputExistsError, SettingsError, UnknownNameError
from hybridcascade.experiments.components import FULL, component_changes
from hybridcascade.experiments.options import ExperimentOptions
from hybridcascade.experiments.plans import Recipe, RowChanges, RowPlan, parse_seeds, plan_row, read_experiment
from hybridcascade.experiments.summary import FLOOR, REFERENCE
from hybridcascade.experiments.text_set import TextSet

__all__ = [
    "MARKER",
    "STORE",
    "AblateConfig",
    "CompareConfig",
    "ExperimentConfig",
    "Job",
    "ablation_jobs",
    "check_folder",
    "command_line",
    "comparison_jobs",
    "list_components",
]

MARKER, STORE = "experiment.json", "results.jsonl"
"""Files of an experiment's folder: how it was made, and its finished rows."""

Say = Callable[[str], None]
"""Is told what a person should know, a line at a time."""


@dataclass(frozen=True)
class Job:
    """The rows of one recipe.

    Attributes:
        recipe: where they meet.
        plans: the rows, in the order of the table.
        wished: labels of rows that were added; one that learns from targets is left out of an arena without any.
        text_sets: texts that rows name by their keys, beside those of the arena.
    """

    recipe: Recipe
    plans: tuple[RowPlan, ...]
    wished: frozenset[str] = frozenset()
    text_sets: tuple[TextSet, ...] = ()


@dataclass(frozen=True)
class CompareConfig(ExperimentOptions):
    """What `compare` compares."""

    methods: str | None = None
    """Methods and rows of the recipe's `methods:`, divided by commas. Left out: the recipe's own method and
    all of its `methods:`."""

    baseline: str = FLOOR
    """Row that the paired differences and p-values are to."""

    tune: str = "full"
    """full, or heads: only the heads, on features stored once, for the methods that can."""

    only: bool = False
    """Add no reference rows (zero_shot, linear_probe); shares that need them are left out."""

    out: str = "runs/compare"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("tune", self.tune, TUNES)


@dataclass(frozen=True)
class AblateConfig(ExperimentOptions):
    """What `ablate` switches."""

    components: str = "all"
    """Components divided by commas, or all; `hybridcascade ablate --recipe RECIPE --list` lists them."""

    method: str | None = None
    """Method, or row of the recipe's `methods:`, that is ablated. Left out: the recipe's own method."""

    targets: str | None = None
    """Train all variants on targets: default (the arena's), or a kind such as votes. Left out: label-free."""

    tune: str = "full"
    """full, or heads: only the heads, on features stored once, for the methods that can."""

    only: bool = False
    """Add no reference rows (zero_shot, linear_probe); shares that need them are left out."""

    out: str = "runs/ablate"

    list: bool = False
    """List the components and what they are about, and run nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("tune", self.tune, TUNES)


@dataclass(frozen=True)
class ExperimentConfig:
    """What running and writing need.

    Attributes:
        seeds: of all rows.
        baseline: label of the row that differences are to.
        out: folder.
        store: file of finished rows, or None for the one in the folder.
        device: auto, cpu, cuda or mps.
        command: that makes the table again.
    """

    seeds: tuple[int, ...]
    baseline: str
    out: str
    store: str | None
    device: str
    command: str


def comparison_jobs(config: CompareConfig, recipes: Sequence[str], say: Say) -> tuple[ExperimentConfig, list[Job]]:
    """Plan a comparison.

    Args:
        config: the options.
        recipes: paths, or names of shipped recipes.
        say: told which rows are added and why.

    Raises:
        SettingsError: no recipe, a wrong one, or unknown names.
    """
    jobs = []
    for recipe in _read_all(recipes, config.backbone):
        named = split_names(config.methods) or [recipe.method, *recipe.methods]
        names = list(dict.fromkeys(named))
        if config.baseline not in names:
            names.insert(0, config.baseline)
            say(f"{recipe.name}: {config.baseline} is added, for it is the baseline")
        added = _references(names, recipe, config.only, say)
        plans = [plan_row(recipe, name, config.tune) for name in [*names, *added]]
        _tell_full(plans, config.tune, say)
        jobs.append(Job(recipe, tuple(plans), frozenset(added)))
    command = command_line(
        "compare", {"recipe": recipes, "methods": config.methods, "seeds": config.seeds, "baseline": config.baseline,
                    **_shared_options(config)},
    )  # fmt: skip
    return _experiment(config, config.baseline, command), jobs


def ablation_jobs(config: AblateConfig, recipes: Sequence[str], say: Say) -> tuple[ExperimentConfig, list[Job]]:
    """Plan an ablation: the full method, and one variant a component.

    Args:
        config: the options.
        recipes: paths, or names of shipped recipes.
        say: told which components are left out or rows added, and why.

    Raises:
        SettingsError: no recipe, a wrong one, or unknown names.
    """
    jobs = []
    for recipe in _read_all(recipes, config.backbone):
        plans = ablation_plans(recipe, config, say)
        added = _references([], recipe, config.only, say)
        plans += [plan_row(recipe, name, config.tune) for name in added]
        _tell_full(plans, config.tune, say)
        jobs.append(Job(recipe, tuple(plans), frozenset(added)))
    command = command_line(
        "ablate", {"recipe": recipes, "method": config.method, "components": config.components,
                   "targets": config.targets, "seeds": config.seeds, **_shared_options(config)},
    )  # fmt: skip
    return _experiment(config, FULL, command), jobs


def ablation_plans(recipe: Recipe, config: AblateConfig, say: Say) -> list[RowPlan]:
    """Return the full row and its variants; variants that change nothing are left out and said."""
    name = config.method or recipe.method
    base = RowChanges(targets=config.targets)
    full = _relabelled(plan_row(recipe, name, config.tune, base), FULL)
    changes = component_changes(full.method, recipe.components)
    asked = list(changes) if config.components == "all" else split_names(config.components)
    plans = [full]
    for component in asked:
        if component not in changes:
            raise UnknownNameError(f"component of {full.method}", component, [*changes, "all"])
        changed = _with_targets(changes[component], config.targets)
        plan = _relabelled(plan_row(recipe, name, config.tune, changed), component)
        if plan.values() != full.values():
            plans.append(plan)
        elif config.components != "all":
            say(f"{recipe.name}: {component} is left out, the full method has it so already")
    return plans


def list_components(config: AblateConfig, recipes: Sequence[str]) -> dict[str, str]:
    """Return what each component is about, by name."""
    found: dict[str, str] = {}
    for recipe in _read_all(recipes, config.backbone):
        method = plan_row(recipe, config.method or recipe.method).method
        found |= {name: changes.why for name, changes in component_changes(method, recipe.components).items()}
    return found


def check_folder(folder: Path) -> None:
    """Refuse a folder with other things in it. Nothing is changed.

    Raises:
        OutputExistsError: it holds something that is no comparison.
    """
    filled = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if filled and not any((folder / name).is_file() for name in (MARKER, STORE)):
        raise OutputExistsError(
            f"{str(folder)!r} exists and holds no comparison; nothing was changed. Name another folder with --out"
        )


def _with_targets(changes: RowChanges, targets: str | None) -> RowChanges:
    return changes if targets is None or changes.targets else dataclasses.replace(changes, targets=targets)


def _relabelled(plan: RowPlan, label: str) -> RowPlan:
    return dataclasses.replace(plan, label=label)


def _read_all(recipes: Sequence[str], backbone: str | None) -> list[Recipe]:
    if not recipes:
        raise SettingsError("say what to run: --recipe sandbox.yaml (or a file of your own with an arena: section)")
    read = [read_experiment(name, backbone) for name in recipes]
    labels = [recipe.name for recipe in read]
    if len(set(labels)) < len(labels):
        raise SettingsError(f"recipes need different file names, for tables tell them apart by these: {labels}")
    return read


def _references(names: Sequence[str], recipe: Recipe, only: bool, say: Say) -> list[str]:
    """The rows that the shares are measured from and to, where they are missing."""
    purposes = {FLOOR: "the shares are measured from it", REFERENCE: "the label gap is measured to it"}
    added = [] if only else [name for name in purposes if name not in names]
    for name in added:
        say(f"{recipe.name}: {name} is added, for {purposes[name]} (--only adds nothing)")
    return added


def _tell_full(plans: Sequence[RowPlan], tune: str, say: Say) -> None:
    full = [plan.label for plan in plans if plan.tune != tune and "image" in plan.phases]
    if full:
        say(f"tuned in full, for what they train is inside the tower: {', '.join(full)}")


def _shared_options(config: CompareConfig | AblateConfig) -> dict[str, Any]:
    tune = None if config.tune == "full" else config.tune
    return {"tune": tune, "only": config.only, "backbone": config.backbone, "out": config.out, "store": config.store}


def _experiment(config: CompareConfig | AblateConfig, baseline: str, command: str) -> ExperimentConfig:
    return ExperimentConfig(parse_seeds(config.seeds), baseline, config.out, config.store, config.device, command)


def command_line(name: str, options: Mapping[str, Any]) -> str:
    """Return the command that makes a table again; options that are None or False are left out."""
    words = ["hybridcascade", name]
    for key, value in options.items():
        if value is None or value is False:
            continue
        listed = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
        words += [f"--{key}"] if value is True else [f"--{key}", *listed]
    return shlex.join(words)
