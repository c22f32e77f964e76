"""Where every command starts: finds it, runs it, turns errors into one line and an exit code.

Exit codes: 0 done, 1 it failed, 2 it was asked for wrongly.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from hybridcascade.errors import HybridCascadeError, SettingsError, UnknownNameError

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "demo": "tune and compare all methods on the embedded sandbox, in minutes, without a download",
    "train": "tune a model to your classes, from unlabelled pictures (or from texts, or labels)",
    "evaluate": "measure a tuned model on labelled pictures",
    "calibrate": "fit a saved run's temperature on labelled pictures",
    "predict": "class and distribution for pictures, folders, zips and manifests",
    "compare": "compare methods over seeds and recipes, with intervals and p-values",
    "ablate": "switch the components of a method one at a time",
    "select": "name the method or run to use, without labels",
    "texts": "compare templates and descriptions of the classes",
    "info": "what there is to choose from, or what is in a run folder",
    "describe": "let a language model write texts about your classes",
    "data": "look through a data set: format, balance, votes, duplicates; or write its manifest",
    "convert": "recipes and manifests from files of CoOp, Dassl and LaFTer",
    "doctor": "check this installation",
}

_HELP = """\
Tune CLIP to your own classes without labels.

examples:
  hybridcascade demo
  hybridcascade train --data photos/ --classes classes.txt --backbone ViT-B-32/openai --out runs/mine
  hybridcascade evaluate runs/mine --data labelled.csv
  hybridcascade predict runs/mine holiday/ --out predictions.csv

commands:
{commands}

`hybridcascade COMMAND --help` shows the examples and options of a command; `hybridcascade --version` the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program name; None means those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"hybridcascade {version('hybridcascade')}\n")
        return 0
    return _run(arguments[0], arguments[1:])


def _help() -> str:
    return _HELP.format(commands="\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items()))


def _run(name: str, arguments: list[str]) -> int:
    try:
        if name not in COMMANDS:
            raise UnknownNameError("command", name, COMMANDS, "`hybridcascade --help` shows examples.")
        command = importlib.import_module(f"hybridcascade.cli.{name}")
        return int(command.run(arguments))
    except SettingsError as error:
        return _fail(name, error, 2)
    except (HybridCascadeError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _closed_pipe()
        return _fail(name, _words(error), 1)
    except SystemExit as end:  # argparse's `--help`
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _fail(name, "stopped by Ctrl-C; a run with --out goes on with --resume", 1)


def _words(error: Exception) -> str:
    """The system's own errors (`[Errno 13] ...`) in the words of all others."""
    if isinstance(error, HybridCascadeError) or not isinstance(error, OSError) or error.filename is None:
        return str(error)
    remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check it and its permissions"
    return (
        f"expected {str(error.filename)!r} to be a place to read from or write to, found: {error.strerror}. "
        f"Name another one, or {remedy}"
    )


def _fail(name: str, error: object, code: int) -> int:
    sys.stderr.write(
        f"hybridcascade {name}: error: {error}\n" if name in COMMANDS else f"hybridcascade: error: {error}\n"
    )
    return code


def _closed_pipe() -> int:
    # The reader (`| head`) left: what it wanted, it has. Python would complain once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
