"""`hybridcascade calibrate`: fit the temperature of a saved run on labelled pictures."""

from __future__ import annotations

from pathlib import Path

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import command_output
from hybridcascade.config_use import CalibrateConfig

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade calibrate runs/mine --data labelled.csv --split val
hybridcascade calibrate runs/mine --data Emotion6/ --make_split hash:0.7,0.1 --split val
hybridcascade calibrate runs/mine --remove
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Fit a temperature on labelled pictures and keep it in the run: supervised calibration. The most probable\n"
        "class stays, only how sure the model is changes. Take pictures that it did not learn from, and measure it\n"
        "on yet others."
    )
    made = CommandParser("calibrate", summary, _EXAMPLES, CalibrateConfig)
    made.add_argument("run", metavar="RUN", help="run folder that `hybridcascade train` made")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(CalibrateConfig, options)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        from hybridcascade.api import load

        model = load(options.run, device=config.device)
        if config.remove:
            model.uncalibrate()
        else:
            terminal.say(model.calibrate(config.data, config.split, **config.reading()).words)
        model.keep()
        temperature = None if model.calibration is None else model.calibration.temperature
        if terminal.as_json:
            made = None if model.calibration is None else model.calibration.as_dict()
            terminal.json({"run": options.run, "calibration": made})
        else:
            terminal.data("no temperature" if temperature is None else f"temperature {temperature:.4f}")
        terminal.next(f"evaluate {Path(options.run).as_posix()} --data OTHER_LABELLED_PICTURES")
    return 0
