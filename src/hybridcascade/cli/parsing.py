"""Turns typed dataclasses into options, and wrong options into answers that help.

The fields of a configuration dataclass become options: their types are checked by jsonargparse, the string
below each is its help. `--config recipe.yaml` fills them; options after it change it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.recipes import build_config, check_keys, find_recipe, read_recipe, split_recipe

__all__ = ["CommandParser", "field_texts"]

Config = TypeVar("Config")

_METAVARS = {int: "N", float: "X"}
_PLACES = {
    "data": "PATH", "out": "PATH", "classes": "FILE|A,B,C", "descriptions": "FILE", "templates": "FILE",
    "text_cache": "FOLDER", "feature_cache": "FOLDER",
    "milestones": "[X, ...]", "methods": "A,B,...", "components": "A,B,...",
    "seeds": "N|A,B,...", "base_url": "URL", "prompt": "NAME|FILE", "store": "FILE",
}  # fmt: skip
_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class CommandParser(ArgumentParser):
    """Parser of one command: help opens with examples, booleans are flags, `--set key=value` is understood.

    Args:
        name: of the command.
        summary: what it does, one line.
        examples: runnable lines.
        config: dataclass whose fields become options; None for none.
        experiments: the command reads recipes itself and has a `--json FILE` of its own.
    """

    def __init__(
        self, name: str, summary: str, examples: str, config: type[Any] | None = None, experiments: bool = False
    ) -> None:
        super().__init__(
            prog=f"hybridcascade {name}", exit_on_error=False, formatter_class=_Formatter,
            usage=argparse.SUPPRESS, default_env=False,
        )  # fmt: skip
        self._opening = f"{summary}\n\nexamples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines())
        self._config = config
        self._types: dict[str, Any] = {}
        if config is not None and not experiments:
            self.add_argument(
                "--config", action="config", metavar="RECIPE", help="YAML recipe; later options change it"
            )
        if config is not None:
            self._add_fields(config, "", self)
        if not experiments:
            self.add_argument("--json", action="store_true", help="machine-readable output on stdout")
        self.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
        self.add_argument("--verbose", action="store_true", help="the remarks of other libraries too")

    def _add_fields(self, config: type[Any], prefix: str, group: Any) -> None:
        hints = typing.get_type_hints(config)
        texts = field_texts(config)
        for field in _own_first(config):
            text = texts[field.name]
            if dataclasses.is_dataclass(hints[field.name]):
                self._add_fields(hints[field.name], f"{field.name}.", self.add_argument_group(text))
            else:
                self._add_field(group, prefix + field.name, hints[field.name], text, field)

    def _add_field(self, group: Any, name: str, hint: Any, text: str, field: dataclasses.Field[Any]) -> None:
        self._types[name] = hint
        text = text.replace("%", "%%")
        if hint is bool:
            group.add_argument(f"--{name}", action="store_true", help=text)
            return
        if field.default_factory is not dataclasses.MISSING:  # mappings and lists: written in recipes, or by --set
            empty = field.default_factory()
            kind: Any = dict[str, Any] if isinstance(empty, dict) else list[dict[str, Any]]
            group.add_argument(f"--{name}", type=kind, default=empty, help=argparse.SUPPRESS)
            if name == "settings":
                group.add_argument("--set", metavar="KEY=VALUE", help=f"{text} `hybridcascade info NAME` lists them.")
            return
        shown = text if field.default is None else f"{text} (default: {field.default})"
        action = group.add_argument(
            f"--{name}", type=hint, default=field.default, metavar=_metavar(name, hint), help=shown
        )
        action.option_strings = [f"--{name}"]  # lists also get `--name+`, one way more than anybody needs

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Put the summary and the runnable examples before the options."""
        return f"{self._opening}\n{super().format_help(formatter).strip()}\n"

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse arguments; wrong ones are answered in one line.

        Raises:
            SettingsError: an unknown option or recipe key (with the nearest valid one), or a value of a wrong type.
        """
        written = [self._normalise(a) for a in _join_set(arguments)]
        self._check_options(written)
        written = self._check_recipes(written)
        try:
            return self.parse_args(written)
        except argparse.ArgumentError as error:
            raise SettingsError(self._plain(str(error))) from error

    def config(self, kind: type[Config], options: Namespace) -> Config:
        """Make the configuration dataclass of parsed options."""
        values = options.as_dict()
        return build_config(kind, {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values})  # type: ignore[arg-type]

    def _normalise(self, argument: str) -> str:
        """Accept `--text-cache` for `--text_cache`."""
        if not argument.startswith("--"):
            return argument
        option, equals, value = argument.partition("=")
        return "--" + option[2:].replace("-", "_") + equals + value

    def _check_options(self, arguments: Sequence[str]) -> None:
        known = sorted(o for action in self._actions for o in action.option_strings if o.startswith("--"))
        for argument in arguments:
            option = argument.partition("=")[0]
            if argument == "--":
                return
            if argument.startswith("--") and option not in known and not option.startswith("--settings."):
                visible = [o for o in known if o not in ("--settings", "--rows")]
                raise UnknownNameError("option", option, visible)

    def _check_recipes(self, arguments: Sequence[str]) -> list[str]:
        """Find each `--config`, check its keys, and put its path in place of a shipped recipe's name.

        Sections that only experiments read are left out: then its content stands in place of the path.
        """
        checked, after_config = [], False
        for argument in arguments:
            option, equals, value = argument.partition("=")
            if after_config or (option == "--config" and equals):
                path = find_recipe(argument if after_config else value)
                own, left_out = split_recipe(read_recipe(path))
                _check_recipe(self._config, own, str(path))
                place = json.dumps(own) if left_out else str(path)
                argument = place if after_config else f"--config={place}"
            after_config = argument == "--config"
            checked.append(argument)
        return checked

    def _plain(self, message: str) -> str:
        """Rewrite jsonargparse's message for somebody who wrote an option, not a type annotation."""
        key, value = re.search(r'[Kk]ey "([^"]+)"', message), re.search(r"(?:Got|Given) value: (.*)", message)
        if key and value and key[1] in self._types:
            return f"--{key[1]}: expected {_expected(self._types[key[1]])}, got {value[1].strip()!r}"
        missing = re.search(r"arguments are required: (.*)", message)
        if missing:
            return f"missing: {missing[1]}; `{self.prog} --help` shows examples"
        return " ".join(message.split())


