"""The options of `select`, and the choice itself: from what was measured without labels to a name. Needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridcascade.config import DEVICES, TUNES, at_least, one_of
from hybridcascade.errors import SettingsError
from hybridcascade.evaluation.ranks import ranks
from hybridcascade.experiments.plans import parse_seeds

__all__ = ["Candidate", "Choice", "SelectConfig", "choose_candidate", "regret_lines"]


@dataclass(frozen=True)
class SelectConfig:
    """How to choose among tuned models without labels."""

    data: str | None = None
    """Unlabelled pictures to choose on: a folder, .zip or manifest. Labels in it are not read."""

    methods: str | None = None
    """Methods to tune and choose from, divided by commas. Left out: the recipe's own and its `methods:`."""

    classes: str | None = None
    """With --data and --methods: class names, a file or divided by commas."""

    backbone: str = "nano"
    """With --data and --methods: CLIP weights."""

    seeds: str = "1"
    """With --recipe: how many seeds (3 means 0 to 2), or which: 0,3,7."""

    pictures: int = 1024
    """Most pictures of the unlabelled ones that the criterion is measured on; few make its order a matter of luck."""

    regret: bool = False
    """With --recipe, where the truth is known: say afterwards how much accuracy the choice left behind, of methods
    and of epochs. The choice itself does not see it."""

    tune: str = "full"
    """full, or heads: only the heads, on features stored once, for the methods that can."""

    out: str = "runs/select"
    """With --data and --methods: folder for a run folder of each method; finished ones are not trained again."""

    device: str = "auto"
    """Where to compute: auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        parse_seeds(self.seeds)
        at_least("pictures", self.pictures, 2)
        one_of("tune", self.tune, TUNES)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True)
class Candidate:
    """One model that may be chosen.

    Attributes:
        name: of the method, or of its run folder.
        seed: of its training.
        parts: of the criterion, by name, from unlabelled pictures.
        accuracy: on labelled test pictures, only where the regret was asked for; no choice reads it.
        epochs: by phase, criterion and accuracy after each epoch, likewise.
    """

    name: str
    seed: int
    parts: Mapping[str, float]
    accuracy: float | None = None
    epochs: Mapping[str, Sequence[tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        name: the model to use.
        criterion: mean over the seeds by name, in the order of the candidates.
        used: parts that all candidates have; the criterion is made of these.
        candidates: as given.
    """

    name: str
    criterion: Mapping[str, float]
    used: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def accuracies(self) -> dict[str, float]:
        """Mean test accuracy by name, for those whose accuracy is known."""
        return {
            name: mean
            for name in self.criterion
            if (mean := _mean([c.accuracy for c in self.candidates if c.name == name and c.accuracy is not None]))
            is not None
        }

    def regret(self) -> dict[str, float] | None:
        """What the choices left behind, in accuracy (0..1), means over seeds; None without known accuracies.

        Returns:
            `methods`: best method of a seed less the one chosen on that seed; `methods_random`: the same for a method
            drawn at random; `epochs`: best epoch of a method less the one chosen by the criterion; `epochs_last`: less
            the last one.
        """
        if any(candidate.accuracy is None for candidate in self.candidates):
            return None
        found: dict[str, list[float]] = {"methods": [], "methods_random": [], "epochs": [], "epochs_last": []}
        for seed in dict.fromkeys(candidate.seed for candidate in self.candidates):
            own = [candidate for candidate in self.candidates if candidate.seed == seed]
            accuracy = {candidate.name: candidate.accuracy or 0.0 for candidate in own}
            best = max(accuracy.values())
            found["methods"].append(best - accuracy[choose_candidate(own, self.used).name])
            found["methods_random"].append(best - math.fsum(accuracy.values()) / len(accuracy))
        for candidate in self.candidates:
            for epochs in (candidate.epochs or {}).values():
                best = max(accuracy for _, accuracy in epochs)
                found["epochs"].append(best - max(epochs, key=lambda epoch: epoch[0])[1])
                found["epochs_last"].append(best - epochs[-1][1])
        return {name: mean for name, values in found.items() if (mean := _mean(values)) is not None}

    def rank_correlation(self) -> float | None:
        """How far the criterion orders the methods as their accuracy does: Spearman's coefficient, mean over seeds.

        Returns:
            A number in [-1, 1]; None without known accuracies, with fewer than three methods, or where criterion or
            accuracy is the same for all methods on every seed.
        """
        found = []
        for seed in dict.fromkeys(candidate.seed for candidate in self.candidates):
            own = [candidate for candidate in self.candidates if candidate.seed == seed]
            accuracy = {candidate.name: candidate.accuracy for candidate in own if candidate.accuracy is not None}
            if len(accuracy) == len(own):
                found.append(_spearman(choose_candidate(own, self.used).criterion, accuracy))
        return _mean([one for one in found if one is not None])

    def json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [{"method": c.name, "seed": c.seed, "parts": dict(c.parts)} for c in self.candidates]
        for row, candidate in zip(rows, self.candidates, strict=True):
            if candidate.accuracy is not None:
                row["accuracy"] = candidate.accuracy
        regret = self.regret()
        return {
            "chosen": self.name, "criterion": dict(self.criterion), "parts": list(self.used), "rows": rows,
        } | (
            {} if regret is None
            else {"accuracy": self.accuracies(), "regret": {**regret, "rank_correlation": self.rank_correlation()}}
        )  # fmt: skip

    def text(self) -> str:
        """A line a candidate, the best first."""
        accuracies = self.accuracies()
        width = max(len("method"), *(len(name) for name in self.criterion))
        head = f"{'method':<{width}}  criterion  " + "  ".join(f"{name:>9}" for name in self.used)
        lines = [head + ("  accuracy (not used)" if accuracies else "")]
        for name in sorted(self.criterion, key=lambda name: -self.criterion[name]):
            means = [_mean([c.parts[part] for c in self.candidates if c.name == name]) or 0.0 for part in self.used]
            cells = "  ".join(f"{mean:>9.3f}" for mean in means)
            known = f"  {accuracies[name]:>8.1%}" if name in accuracies else ""
            lines.append(f"{name:<{width}}  {self.criterion[name]:>9.3f}  {cells}{known}")
        return "\n".join([*lines, f"use: {self.name}"])


