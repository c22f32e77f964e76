"""`hybridcascade train`: tune a model and save it in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.config import TrainConfig
from hybridcascade.errors import OutputExistsError, SettingsError
from hybridcascade.methods.settings import method_settings

if TYPE_CHECKING:
    from hybridcascade.compose import TunedRun

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade train --data photos/ --classes classes.txt --out runs/mine
hybridcascade train --data photos.zip --classes awe,fear,joy --backbone ViT-B-32/openai --out runs/mine
hybridcascade train --config recipes/vit_b32.yaml --data photos/ --classes classes.txt --out runs/mine
hybridcascade train --data photos/ --classes classes.txt --method lafter --image.epochs 20 --lr 1e-4 \
--schedule cosine --out runs/lafter
hybridcascade train --data labelled.csv --method linear_probe --out runs/probe
hybridcascade train --out runs/mine --resume
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Tune a model to your classes and save it in a run folder; labels are not needed."
    return CommandParser("train", summary, _EXAMPLES, TrainConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(with_own_recipe(arguments))
    config = reader.config(TrainConfig, options)
    check_output(config)
    method_settings(config.method, config.settings)  # wrong keys are told before torch is loaded
    with command_output(options.json, options.quiet, options.verbose, remarks=True) as terminal:
        from hybridcascade.compose import train

        terminal.say(f"training {config.method} on {config.backbone} ...")
        result = train(config, progress=terminal.interactive)
        _report(terminal, config, result)
    return 0


def with_own_recipe(arguments: list[str]) -> list[str]:
    """Let `--out runs/mine --resume` alone go on with a run: its own config.yaml says the rest."""
    names = [a.partition("=")[0] for a in arguments]
    if "--resume" not in names or "--config" in names or "--out" not in names:
        return arguments
    place = names.index("--out")
    out = arguments[place].partition("=")[2] or (arguments[place + 1] if place + 1 < len(arguments) else "")
    own = Path(out) / "config.yaml"
    return ["--config", str(own), *arguments] if out and own.is_file() else arguments


def check_output(config: TrainConfig) -> None:
    """Refuse a run folder that exists, or to resume one that does not.

    Raises:
        SettingsError: no --out, or --resume without a run to go on with.
        OutputExistsError: the folder holds something.
    """
    if not config.out:
        raise SettingsError("say where the run folder goes: --out runs/mine")
    folder = Path(config.out)
    filled = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if config.resume and not filled:
        raise SettingsError(f"--resume: there is no run in {config.out!r} to go on with; drop --resume to begin one")
    if filled and not (config.resume or config.overwrite):
        raise OutputExistsError(
            f"{config.out!r} exists and is not empty; nothing was changed. --resume goes on with that run, "
            "--overwrite replaces it, another --out leaves it alone"
        )


def _report(terminal: Terminal, config: TrainConfig, result: TunedRun) -> None:
    for line in result.remarks:
        terminal.say(line)
    out = Path(config.out or "").as_posix()
    if terminal.as_json:
        terminal.json({"run": out, **result.summary()})
    else:
        terminal.data(out)
    terminal.next(f"predict {out} YOUR_PICTURES --out predictions.csv")
