"""What goes where: data on stdout, everything else on stderr, the remarks of other libraries into the log.

`command_output` wraps the work of a command. Inside it anything that prints to stdout (progress bars,
libraries) lands on stderr; data leaves through `Terminal.data` alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

__all__ = ["Terminal", "command_output"]

_NOISY = ("torch.utils.cpp_extension", "torch.utils._cpp_extension_versioner")


@dataclass
class Terminal:
    """The two streams of a command.

    Attributes:
        as_json: `--json` was given.
        quiet: `--quiet` was given.
        stdout: where data goes.
        stderr: where all else goes.
    """

    as_json: bool = False
    quiet: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)

    def data(self, text: str) -> None:
        """Write data to stdout."""
        self.stdout.write(text if text.endswith("\n") else text + "\n")
        self.stdout.flush()

    def json(self, value: Mapping[str, Any]) -> None:
        """Write one JSON document to stdout."""
        self.data(json.dumps(value, ensure_ascii=False, indent=2, default=str))

    def say(self, text: str) -> None:
        """Write a remark to stderr, unless --quiet."""
        if not self.quiet:
            self.stderr.write(text + "\n")
            self.stderr.flush()

    def next(self, command: str) -> None:
        """Name the next useful command."""
        self.say(f"next: hybridcascade {command}")

    @property
    def interactive(self) -> bool:
        """Whether progress bars make sense: a person is looking and did not ask for silence."""
        return not self.quiet and self.stderr.isatty()


class _ForUsers(logging.Filter):
    """Pass what this package says, and what others say only when it is an error.

    What this package marks as a remark (`extra={"remark": True}`) is for people, though it is no warning.
    """

    def __init__(self, verbose: bool, remarks: bool) -> None:
        super().__init__()
        self.verbose = verbose
        self.remarks = remarks

    def filter(self, record: logging.LogRecord) -> bool:
        own = record.name.partition(".")[0] == "hybridcascade"
        if self.remarks and own and getattr(record, "remark", False):
            return True
        return self.verbose or record.levelno >= (logging.WARNING if own else logging.ERROR)


class _Plain(logging.Formatter):
    """A remark is shown as it is, without level or logger."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if getattr(record, "remark", False) else super().format(record)


@contextlib.contextmanager
def command_output(
    as_json: bool = False, quiet: bool = False, verbose: bool = False, remarks: bool = False
) -> Iterator[Terminal]:
    """Set up streams and logging for one command, and put both back afterwards.

    With `remarks` the engine's remarks on what it is about to do are shown as they come.

    Warnings and remarks of other libraries stay off the terminal unless `verbose`; the engine's log file in
    the run folder has them. Errors are never hidden.
    """
    terminal = Terminal(as_json, quiet)
    root = logging.getLogger()
    handler = logging.StreamHandler(terminal.stderr)
    handler.setFormatter(_Plain("%(levelname)s: %(message)s" if not verbose else "%(name)s: %(message)s"))
    handler.addFilter(_ForUsers(verbose, remarks))
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _NOISY:  # torch gives its own loggers a handler of their own, past the root
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    try:
        with contextlib.redirect_stdout(terminal.stderr), warnings.catch_warnings():
            yield terminal
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(before)
