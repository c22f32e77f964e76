"""The options that `compare`, `ablate` and `texts compare` share. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.config import DEVICES, one_of
from hybridcascade.errors import SettingsError
from hybridcascade.experiments.full_table import metric_names
from hybridcascade.experiments.plans import parse_seeds

__all__ = ["ExperimentOptions"]


@dataclass(frozen=True)
class ExperimentOptions:
    """How rows are run, where they are kept and how the table is shown; a command adds what it compares."""

    seeds: str = "5"
    """How many seeds (5 means 0 to 4), or which: 0,3,7."""

    backbone: str | None = None
    """CLIP weights of all rows, in place of those of the recipe."""

    out: str = "runs/experiment"
    """Folder for tables, plots and the store of results; the same command goes on from what is there."""

    store: str | None = None
    """File of finished rows, to share them between comparisons and ablations. Left out: in --out."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    metrics: str | None = None
    """Print these metrics instead, a method a column: names divided by commas, or all (full.md in --out has all):
    accuracy, macro_f1, ece, kl, nll, brier, chebyshev, clark, clark_norm, canberra, canberra_norm, cosine,
    intersection, argmax_accuracy, average_rank."""

    csv: bool = False
    """Print the table as CSV (table.csv in --out has it too)."""

    latex: bool = False
    """Print the table as LaTeX (table.tex in --out has it too)."""

    markdown: bool = False
    """Print the table as Markdown (table.md in --out has it too)."""

    def __post_init__(self) -> None:
        parse_seeds(self.seeds)
        one_of("device", self.device, DEVICES)
        metric_names(self.metrics)
        if self.csv + self.latex + self.markdown > 1:
            raise SettingsError("--csv, --latex and --markdown: choose one for the terminal; --out has all three")
