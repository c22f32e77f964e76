"""The kinds of arena, registered by name: what `arena:` of a recipe may say. Importing it imports no torch.

A kind is a frozen dataclass of its keys (a *spec*, checked when it is made) and the function that turns the spec
into pictures. The function is named, not imported, so a wrong recipe is answered at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridcascade.config import at_least, one_of
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.recipes import build_config

if TYPE_CHECKING:
    from hybridcascade.experiments.arena import Arena
    from hybridcascade.experiments.text_set import TextSet

__all__ = [
    "ARENAS",
    "KEYED_WHEN_CHANGED",
    "TARGETS",
    "ArenaKind",
    "ArenaMaker",
    "SandboxSpec",
    "arena_kind",
    "read_arena",
    "register_arena",
    "spec_values",
]

ArenaMaker = Callable[[int], "Arena"]
"""From the seed of a row to its arena."""

TARGETS = ("labels", "votes", "posterior")
"""What supervised rows may learn from, where the arena has it."""

KEYED_WHEN_CHANGED = {"keyed_when_changed": True}
"""Metadata of a key that a spec got later: its default is not in the keys of rows, so those of older rows stay."""

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class ArenaKind:
    """What is known of a kind without importing it.

    Attributes:
        name: as written after `kind:`.
        spec: frozen dataclass of the keys; a wrong value raises `SettingsError` when it is made.
        target: `module:function`, called as `function(spec, backbone, precision, device)`, with `text_sets=` where
            further texts are wanted; it loads what all seeds share and returns an `ArenaMaker`.
        summary: one line.
    """

    name: str
    spec: type[Any]
    target: str
    summary: str

    def open(
        self, spec: Any, backbone: str, precision: str = "auto", device: str = "auto",
        text_sets: Sequence[TextSet] = (),
    ) -> ArenaMaker:  # fmt: skip
        """Load what all seeds share; the result makes the arena of a seed.

        Args:
            spec: checked keys.
            backbone: CLIP weights.
            precision: of the frozen weights.
            device: where the model is.
            text_sets: further texts, in `Arena.texts` under their keys.
        """
        module, _, attribute = self.target.partition(":")
        make = getattr(importlib.import_module(module), attribute)
        more = {"text_sets": text_sets} if text_sets else {}
        maker: ArenaMaker = make(spec, backbone, precision, device, **more)
        return maker


ARENAS: dict[str, ArenaKind] = {}


def register_arena(kind: ArenaKind) -> ArenaKind:
    """Add a kind to the registry.

    Raises:
        ValueError: the name is taken or not in snake_case, the spec is no frozen dataclass, or the target is not
            `module:function`.
    """
    if not _NAME.match(kind.name):
        raise ValueError(f"kind of arena must be snake_case, got {kind.name!r}")
    if kind.name in ARENAS:
        raise ValueError(f"kind of arena {kind.name!r} is already registered as {ARENAS[kind.name].target}")
    if not (dataclasses.is_dataclass(kind.spec) and kind.spec.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise ValueError(f"spec of arena {kind.name!r} must be a frozen dataclass, got {kind.spec!r}")
    if kind.target.count(":") != 1:
        raise ValueError(f"target of arena {kind.name!r} must be 'module:function', got {kind.target!r}")
    ARENAS[kind.name] = kind
    return kind


def arena_kind(name: str) -> ArenaKind:
    """Return a kind by name.

    Raises:
        UnknownNameError: no such kind; the message lists the valid ones.
    """
    if name not in ARENAS:
        raise UnknownNameError("kind of arena", name, ARENAS)
    return ARENAS[name]


def read_arena(section: Any, where: str = "") -> tuple[ArenaKind, Any]:
    """Turn the `arena:` section of a recipe into its kind and its checked spec.

    Args:
        section: the mapping, with a key `kind`.
        where: the recipe, for messages.

    Raises:
        SettingsError: no mapping, no kind, an unknown kind or key, or a value that cannot be.
    """
    place = f"{where}: " if where else ""
    if not isinstance(section, Mapping) or "kind" not in section:
        raise SettingsError(f"{place}arena: must hold `kind:` (one of {', '.join(ARENAS)}) and its keys")
    kind = arena_kind(str(section["kind"]))
    values = {key: value for key, value in section.items() if key != "kind"}
    return kind, build_config(kind.spec, values, f"arena of {where}" if where else "arena")


def spec_values(kind: ArenaKind, spec: Any) -> dict[str, Any]:
    """Return kind and spec as plain values: what the rows of a store are keyed by.

    A spec that points to files has a method `fingerprint() -> str` that changes when their content does.
    """
    own = {"fingerprint": spec.fingerprint()} if hasattr(spec, "fingerprint") else {}
    values = dataclasses.asdict(spec)
    for field in dataclasses.fields(spec):
        if field.metadata.get("keyed_when_changed") and values[field.name] == field.default:
            del values[field.name]
    return {"kind": kind.name, **values, **own}


@dataclass(frozen=True)
class SandboxSpec:
    """Keys of `kind: sandbox`: generated pictures whose true distributions are known."""

    train_pictures: int = 1500
    """Unlabelled training pictures; another draw for each seed."""

    test_pictures: int = 2000
    """Test pictures; another draw for each seed."""

    domain: str = "shifted"
    """clean (as the nano CLIP was trained) or shifted (aged canvas)."""

    severity: float = 1.0
    """Strength of the shift, 0 or above; 1 is the sandbox's own."""

    classes_present: list[str] | None = None
    """Emotions that caused the training pictures; left out: all eight. The test pictures always have all."""

    imbalance: float = 1.0
    """The most frequent class of the training pictures over the rarest, 1 or above; the others lie between
    in equal ratios, and each seed draws another order."""

    targets: str = "labels"
    """What methods that learn from targets get: labels (the emotion that caused the picture), votes, or
    posterior (the true distribution)."""

    votes: int = 10
    """For targets=votes: votes a picture, drawn from its true distribution."""

    def __post_init__(self) -> None:
        at_least("train_pictures", self.train_pictures, 1)
        at_least("test_pictures", self.test_pictures, 1)
        at_least("severity", self.severity, 0)
        at_least("imbalance", self.imbalance, 1)
        at_least("votes", self.votes, 1)
        one_of("domain", self.domain, ("clean", "shifted"))
        one_of("kind of targets", self.targets, TARGETS)
        if self.classes_present is not None:
            if not isinstance(self.classes_present, list) or not self.classes_present:
                raise SettingsError(f"classes_present must be a list of class names, got {self.classes_present!r}")
            object.__setattr__(self, "classes_present", [str(name) for name in self.classes_present])


register_arena(
    ArenaKind(
        name="sandbox",
        spec=SandboxSpec,
        target="hybridcascade.experiments.arena:sandbox_arena",
        summary="generated pictures whose true distributions are known (64x64, eight emotions)",
    )
)
