"""`hybridcascade describe`: sentences about classes from a language model."""

from __future__ import annotations

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.integrations.describe import DescribeConfig, client_of, describe, planned_calls
from hybridcascade.integrations.describe_prompts import SYSTEM

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade describe --classes classes.txt --model gpt-4o-mini --out descriptions.json --dry_run
hybridcascade describe --classes awe,fear,joy --model gpt-4o-mini --out descriptions.json
hybridcascade describe --classes classes.txt --base_url http://localhost:8000/v1 --model my-model --out mine.json
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = (
        "Let a language model write sentences about each class, for --descriptions of `train`. Any server that speaks\n"
        "OpenAI's chat completions will do; the key is read from the environment. Stopped? Run the same command again."
    )
    return CommandParser("describe", summary, _EXAMPLES, DescribeConfig)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    reader = parser()
    options = reader.read(arguments)
    config = reader.config(DescribeConfig, options)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        if config.dry_run:
            _dry_run(terminal, config)
            return 0
        client = client_of(config)
        if client.key is None:
            terminal.say(f"{config.key_env} is not set: no key is sent")
        try:
            done = describe(config, client, terminal.say)
        except KeyboardInterrupt:
            terminal.stderr.write(f"stopped by Ctrl-C; what was answered is in {config.out}. Run it again to go on\n")
            return 1
        counts = {name: len(rows) for name, rows in done.sentences.items()}
        if terminal.as_json:
            terminal.json({"out": str(done.path), "sentences": counts, "calls": len(done.meta["calls"])})
        else:
            terminal.data(str(done.path))
        terminal.next(f"train --data PICTURES --classes {config.classes} --descriptions {done.path} --out runs/mine")
    return 0


def _dry_run(terminal: Terminal, config: DescribeConfig) -> None:
    calls = list(planned_calls(config))
    if terminal.as_json:
        prompts = [{"class": name, "prompt": prompt} for name, prompt in calls]
        terminal.json({"calls": len(calls), "system": SYSTEM, "prompts": prompts})
        return
    terminal.data(f"system: {SYSTEM}")
    for name, prompt in calls:
        terminal.data(f"prompt ({name}): {prompt}")
    terminal.data(
        f"{len(calls)} calls of {config.model} at {config.base_url}, more where sentences repeat themselves or name "
        "another class; nothing was sent"
    )
