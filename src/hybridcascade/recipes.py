"""Recipes: YAML files whose keys are the fields of a configuration dataclass.

A key that no field has is an error that names the nearest one: a recipe cannot say something nobody reads.
"""

from __future__ import annotations

import dataclasses
import numbers
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "EXPERIMENT_KEYS",
    "build_config",
    "check_keys",
    "find_recipe",
    "read_recipe",
    "shipped_recipes",
    "split_recipe",
]

Config = TypeVar("Config")

_PACKAGED = Path(__file__).parent / "_recipes"  # where a wheel has them
_CHECKOUT = Path(__file__).parents[2] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package (or the checkout), by file name."""
    folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path, or else the name of a shipped one (`vit_b32.yaml`).

    Raises:
        SettingsError: there is no such file and no shipped recipe of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.name in shipped:
        return shipped[path.name]
    raise UnknownNameError("recipe", name, shipped, "Or give the path of a YAML file of your own.")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        SettingsError: not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold `key: value` lines, got {type(content).__name__}")
    return content


EXPERIMENT_KEYS = ("arena", "methods", "components")
"""Sections that `compare` and `ablate` read and the other commands pass over."""


def split_recipe(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the keys of a recipe: those of a configuration, and the sections of `EXPERIMENT_KEYS`."""
    own = {key: value for key, value in values.items() if key not in EXPERIMENT_KEYS}
    return own, {key: values[key] for key in EXPERIMENT_KEYS if key in values}


def build_config(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Make a configuration dataclass of plain values, nested ones included.

    Args:
        kind: the dataclass.
        values: by field name; missing fields keep their defaults.
        where: the file the values come from, for messages.

    Raises:
        SettingsError: an unknown key, or values that the dataclass refuses.
    """
    hints = typing.get_type_hints(kind)
    check_keys(values, hints, where)
    return kind(**{key: _build_value(hints[key], value, where, key) for key, value in values.items()})


def check_keys(values: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Raise `UnknownNameError` for a key that is not known, naming the nearest."""
    names = tuple(known)
    for key in values:
        if key not in names:
            raise UnknownNameError(f"key in {where}" if where else "key", str(key), names)


def _build_value(hint: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where or 'configuration'}: {key} must hold `key: value` lines, got {value!r}")
        return build_config(hint, value, where)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list and arguments and dataclasses.is_dataclass(arguments[0]):
        return [_build_value(arguments[0], item, where, key) for item in value]
    return _build_plain(frozenset(arguments) or frozenset({hint}), value, where, key)


_NUMBERS: dict[frozenset[type], tuple[type, str]] = {
    frozenset({bool}): (bool, "true or false"),
    frozenset({int}): (numbers.Integral, "a whole number"),
    frozenset({float}): (numbers.Real, "a number"),
}


def _build_plain(kinds: frozenset[type], value: Any, where: str, key: str) -> Any:
    """Check a number or truth value; text and lists are for the dataclass to judge."""
    inner = kinds - {type(None)}
    if inner not in _NUMBERS or (value is None and inner != kinds):
        return value
    kind, words = _NUMBERS[inner]
    if kind is numbers.Real and isinstance(value, str):
        try:
            return float(value)  # YAML takes 1e-4 for text
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise SettingsError(f"{where or 'configuration'}: expected {key} to be {words}, got {value!r}")
