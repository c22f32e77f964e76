"""What is to be run, in plain values: from recipes to row plans. Needs no torch, so wrong recipes stop at once.

A recipe for comparisons is a training recipe with three sections more:

    arena:       where the methods meet: `kind: sandbox` and its keys
    methods:     by name, what differs from the defaults: text, heads, image, view, settings, targets, texts; a name
                 that is no method of the registry needs `method:` and is a row of its own
    components:  further variants for `ablate`: what each changes, with `why:`

The other keys are those of `train` and belong to the recipe's own `method`; `backbone`, `precision` and `device`
hold for all rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hybridcascade.config import TUNES, PhaseSettings, TrainConfig, at_least, check_backbone, one_of
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.experiments import catalogue  # noqa: F401  (registers the arenas; imports no torch)
from hybridcascade.experiments.kinds import ArenaKind, read_arena, spec_values
from hybridcascade.experiments.store import row_key
from hybridcascade.methods.registry import METHODS, method_entry
from hybridcascade.methods.settings import PhaseDefaults, default_view, method_settings
from hybridcascade.recipes import build_config, check_keys, find_recipe, read_recipe, split_recipe

__all__ = ["Recipe", "RowChanges", "RowPlan", "parse_seeds", "plan_row", "read_experiment"]


@dataclass(frozen=True)
class RowChanges:
    """What a row changes: an entry of `methods:`, or a component of an ablation."""

    method: str | None = None
    """The method, where the row has a name of its own."""

    text: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the text phase."""

    heads: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the heads phase."""

    image: PhaseSettings = field(default_factory=PhaseSettings)
    """Numbers of the image phase."""

    warm_start: int | None = None
    """Epochs of a heads phase on stored features before the image phase."""

    view: str | None = None
    """Strong view."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The method's own numbers."""

    targets: str | None = None
    """Train on targets: default (the arena's), or a kind that the arena has, such as votes."""

    target_share: float = 1.0
    """Share of the training pictures that have targets, chosen by a hash of seed and id."""

    shots: int | None = None
    """This many training pictures a class have targets, chosen by a hash of seed and id; left out: all."""

    target_rest: str = "unlabelled"
    """The others: unlabelled, or left_out."""

    texts: str | None = None
    """templates or descriptions; left out: templates for zero_shot, descriptions for all others."""

    why: str = ""
    """What a component is about, for ablations."""

    def __post_init__(self) -> None:
        one_of("target_rest", self.target_rest, ("unlabelled", "left_out"))
        if not 0 < self.target_share <= 1:
            raise SettingsError(f"target_share must be above 0 and at most 1, got {self.target_share}")
        at_least("shots", self.shots, 1)
        if self.shots is not None and self.target_share < 1:
            raise SettingsError("shots and target_share contradict each other: choose one")

    def train_keys(self) -> dict[str, Any]:
        """The part that `TrainConfig` has fields for, as a mapping to lay over another."""
        phases = {"text": self.text.given(), "heads": self.heads.given(), "image": self.image.given()}
        given = {**phases, "settings": dict(self.settings), "view": self.view, "warm_start": self.warm_start}
        return {key: value for key, value in given.items() if value not in (None, {})}


@dataclass(frozen=True)
class Recipe:
    """A recipe, read and checked.

    Attributes:
        name: file name without its ending.
        path: the file, as given.
        kind: of the arena.
        spec: of the arena.
        train: the keys of `train`, as written.
        methods: changes by row name.
        components: further components for ablations.
    """

    name: str
    path: str
    kind: ArenaKind
    spec: Any
    train: Mapping[str, Any]
    methods: Mapping[str, RowChanges]
    components: Mapping[str, RowChanges]

    @property
    def method(self) -> str:
        """The recipe's own method."""
        return str(self.train.get("method", TrainConfig.method))

    @property
    def backbone(self) -> str:
        """CLIP weights of all rows."""
        return str(self.train.get("backbone", TrainConfig.backbone))

    @property
    def precision(self) -> str:
        """Of the frozen weights."""
        return str(self.train.get("precision", TrainConfig.precision))

    def arena_values(self) -> dict[str, Any]:
        """Plain values that decide the arena of a seed."""
        model, at, file = self.backbone.partition("@")
        weights = hashlib.sha256(Path(file).read_bytes()).hexdigest() if at else None
        own = {"backbone": model if at else self.backbone, "weights": weights, "precision": self.precision}
        return {**spec_values(self.kind, self.spec), **own}