def _own_first(config: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, then those it shares with others by a base: what a command is about comes first."""
    shared = {f.name for base in config.__bases__ if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)}
    return sorted(dataclasses.fields(config), key=lambda field: field.name in shared)


def field_texts(config: type[Any]) -> dict[str, str]:
    """Return the string below each field of a dataclass and its bases, on one line, by field name.

    A field that only changes a default keeps the string of its base.
    """
    texts: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        for param in docstring_parser.parse_from_object(kind).params:
            text = " ".join((param.description or "").split())
            texts[param.arg_name] = text or texts.get(param.arg_name, "")
    return texts


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def _check_recipe(kind: Any, values: Mapping[str, Any], where: str) -> None:
    """Check the keys of a recipe and of its nested parts."""
    hints = typing.get_type_hints(kind)
    check_keys(values, hints, where)
    for key, value in values.items():
        inner = [(hints[key], value)]
        if typing.get_origin(hints[key]) is list and isinstance(value, list):
            inner = [(typing.get_args(hints[key])[0], item) for item in value]
        for hint, item in inner:
            if dataclasses.is_dataclass(hint) and isinstance(item, Mapping):
                _check_recipe(hint, item, where)


def _join_set(arguments: Sequence[str]) -> list[str]:
    """Turn `--set key=value` into `--settings.key=value`, which jsonargparse reads as a mapping."""
    joined, pending = [], False
    for argument in arguments:
        value = argument if pending else argument.removeprefix("--set=") if argument.startswith("--set=") else None
        pending = argument == "--set"
        if value is not None:
            key, equals, _ = value.partition("=")
            if not key or not equals:
                raise SettingsError(f"--set expects KEY=VALUE, got {value!r}")
            joined.append(f"--settings.{value}")
        elif not pending:
            joined.append(argument)
    if pending:
        raise SettingsError("--set expects KEY=VALUE after it")
    return joined


def _plain_type(hint: Any) -> Any:
    """Return the type in `X | None`."""
    inner = [a for a in typing.get_args(hint) if a is not type(None)]
    return inner[0] if type(None) in typing.get_args(hint) and len(inner) == 1 else hint


def _metavar(name: str, hint: Any) -> str:
    leaf = name.rpartition(".")[2]
    return _PLACES.get(leaf) or _METAVARS.get(_plain_type(hint), "NAME")


def _expected(hint: Any) -> str:
    return _EXPECTED.get(_plain_type(hint), "a list of numbers such as [10, 20]")
