"""What `compare` and `ablate` share: their options and the way from rows to the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.experiments.full_table import full_tables, metric_names
from hybridcascade.experiments.jobs import STORE, AblateConfig, CompareConfig, ExperimentConfig, Job, Say, check_folder
from hybridcascade.experiments.text_jobs import TextsConfig

if TYPE_CHECKING:
    from hybridcascade.evaluation.tables import Table
    from hybridcascade.experiments.compare import Experiment

__all__ = ["experiment_parser", "listed_recipes", "run_jobs"]

AnyConfig = CompareConfig | AblateConfig | TextsConfig


def experiment_parser(name: str, summary: str, examples: str, config: type[Any]) -> CommandParser:
    """Return the parser of a command that runs experiments."""
    made = CommandParser(name, summary, examples, config, experiments=True)
    made.add_argument(
        "--recipe",
        nargs="+",
        default=[],
        metavar="RECIPE",
        help="recipes with an `arena:` section, such as sandbox.yaml; RECIPE@key=value,key=value changes its arena",
    )
    made.add_argument(
        "--json", nargs="?", const="-", default=None, metavar="FILE",
        help="write rows and summary as JSON to FILE; without FILE to stdout, in place of the table",
    )  # fmt: skip
    return made


def listed_recipes(options: Any) -> Sequence[str]:
    """Return the words after `--recipe`."""
    return [str(word) for word in options.recipe]


def run_jobs(options: Any, config: AnyConfig, plan: Callable[[Say], tuple[ExperimentConfig, list[Job]]]) -> int:
    """Plan, run, write; return the exit code."""
    on_stdout = options.json == "-"
    remarks: list[str] = []
    experiment, jobs = plan(remarks.append)
    check_folder(Path(experiment.out))
    with command_output(on_stdout, options.quiet, options.verbose) as terminal:
        for line in remarks:
            terminal.say(line)
        from hybridcascade.experiments.compare import run_experiment

        try:
            done = run_experiment(experiment, jobs, terminal.say)
        except KeyboardInterrupt:
            store = experiment.store or str(Path(experiment.out) / STORE)
            terminal.stderr.write(f"stopped by Ctrl-C; finished rows are in {store}. To go on: {experiment.command}\n")
            return 1
        if options.json and not on_stdout:
            from hybridcascade.engine.atomic import write_json

            write_json(options.json, done.json())
        _show(terminal, config, done)
        terminal.say(f"tables and plots: {done.folder}")
    return 0


def _show(terminal: Terminal, config: AnyConfig, done: Experiment) -> None:
    if terminal.as_json:
        terminal.json(done.json())
    elif config.metrics and not config.csv:
        _show_metrics(terminal, config, full_tables(done.compared, metric_names(config.metrics)))
    elif config.csv or config.latex or config.markdown:
        name = "table.csv" if config.csv else "table.tex" if config.latex else "table.md"
        terminal.data((done.folder / name).read_text(encoding="utf-8"))
    elif terminal.stdout.isatty():
        _show_rich(done.table)
    else:
        from hybridcascade.evaluation.tables import to_plain

        terminal.data(to_plain(done.table))


def _show_metrics(terminal: Terminal, config: AnyConfig, tables: Sequence[Table]) -> None:
    """Print the metrics that were asked for, a table a recipe."""
    from hybridcascade.evaluation.tables import to_markdown, to_plain
    from hybridcascade.experiments.outputs import to_latex

    if terminal.stdout.isatty() and not (config.latex or config.markdown):
        for table in tables:
            _show_rich(table)
        return
    write = to_latex if config.latex else to_markdown if config.markdown else to_plain
    terminal.data("\n".join(write(table) for table in tables))


def _show_rich(table: Table) -> None:
    import sys

    from rich.console import Console

    from hybridcascade.evaluation.tables import to_rich

    width = max(shutil.get_terminal_size().columns, 80)
    Console(file=sys.__stdout__, width=width).print(to_rich(table))