@dataclass(frozen=True)
class RowPlan:
    """One row to run, all numbers filled in.

    Attributes:
        label: name in tables.
        method: registry key.
        settings: the method's numbers, complete.
        phases: numbers of each phase, in order.
        view: strong view.
        targets: None for label-free training, else a kind of targets (`default`: the arena's own).
        target_share: share of the pictures that have targets.
        shots: pictures a class that have targets; None for all.
        target_rest: unlabelled or left_out: what becomes of the others.
        texts: templates or descriptions.
        tune: full or heads; full for a method that has no frozen-feature mode. The phases say the same.
        why: what the row is about, for ablations.
    """

    label: str
    method: str
    settings: Mapping[str, Any]
    phases: Mapping[str, PhaseDefaults]
    view: str
    targets: str | None
    texts: str
    tune: str = "full"
    why: str = ""
    target_share: float = 1.0
    target_rest: str = "unlabelled"
    shots: int | None = None

    def values(self) -> dict[str, Any]:
        """Plain values of everything that decides the result; label and reason do not."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "phases": {name: dataclasses.asdict(numbers) for name, numbers in self.phases.items()},
            "view": self.view,
            "targets": self.targets,
            "texts": self.texts,
            **({"target_share": [self.target_share, self.target_rest]} if self.target_share < 1 else {}),
            **({"shots": [self.shots, self.target_rest]} if self.shots is not None else {}),
        }

    def key(self, arena: Mapping[str, Any], seed: int) -> str:
        """Return the key of the row in a store.

        Args:
            arena: from `Recipe.arena_values`.
            seed: of the row.
        """
        return row_key({"arena": arena, "row": self.values(), "seed": seed, "version": version("hybridcascade")})


def read_experiment(name: str, backbone: str | None = None) -> Recipe:
    """Read a recipe for comparisons: a path, or the name of a shipped one.

    `lab.yaml@shift=jpeg,severity=2` is the recipe with these keys of its arena changed, and a recipe of its own.

    Args:
        name: of the recipe.
        backbone: CLIP weights in place of those of the recipe, which None keeps.

    Raises:
        SettingsError: no such file, unknown keys, no arena, or values that cannot be.
    """
    file, changed = _split_name(name)
    path = find_recipe(file)
    train, extra = split_recipe(read_recipe(path))
    arena = extra.get("arena")
    if arena is None:
        raise SettingsError(f"{path} has no `arena:` section, which says where the methods meet; see sandbox.yaml")
    if backbone is not None:
        check_backbone(backbone)
        train = {**train, "backbone": backbone}
    check_keys(train, (f.name for f in dataclasses.fields(TrainConfig)), str(path))
    kind, spec = read_arena({**arena, **changed} if isinstance(arena, Mapping) else arena, name)
    recipe = Recipe(
        name=path.stem + name.removeprefix(file), path=name, kind=kind, spec=spec, train=train,
        methods=_read_changes(extra.get("methods"), "methods", str(path)),
        components=_read_changes(extra.get("components"), "components", str(path)),
    )  # fmt: skip
    for row in {recipe.method, *recipe.methods}:
        plan_row(recipe, row)
    return recipe


def _split_name(name: str) -> tuple[str, dict[str, Any]]:
    """Part `recipe.yaml@key=value,key=value` into the recipe and what changes of its arena."""
    file, at, text = name.rpartition("@")
    if not at or "=" not in text or Path(name).is_file():
        return name, {}
    changed = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise SettingsError(f"{name}: expected RECIPE@key=value,key=value, found {pair!r}")
        changed[key] = yaml.safe_load(value)
    return file, changed


def _read_changes(section: Any, name: str, where: str) -> dict[str, RowChanges]:
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise SettingsError(f"{where}: {name} must hold `name: {{...}}` lines, got {section!r}")
    rows = {}
    for row, values in section.items():
        if values is not None and not isinstance(values, Mapping):
            raise SettingsError(f"{where}: {name}.{row} must hold `key: value` lines, got {values!r}")
        rows[str(row)] = build_config(RowChanges, values or {}, f"{name}.{row} of {where}")
    return rows


def plan_row(recipe: Recipe, name: str, tune: str = "full", changes: RowChanges | None = None) -> RowPlan:
    """Fill in all numbers of a row.

    Args:
        recipe: where the row is.
        name: a method of the registry, or a name under `methods:` of the recipe.
        tune: full or heads.
        changes: laid over the row, for the variants of an ablation.

    Raises:
        UnknownNameError: no such row or method, or a setting it does not have.
        SettingsError: values that cannot be, or contradict each other.
    """
    one_of("tune", tune, TUNES)
    own = recipe.methods.get(name, RowChanges())
    method = own.method or name
    if method not in METHODS:
        rows = [row for row, changed in recipe.methods.items() if changed.method in METHODS]
        raise UnknownNameError("method", method, [*METHODS, *rows])
    layers = [recipe.train if method == recipe.method else {}, own.train_keys()]
    layers += [changes.train_keys()] if changes is not None else []
    tune = tune if tune in method_entry(method).tunes else "full"
    config = _train_config(method, tune, layers)
    targets = (changes.targets if changes is not None else None) or own.targets
    if method_entry(method).images == "targets":
        targets = targets or "default"
    settings = method_settings(method, config.settings)
    if targets is not None and not hasattr(settings, "distribution_share"):
        raise SettingsError(f"{name}: method {method!r} cannot learn from targets; drop `targets`")
    if targets is None and own.shots is not None:
        raise SettingsError(f"{name}: shots are of targets: say which, such as `targets: labels`")
    texts = own.texts or ("templates" if method == "zero_shot" else "descriptions")
    one_of("texts", texts, ("templates", "descriptions"))
    return RowPlan(
        label=name, method=method, settings=dataclasses.asdict(settings), phases=config.phases(),
        view=config.view or default_view(method), targets=targets, texts=texts, tune=tune,
        why=own.why if changes is None else changes.why, target_share=own.target_share, target_rest=own.target_rest,
        shots=own.shots,
    )  # fmt: skip


_ROW_KEYS = ("text", "heads", "image", "view", "settings", "warm_start", "epochs", "batch_size", "lr", "schedule")


def _train_config(method: str, tune: str, layers: Sequence[Mapping[str, Any]]) -> TrainConfig:
    """Lay mappings over each other, phases and settings key by key; a recipe serves full tuning and heads alike."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key in _ROW_KEYS:
            value = layer.get(key)
            if isinstance(value, Mapping):
                merged[key] = {**merged.get(key, {}), **value}
            elif value is not None:
                merged[key] = value
    if tune == "heads":
        merged.pop("warm_start", None)
    elif not merged.get("warm_start"):
        merged.pop("heads", None)
    return build_config(TrainConfig, {**merged, "method": method, "tune": tune, "data": "arena", "classes": "arena"})


def parse_seeds(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds: `5` means 0 to 4; `3,5` or a list means these.

    Raises:
        SettingsError: no number, a negative one, one twice, or none at all.
    """
    try:
        if isinstance(text, str):
            words = [word for word in text.strip("[]() ").replace(",", " ").split() if word]
            listed = "," in text or "[" in text
            numbers = [int(word) for word in words]
        else:
            listed = not isinstance(text, int)
            numbers = [int(number) for number in ([text] if isinstance(text, int) else text)]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"seeds: expected a count such as 5 or a list such as 0,1,2, got {text!r}") from error
    if not listed and len(numbers) == 1:
        numbers = list(range(numbers[0]))
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise SettingsError(f"seeds: expected at least one, each 0 or above and once, got {text!r}")
    return tuple(numbers)
