"""`hybridcascade compare`: methods, seeds and recipes in one honest table."""

from __future__ import annotations

from hybridcascade.cli.experiments import experiment_parser, listed_recipes, run_jobs
from hybridcascade.cli.parsing import CommandParser
from hybridcascade.experiments.jobs import CompareConfig, comparison_jobs

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade compare --recipe sandbox.yaml --methods zero_shot,lafter,hybrid_cascade --seeds 5
hybridcascade compare --recipe sandbox.yaml mine.yaml --seeds 0,1,2 --baseline lafter --out runs/mine
hybridcascade compare --recipe sandbox.yaml --seeds 5 --json comparison.json
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Tune methods with several seeds in the arenas of recipes and compare them: means with intervals, paired\n"
        "differences with p-values, shares of what the shift took and labels would give, cost. A comparison that\n"
        "was stopped goes on where it was: run the same command again."
    )
    return experiment_parser("compare", summary, _EXAMPLES, CompareConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(CompareConfig, options)
    return run_jobs(options, config, lambda say: comparison_jobs(config, listed_recipes(options), say))