def choose_candidate(candidates: Sequence[Candidate], parts: Sequence[str] | None = None) -> Choice:
    """Choose the model of the highest mean criterion; of two equal ones the first.

    Models are compared by the parts that count and that all of them have.

    Args:
        candidates: at least one; several seeds of a name are averaged.
        parts: use these parts only.

    Raises:
        SettingsError: no candidate, or none of the parts is common to all.
    """
    from hybridcascade.evaluation.criterion_weights import WEIGHTS, weighted_mean

    if not candidates:
        raise SettingsError("there is nothing to choose from: name run folders, or methods with --methods")
    common = [name for name in candidates[0].parts if all(name in candidate.parts for candidate in candidates)]
    used = tuple(name for name in common if name in WEIGHTS and (parts is None or name in parts))
    if not used:
        raise SettingsError("the models have no part of the criterion in common, so they cannot be compared")
    values: dict[str, list[float]] = {}
    for candidate in candidates:
        values.setdefault(candidate.name, []).append(weighted_mean(candidate.parts, used))
    criterion = {name: math.fsum(own) / len(own) for name, own in values.items()}
    return Choice(max(criterion, key=lambda name: criterion[name]), criterion, used, tuple(candidates))


def regret_lines(regret: Mapping[str, float], rank_correlation: float | None = None) -> list[str]:
    """Say the regret in words, and how well the criterion orders the methods, where that is known."""
    lines = [
        f"choosing the method this way leaves {100 * regret['methods']:.1f} points of accuracy behind on average "
        f"(choosing at random: {100 * regret['methods_random']:.1f})"
    ]
    if "epochs" in regret:
        lines.append(
            f"choosing the epoch this way leaves {100 * regret['epochs']:.1f} points behind "
            f"(taking the last: {100 * regret['epochs_last']:.1f})"
        )
    if rank_correlation is not None:
        lines.append(
            f"rank correlation of criterion and accuracy over the methods: {rank_correlation:.2f} "
            "(1: the same order, 0: none, -1: the reverse)"
        )
    return lines


def _spearman(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Pearson's correlation of the ranks; None with fewer than three names, or where all of one side tie."""
    places = [ranks(side, lower_is_better=False) for side in (first, second)]
    if len(first) < 3 or any(len(set(own.values())) < 2 for own in places):
        return None
    return statistics.correlation([places[0][name] for name in first], [places[1][name] for name in first])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
