"""`hybridcascade ablate`: one component at a time, against the full method."""

from __future__ import annotations

from hybridcascade.cli.experiments import experiment_parser, listed_recipes, run_jobs
from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import command_output
from hybridcascade.engine.atomic import write_json
from hybridcascade.experiments.jobs import AblateConfig, ablation_jobs, list_components

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade ablate --recipe sandbox.yaml --seeds 5
hybridcascade ablate --recipe sandbox.yaml --components plan_last,pool_cls,labels_argmax --seeds 0,1,2
hybridcascade ablate --recipe sandbox.yaml --components plan_last --targets votes --out runs/ablate_votes
hybridcascade ablate --recipe sandbox.yaml --list
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Switch the components of a method off, on or to another kind, one at a time, and compare each variant with\n"
        "the full method on the same seeds. An ablation that was stopped goes on where it was: run it again."
    )
    return experiment_parser("ablate", summary, _EXAMPLES, AblateConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(AblateConfig, options)
    if config.list:
        with command_output(options.json == "-", options.quiet, options.verbose) as terminal:
            rows = list_components(config, listed_recipes(options))
            if terminal.as_json:
                terminal.json(rows)
                return 0
            if options.json:
                write_json(options.json, rows)
            width = max(len(name) for name in rows)
            terminal.data("\n".join(f"{name:<{width}}  {why}" for name, why in rows.items()))
        return 0

    return run_jobs(options, config, lambda say: ablation_jobs(config, listed_recipes(options), say))
