"""`hybridcascade evaluate`: measure a saved run on labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.config import EvaluateConfig
from hybridcascade.engine.atomic import write_text
from hybridcascade.evaluation.tables import to_plain

if TYPE_CHECKING:
    from hybridcascade.api import TunedModel
    from hybridcascade.evaluation.full import FullScores

__all__ = ["parser", "run", "tell_calibration"]

_EXAMPLES = """
hybridcascade evaluate runs/mine --data labelled.csv
hybridcascade evaluate runs/mine --data folder_per_class/
hybridcascade evaluate runs/mine --data votes.csv --split test --json
hybridcascade evaluate runs/mine --data votes.csv --full --plots runs/mine/plots
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Measure a saved run: accuracy, macro F1, calibration error, KL to the true distributions."
    made = CommandParser("evaluate", summary, _EXAMPLES, EvaluateConfig)
    made.add_argument("run", metavar="RUN", help="run folder that `hybridcascade train` made")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(EvaluateConfig, options)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        from hybridcascade.api import load

        model = load(options.run, device=config.device)
        where = {"split": config.split, **config.reading()}
        calibration = tell_calibration(terminal, model)
        if config.full or config.plots:
            _tell_fully(terminal, config, options.run, model.evaluate_fully(config.data, **where), calibration)
        else:
            metrics = model.evaluate(config.data, **where)
            if terminal.as_json:
                terminal.json({"run": options.run, "data": config.data, **calibration, "metrics": metrics})
            else:
                terminal.data("\n".join(f"{name:<10} {value:.4f}" for name, value in metrics.items()))
        terminal.next(f"predict {options.run} YOUR_PICTURES --out predictions.csv")
    return 0


def tell_calibration(terminal: Terminal, model: TunedModel) -> dict[str, Any]:
    """Say that a model was calibrated on labels, where it was; return the same for JSON."""
    if model.calibration is None:
        return {}
    terminal.say(model.calibration.words)
    return {"calibration": model.calibration.as_dict()}


def _tell_fully(
    terminal: Terminal, config: EvaluateConfig, run_folder: str, scores: FullScores, calibration: dict[str, Any]
) -> None:
    if terminal.as_json:
        terminal.json({"run": run_folder, "data": config.data, **calibration, **scores.as_dict()})
    else:
        terminal.data("\n".join(to_plain(table) for table in scores.tables()).rstrip())
    if config.plots:
        for name, svg in scores.plots().items():
            file = Path(config.plots) / name
            write_text(file, svg)
            terminal.say(f"wrote {file.as_posix()}")
