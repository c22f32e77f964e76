"""`hybridcascade demo`: all methods on the embedded sandbox."""

from __future__ import annotations

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import command_output
from hybridcascade.demo_config import DemoConfig, check_demo_folder
from hybridcascade.recipes import find_recipe

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade demo
hybridcascade demo --out runs/demo1 --seed 1
hybridcascade demo --json
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Tune and compare all methods on generated pictures whose true distributions are known.\n"
        "Needs no download and no GPU. Writes results.json and report.html; a demo that was there before\n"
        "is replaced, any other folder is refused."
    )
    return CommandParser("demo", summary, _EXAMPLES, DemoConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    recipe = [] if _names_recipe(arguments) else ["--config", str(find_recipe("demo.yaml"))]
    options = reader.read([*recipe, *arguments])
    config = reader.config(DemoConfig, options)
    check_demo_folder(config.out, config.overwrite)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        from hybridcascade.demo import run_demo

        result = run_demo(config, say=terminal.say, progress=terminal.interactive)
        if terminal.as_json:
            terminal.json(result.results)
        else:
            terminal.data(result.table)
        terminal.say(f"open {result.report} in a browser")
        terminal.next("train --data YOUR_PICTURES --classes classes.txt --backbone ViT-B-32/openai --out runs/mine")
    return 0


def _names_recipe(arguments: list[str]) -> bool:
    return any(a.partition("=")[0] in ("--config", "--help", "-h") for a in arguments)
