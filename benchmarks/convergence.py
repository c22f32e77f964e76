"""Does progressive training of `multilayer` converge better, or more stably? Runs over seeds on the sandbox.

    python -m benchmarks convergence --seeds 5 --pictures 600 --epochs 6 --test 1000 --out runs/convergence

Each finished run is appended to `results.jsonl` in the folder, so a killed benchmark goes on where it was. The
folder ends with `convergence.json`, `convergence.md` and a plot of each curve.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.config import PhaseSettings
from hybridcascade.evaluation.protocol import PairedDifference, Summary, paired_difference, summarize
from hybridcascade.experiments.kinds import SandboxSpec, arena_kind
from hybridcascade.experiments.plans import Recipe, RowChanges, RowPlan, plan_row
from hybridcascade.experiments.store import ResultStore

__all__ = ["Curves", "main", "summary_of", "table_of"]

PROGRESSIVE, AT_ONCE = "progressive", "all at once"
CURVES = {
    "fit": "cross-entropy of the fused prediction to the labels it learns",
    "agreement": "share of pictures whose class is that of the label",
    "loss": "loss (of the segments that take part)",
}
METRICS = ("accuracy", "kl", "nll", "ece")


@dataclass(frozen=True)
class Curves:
    """One finished run.

    Attributes:
        row: progressive or all at once.
        seed: of pictures and training.
        metrics: of the test pictures, after the last epoch.
        curves: by name, one value an epoch of the image phase.
        seconds: wall time of building and training.
    """

    row: str
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    options = _parse(arguments)
    out = Path(options.out)
    recipe = _recipe(options)
    plans = [plan_row(recipe, name) for name in (PROGRESSIVE, AT_ONCE)]
    runs = _run(options, recipe, plans, ResultStore(out / "results.jsonl"))
    summary = summary_of(runs)
    words = (
        f"sandbox, shifted; {options.pictures} unlabelled and {options.test} test pictures a seed, "
        f"{options.epochs} epochs, {options.seeds} seeds; nano CLIP, ours and small"
    )
    steps = _starts(plans[0], options.epochs)
    content = {"words": words, "unfreezing": steps, "runs": [vars(run) for run in runs], "summary": summary}
    (out / "convergence.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    table = f"{table_of(runs)}\n\n{words}.\n"
    (out / "convergence.md").write_text(table, encoding="utf-8")
    _plot(out, runs, sorted({start + 1 for start in steps.values() if start}))
    print(table)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks convergence",
        description="multilayer, progressive against all at once, over seeds on the sandbox.",
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument("--pictures", type=int, default=600, help="unlabelled training pictures a seed")
    parser.add_argument("--test", type=int, default=1000, help="test pictures a seed")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the image phase")
    parser.add_argument("--text-epochs", type=int, help="steps of the text phase (default: the method's)")
    parser.add_argument("--same-pictures", action="store_true", help="the pictures of seed 0 for all: training alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of both rows, JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--out", default="runs/convergence", help="folder of results; the same command goes on there")
    return parser.parse_args(arguments)


def _recipe(options: argparse.Namespace) -> Recipe:
    shared = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in options.set)}
    text = PhaseSettings() if options.text_epochs is None else PhaseSettings(epochs=options.text_epochs)
    rows = {
        name: RowChanges(
            method="multilayer",
            text=text,
            image=PhaseSettings(epochs=options.epochs),
            settings={**shared, "progressive": name == PROGRESSIVE},
        )
        for name in (PROGRESSIVE, AT_ONCE)
    }
    spec = SandboxSpec(train_pictures=options.pictures, test_pictures=options.test)
    return Recipe(
        name="convergence",
        path="",
        kind=arena_kind("sandbox"),
        spec=spec,
        train={"method": "multilayer", "backbone": "nano"},
        methods=rows,
        components={},
    )


def _run(options: argparse.Namespace, recipe: Recipe, plans: Sequence[RowPlan], store: ResultStore) -> list[Curves]:
    """Run what the store does not have yet; all rows of a seed before the next seed."""
    arena_values = recipe.arena_values() | ({"pictures_of_seed": 0} if options.same_pictures else {})
    make = None
    found = []
    for seed in range(options.seeds):
        arena = None
        for plan in plans:
            key = plan.key(arena_values, seed)
            kept = store.get(key)
            if kept is None:
                from hybridcascade.experiments.rows import run_row

                make = make or recipe.kind.open(recipe.spec, recipe.backbone, recipe.precision, options.device)
                arena = arena or make(0 if options.same_pictures else seed)
                result = run_row(arena, plan, seed, options.device)
                history = next(record.history for record in result.records if record.phase == "image")
                curves = {
                    name: [epoch.loss if name == "loss" else epoch.scalars[name] for epoch in history]
                    for name in CURVES
                }
                kept = store.add(key, {"label": plan.label, **result.values(), "curves": curves})
            metrics = {name: kept["metrics"][name] for name in METRICS}
            found.append(Curves(plan.label, seed, metrics, kept["curves"], kept["seconds"]))
    return found


def _starts(plan: RowPlan, epochs: int) -> dict[str, int]:
    """Epoch (from 0) in which each step of the schedule begins."""
    from hybridcascade.methods.multilayer import schedule

    steps = schedule(4, float(plan.settings["unfreeze_share"]))
    return {step.name: step.first_epoch(epochs) for step in steps}


def summary_of(runs: Sequence[Curves]) -> dict[str, Any]:
    """Mean, spread and paired difference of each metric and of the last epochs' curves.

    Args:
        runs: of both rows, over the same seeds.

    Returns:
        Plain values by row and, under `difference`, progressive minus all at once.
    """
    values = {name: _by_seed(runs, name) for name in (PROGRESSIVE, AT_ONCE)}
    rows = {name: {metric: _plain(summarize(row[metric].values())) for metric in row} for name, row in values.items()}
    pairs = {
        metric: _plain_pair(paired_difference(values[PROGRESSIVE][metric], values[AT_ONCE][metric]))
        for metric in values[PROGRESSIVE]
    }
    return {**rows, "difference": pairs}


def _by_seed(runs: Sequence[Curves], row: str) -> dict[str, dict[int, float]]:
    own = [run for run in runs if run.row == row]
    found = {metric: {run.seed: float(run.metrics[metric]) for run in own} for metric in METRICS}
    found["last fit"] = {run.seed: float(run.curves["fit"][-1]) for run in own}
    found["largest rise of fit"] = {run.seed: _largest_rise(run.curves["fit"]) for run in own}
    found["seconds"] = {run.seed: run.seconds for run in own}
    return found


def _largest_rise(curve: Sequence[float]) -> float:
    """Largest rise from one epoch to the next; 0 for a curve that only falls."""
    return max([0.0, *(later - earlier for earlier, later in itertools.pairwise(curve))])


def _plain(summary: Summary) -> dict[str, Any]:
    return {"mean": summary.mean, "half_width": summary.half_width, "deviation": summary.deviation}


def _plain_pair(pair: PairedDifference) -> dict[str, Any]:
    return {**_plain(pair.difference), "p_value": pair.p_value}


def table_of(runs: Sequence[Curves]) -> str:
    """Return the figures as a Markdown table: mean with its 95% interval, and the deviation over seeds."""
    summary = summary_of(runs)
    head = ["", PROGRESSIVE, "deviation", AT_ONCE, "deviation", "difference", "p"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for metric in summary["difference"]:
        one, two, pair = (summary[name][metric] for name in (PROGRESSIVE, AT_ONCE, "difference"))
        p_value = "" if pair["p_value"] is None else f"{pair['p_value']:.3f}"
        spread = ["" if side["deviation"] is None else f"{side['deviation']:.4f}" for side in (one, two)]
        lines.append([metric, _cell(one), spread[0], _cell(two), spread[1], _cell(pair, "+"), p_value])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Mapping[str, Any], sign: str = "") -> str:
    half = "" if value["half_width"] is None else f" ± {value['half_width']:.4f}"
    return f"{value['mean']:{sign}.4f}{half}"


def _plot(out: Path, runs: Sequence[Curves], marks: Sequence[int]) -> None:
    from hybridcascade.evaluation.seed_plots import seed_curves

    for name, words in CURVES.items():
        rows = {row: [run.curves[name] for run in runs if run.row == row] for row in (PROGRESSIVE, AT_ONCE)}
        (out / f"{name}.svg").write_text(seed_curves(rows, name, words, marks) + "\n", encoding="utf-8")
