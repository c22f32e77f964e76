"""`hybridcascade info`: what there is to choose from, or what is in a run folder. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hybridcascade.cli.info_spaces import describe_space, named_space, plot_priors
from hybridcascade.cli.parsing import CommandParser, field_texts
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.config import BACKBONES, TEXT_MODES, VIEWS
from hybridcascade.data.emotions import SPACES
from hybridcascade.data.priors import PRIORS
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.schedules import SCHEDULES
from hybridcascade.errors import CheckpointError, SettingsError, UnknownNameError
from hybridcascade.methods.registry import METHODS
from hybridcascade.methods.settings import HEADS, default_phases, default_view, method_settings
from hybridcascade.recipes import shipped_recipes

__all__ = ["LISTS", "describe_run", "parser", "run"]

_EXAMPLES = """
hybridcascade info
hybridcascade info methods
hybridcascade info hybrid_cascade
hybridcascade info mikels8 --plot priors.svg
hybridcascade info runs/mine
"""

_SCHEDULES = {
    "none": "constant",
    "warmup": "linear from 0.1x over warmup_epochs, then constant",
    "cosine": "half a cosine down to 0",
    "cosine_warmup": "linear warm-up, then half a cosine down to 0",
    "multistep": "times gamma at each of the milestones",
}

LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": lambda: {name: entry.summary for name, entry in METHODS.items()},
    "backbones": lambda: dict(BACKBONES),
    "views": lambda: dict(VIEWS),
    "schedules": lambda: {name: _SCHEDULES.get(name, "") for name in SCHEDULES},
    "texts": lambda: dict(TEXT_MODES),
    "spaces": lambda: {name: f"{', '.join(space.classes)}. {space.notes}" for name, space in SPACES.items()},
    "priors": lambda: dict(PRIORS),
    "recipes": lambda: {name: str(path) for name, path in shipped_recipes().items()},
}


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "List what there is to choose from; describe a method or a run folder."
    made = CommandParser("info", summary, _EXAMPLES)
    topics = f"{', '.join(LISTS)}; the name of a method or of an emotion space; or a run folder"
    made.add_argument("topic", metavar="TOPIC", nargs="?", default=None, help=topics)
    made.add_argument("--ring", metavar="NAME|A,B,C", default=None, help="ring of an emotion space that has none")
    made.add_argument("--plot", metavar="FILE", default=None, help="draw the priors of an emotion space (.svg)")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().read(arguments)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        topic = options.topic
        space = None if topic is None else named_space(topic, options.ring)
        if options.plot is not None and space is None:
            raise SettingsError("--plot draws the priors of an emotion space: hybridcascade info mikels8 --plot FILE")
        if topic is None:
            _show(terminal, {name: make() for name, make in LISTS.items()})
            terminal.next("info hybrid_cascade")
        elif topic in LISTS:
            _show(terminal, {topic: LISTS[topic]()})
        elif space is not None:
            _show(terminal, describe_space(space))
            if options.plot is not None:
                terminal.say(f"wrote {plot_priors(space, options.plot).as_posix()}")
            ring = f" --ring {options.ring or 'YOUR_RING'}" if options.ring or space.ring is None else ""
            terminal.next(f"train --data YOUR_VOTES.csv --use_labels --space {topic}{ring} --out runs/mine")
        elif topic in METHODS:
            _show(terminal, describe_method(topic))
            terminal.next(f"train --data YOUR_PICTURES --classes classes.txt --method {topic} --out runs/mine")
        elif Path(topic).exists():
            _show(terminal, describe_run(Path(topic)))
            terminal.next(f"predict {Path(topic).as_posix()} YOUR_PICTURES --out predictions.csv")
        else:
            raise UnknownNameError(
                "topic", topic, [*LISTS, *METHODS, *SPACES], "Nor is there a run folder of that name."
            )
    return 0


def describe_method(name: str) -> dict[str, Any]:
    """Describe a method: what it needs, what it trains, its numbers with their defaults and meaning."""
    entry = METHODS[name]
    kind = type(method_settings(name))
    meaning = field_texts(kind)
    return {
        "method": {
            "name": name,
            "summary": entry.summary,
            "pictures": entry.images,
            "trains": entry.trains,
            "view": default_view(name),
            "tune": ", ".join(entry.tunes),
        },
        "phases": _phases(name),
        "settings (--set key=value)": {
            f.name: f"{_default(f)}  {meaning.get(f.name, '')}" for f in dataclasses.fields(kind)
        },
    }


def _phases(name: str) -> dict[str, str]:
    """The phases of a method with their numbers, and what a heads phase would be."""
    phases = {phase: _one_line(dataclasses.asdict(numbers)) for phase, numbers in default_phases(name).items()}
    if name in HEADS:
        phases["heads"] = f"{_one_line(dataclasses.asdict(HEADS[name]))} (with --tune heads or --warm_start)"
    return phases


def describe_run(path: Path) -> dict[str, Any]:
    """Describe a run folder: what was trained, on what, how far.

    Raises:
        CheckpointError: the folder holds no run and no model.
    """
    folder = RunFolder(path)
    model = folder.model if folder.model.is_dir() else path
    if not folder.is_run() and not (model / "model.json").is_file():
        raise CheckpointError(f"{path} is no run folder of hybridcascade (neither a run nor a model is in it)")
    described: dict[str, Any] = {"run": {"folder": path.as_posix(), "finished": (model / "model.json").is_file()}}
    if (model / "model.json").is_file():
        described["model"] = _model_facts(model / "model.json")
    if folder.provenance_file.is_file():
        described["provenance"] = _read_json(folder.provenance_file)
    if records := folder.read_metrics():
        last = {r.phase: {"epochs": r.epoch + 1, "loss": round(r.loss, 4)} for r in records}
        described["training"] = {phase: _one_line(values) for phase, values in last.items()}
    return described


def _model_facts(file: Path) -> dict[str, Any]:
    description = _read_json(file).get("description", {})
    facts = {key: description.get(key) for key in ("method", "classes", "settings", "seed", "created_with")}
    if (made := description.get("calibration")) is not None:
        facts["calibration"] = (
            f"supervised: temperature {made.get('temperature', 0):.3f}, fitted on the labels of {made.get('pictures')} "
            f"pictures (split {made.get('split')}) of {made.get('data')}"
        )
    return facts | {"backbone": description.get("backbone", {}).get("name"), "texts": len(description.get("texts", []))}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object")
    return content


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return "(required)" if value is dataclasses.MISSING else str(value)


def _one_line(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _show(terminal: Terminal, sections: Mapping[str, Any]) -> None:
    if terminal.as_json:
        terminal.json(sections)
        return
    lines: list[str] = []
    for title, rows in sections.items():
        lines += ["", f"{title}:"] if lines else [f"{title}:"]
        width = max((len(str(key)) for key in rows), default=0)
        lines += [f"  {key:<{width}}  {_cell(value)}" for key, value in rows.items()]
    terminal.data("\n".join(lines))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return _one_line(value) if isinstance(value, Mapping) else str(value)
