"""`hybridcascade predict`: class and distribution for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridcascade.cli.evaluate import tell_calibration
from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.config import PredictConfig
from hybridcascade.predictions import check_output_name

if TYPE_CHECKING:
    from hybridcascade.predictions import Predictions

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade predict runs/mine holiday/ --out predictions.csv
hybridcascade predict runs/mine photo.jpg
hybridcascade predict runs/mine a.jpg b.png more_pictures.zip --json
hybridcascade predict runs/mine manifest.csv --out predictions.parquet --strict
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Predict a class and a distribution over the classes for pictures, folders, zips and manifests."
    made = CommandParser("predict", summary, _EXAMPLES, PredictConfig)
    made.add_argument("run", metavar="RUN", help="run folder that `hybridcascade train` made")
    made.add_argument("inputs", metavar="PICTURES", nargs="+", help="pictures, folders, zips, manifests")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(PredictConfig, options)
    if config.out:
        check_output_name(config.out)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        from hybridcascade.api import load

        model = load(options.run, device=config.device)
        tell_calibration(terminal, model)
        predictions = model.predict(
            options.inputs, batch_size=config.batch_size, workers=config.workers,
            strict=config.strict, allow_outside=config.allow_outside,
        )  # fmt: skip
        _write(terminal, predictions, config.out)
        _report(terminal, predictions, options.run)
    return 1 if len(predictions.failed) == len(predictions) else 0


def _write(terminal: Terminal, predictions: Predictions, out: str | None) -> None:
    if out:
        predictions.save(out)
        terminal.data(out)
    else:
        terminal.data(predictions.to_json() if terminal.as_json else predictions.to_csv())


def _report(terminal: Terminal, predictions: Predictions, run: str) -> None:
    failed = len(predictions.failed)
    pace = len(predictions) / max(predictions.seconds, 1e-9)
    terminal.say(f"{len(predictions)} pictures in {predictions.seconds:.1f} s ({pace:.0f}/s)")
    if failed:
        terminal.say(f"{failed} of them could not be read: see the `error` column (--strict stops at the first)")
    terminal.next(f"evaluate {run} --data LABELLED_PICTURES")
