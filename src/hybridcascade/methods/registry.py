"""One guarded registration per method.

The registry names where a method lives instead of importing it, so listing the methods, and
answering a wrong name, costs no import of torch.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hybridcascade.errors import UnknownNameError

if TYPE_CHECKING:
    from hybridcascade.methods.base import Method

__all__ = ["METHODS", "MethodEntry", "method_entry", "no_heads", "register_method"]

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class MethodEntry:
    """What is known of a method without importing it.

    Attributes:
        name: registry key, as written after `--method`.
        target: `module:Class` of the `Method` subclass.
        summary: one line for `hybridcascade info`.
        images: what it needs of the training pictures.
        trains: what it trains, in words.
        tunes: ways of tuning it knows, as its class has them: `"full"`, and `"heads"` on stored features.
    """

    name: str
    target: str
    summary: str
    images: Literal["none", "unlabelled", "targets"]
    trains: str
    tunes: tuple[str, ...] = ("full",)

    def load(self) -> type[Method]:
        """Import and return the `Method` subclass."""
        module, _, attribute = self.target.partition(":")
        loaded: type[Method] = getattr(importlib.import_module(module), attribute)
        return loaded


METHODS: dict[str, MethodEntry] = {}


def register_method(entry: MethodEntry) -> MethodEntry:
    """Add a method to the registry.

    Raises:
        ValueError: the name is taken, not in snake_case, or the target is not `module:Class`.
    """
    if not _NAME.match(entry.name):
        raise ValueError(f"method name must be snake_case, got {entry.name!r}")
    if entry.name in METHODS:
        raise ValueError(f"method {entry.name!r} is already registered as {METHODS[entry.name].target}")
    if entry.target.count(":") != 1:
        raise ValueError(f"target of method {entry.name!r} must be 'module:Class', got {entry.target!r}")
    METHODS[entry.name] = entry
    return entry


def no_heads(name: str) -> str:
    """Return the message for a heads phase of a method that has none."""
    can = [other for other, entry in METHODS.items() if "heads" in entry.tunes]
    return (
        f"method {name!r} cannot be tuned on stored features: what it trains on pictures is inside the tower (or it "
        f"learns from texts alone). Drop --tune heads and --warm_start, or choose one of: {', '.join(can)}"
    )


def method_entry(name: str) -> MethodEntry:
    """Return the entry of a method.

    Raises:
        UnknownNameError: no such method; the message lists the valid names and the nearest.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]
