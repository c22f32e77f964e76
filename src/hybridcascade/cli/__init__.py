"""The `hybridcascade` command. Importing it, its help and its answers to wrong options load no torch."""

from __future__ import annotations

from hybridcascade.cli.entry import main

__all__ = ["main"]
