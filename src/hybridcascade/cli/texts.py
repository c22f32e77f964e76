"""`hybridcascade texts compare`: templates and descriptions, each in the same methods and arenas."""

from __future__ import annotations

from hybridcascade.cli.experiments import experiment_parser, listed_recipes, run_jobs
from hybridcascade.cli.parsing import CommandParser
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.experiments.text_jobs import TextsConfig, text_jobs

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade texts compare --recipe sandbox.yaml --descriptions mikels8 --seeds 5
hybridcascade texts compare --recipe mine.yaml --descriptions mikels8,mine.json --templates evoked_emotion,mine.txt
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Give methods the class names alone, in templates, and with descriptions, one set of texts at a time, and\n"
        "compare them on the same seeds. A comparison that was stopped goes on where it was: run it again."
    )
    return experiment_parser("texts", summary, _EXAMPLES, TextsConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] in ("-h", "--help"):
            reader.read(arguments)  # shows the help and ends
        raise SettingsError("say what to do with texts: `hybridcascade texts compare --recipe RECIPE`")
    if arguments[0] != "compare":
        raise UnknownNameError("work on texts", arguments[0], ("compare",))
    options = reader.read(arguments[1:])
    config = reader.config(TextsConfig, options)
    return run_jobs(options, config, lambda _: text_jobs(config, listed_recipes(options)))
