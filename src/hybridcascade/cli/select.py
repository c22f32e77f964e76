"""`hybridcascade select`: which of several methods to use, decided without labels."""

from __future__ import annotations

from typing import Any

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.config import split_names
from hybridcascade.errors import SettingsError
from hybridcascade.experiments.choices import Candidate, SelectConfig, choose_candidate, regret_lines
from hybridcascade.experiments.plans import plan_row, read_experiment
from hybridcascade.methods.registry import method_entry

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade select runs/a runs/b --data photos/
hybridcascade select --data photos/ --classes awe,fear,joy --methods zero_shot,lafter,hybrid_cascade --out runs/select
hybridcascade select --recipe sandbox.yaml --methods zero_shot,lafter,hybrid_cascade --seeds 3 --regret
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Name the tuned model to use, from unlabelled pictures alone: whether views of a picture and stages of\n"
        "a model agree beyond chance, and whether all classes occur. That is evidence, not proof."
    )
    made = CommandParser("select", summary, _EXAMPLES, SelectConfig, experiments=True)
    made.add_argument("runs", nargs="*", default=[], metavar="RUN", help="run folders that `hybridcascade train` made")
    made.add_argument("--recipe", default=None, metavar="RECIPE", help="recipe with an `arena:` section to tune in")
    made.add_argument("--json", action="store_true", help="machine-readable output on stdout")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(SelectConfig, options)
    _check(config, options)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        choice = choose_candidate(_candidates(config, options, terminal))
        if terminal.as_json:
            terminal.json(choice.json())
        else:
            terminal.data(choice.text())
        regret = choice.regret()
        for line in regret_lines(regret, choice.rank_correlation()) if regret else []:
            terminal.say(line)
        if options.runs:
            terminal.next(f"predict {choice.name} YOUR_PICTURES --out predictions.csv")
    return 0


def _candidates(config: SelectConfig, options: Any, terminal: Terminal) -> list[Candidate]:
    named = split_names(config.methods)
    if options.recipe:
        recipe = read_experiment(options.recipe)
        rows = named or [
            name for name in dict.fromkeys([recipe.method, *recipe.methods]) if plan_row(recipe, name).targets is None
        ]
        from hybridcascade.experiments.select import measure_recipe

        return measure_recipe(recipe, config, rows, terminal.say)
    for name in named:
        if method_entry(name).images == "targets":
            raise SettingsError(f"{name} learns from labels; without them it cannot be tuned or chosen")
    from hybridcascade.experiments.select import measure_runs, train_runs

    runs = list(options.runs) or train_runs(config, named, terminal.say)
    return measure_runs(runs, str(config.data), config.pictures, config.device, terminal.say)


def _check(config: SelectConfig, options: Any) -> None:
    if options.recipe and (options.runs or config.data):
        raise SettingsError("--recipe brings its own pictures and methods: drop the run folders and --data")
    if config.regret and not options.recipe:
        raise SettingsError("--regret needs pictures whose truth is known: --recipe sandbox.yaml")
    if options.recipe:
        return
    if not config.data:
        raise SettingsError("say on which unlabelled pictures to choose: --data photos/")
    if options.runs and config.methods:
        raise SettingsError("name run folders or --methods, not both")
    if not options.runs and not (config.methods and config.classes):
        raise SettingsError("name run folders, or what to tune: --methods zero_shot,lafter --classes classes.txt")
