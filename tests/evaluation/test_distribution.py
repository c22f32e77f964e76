"""Distribution metrics, ranks and per-class counts against loops written here from the formulas."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridcascade.errors import DataError
from hybridcascade.evaluation.distribution import (
    DISTRIBUTION_NAMES,
    ArgmaxAccuracy,
    Canberra,
    Chebyshev,
    Clark,
    Cosine,
    DistributionScores,
    Intersection,
    distribution_score,
)
from hybridcascade.evaluation.full import full_score
from hybridcascade.evaluation.metrics import score
from hybridcascade.evaluation.perclass import ClassCounts, per_class
from hybridcascade.evaluation.ranks import RANKED, average_ranks, ranks
from hybridcascade.evaluation.tables import to_plain

SHARED = Path(
    os.environ.get("HYBRIDCASCADE_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)
EMOTION6 = SHARED / "emotion6" / "emotion6_subset432.zip"
METRICS = [Chebyshev, Clark, lambda: Clark(normalised=True), Canberra, Cosine, Intersection, ArgmaxAccuracy]


def naive(probabilities: Any, truth: Any) -> dict[str, float]:
    rows, classes = len(truth), len(truth[0])
    sums = dict.fromkeys(DISTRIBUTION_NAMES, 0.0)
    for p, d in zip(probabilities, truth, strict=True):
        clark = canberra = largest = dot = shared = kl = 0.0
        for j in range(classes):
            largest = max(largest, abs(d[j] - p[j]))
            if d[j] + p[j] > 0:
                clark += (d[j] - p[j]) ** 2 / (d[j] + p[j]) ** 2
                canberra += abs(d[j] - p[j]) / (d[j] + p[j])
            dot += d[j] * p[j]
            shared += min(d[j], p[j])
            if d[j] > 0:
                kl += d[j] * math.log(d[j] / max(p[j], 2.220446049250313e-16))
        sums["chebyshev"] += largest
        sums["clark"] += math.sqrt(clark)
        sums["clark_norm"] += math.sqrt(clark / classes)
        sums["canberra"] += canberra
        sums["canberra_norm"] += canberra / classes
        sums["kl"] += kl
        sums["cosine"] += dot / math.sqrt(sum(x * x for x in p) * sum(x * x for x in d))
        sums["intersection"] += shared
        choice = list(p).index(max(p))
        sums["argmax_accuracy"] += d[choice] > max(d) - 1e-6
    return {name: total / rows for name, total in sums.items()}


def random_case(seed: int, rows: int = 80, classes: int = 6):
    draw = np.random.default_rng(seed)
    truth = draw.multinomial(6, draw.dirichlet(np.ones(classes)), rows) / 6  # votes: zeros and ties
    probabilities = draw.dirichlet(np.full(classes, 0.5), rows)
    probabilities[::3] = draw.multinomial(4, np.ones(classes) / classes, len(probabilities[::3])) / 4  # zeros here too
    return probabilities, truth


@pytest.mark.parametrize("classes", [3, 6, 8])
@pytest.mark.parametrize("seed", range(3))
def test_equals_naive_reference_with_zeros_and_ties(seed: int, classes: int):
    probabilities, truth = random_case(seed, classes=classes)
    assert ((truth == 0) & (probabilities == 0)).any(), "the case should have 0/0"
    found = distribution_score(probabilities, truth)
    assert tuple(found) == DISTRIBUTION_NAMES
    assert found == pytest.approx(naive(probabilities, truth), abs=1e-12)


def test_equal_distributions_are_perfect_to_the_last_digit():
    _, truth = random_case(1)
    perfect = dict.fromkeys(DISTRIBUTION_NAMES, 0.0) | {"cosine": 1.0, "intersection": 1.0, "argmax_accuracy": 1.0}
    found = distribution_score(truth, truth)
    assert found.pop("cosine") == pytest.approx(perfect.pop("cosine"), abs=1e-15)
    assert found == perfect


def test_zeros_as_stated():
    both, only_predicted = [[0.0, 0.5, 0.5]], [[1e-9, 0.5, 0.5 - 1e-9]]
    assert distribution_score(both, both)["canberra"] == 0
    near = distribution_score(only_predicted, both)
    assert near["canberra"] == pytest.approx(1.0, abs=1e-6), "an unvoted class costs 1 however little it gets"
    assert near["clark_norm"] == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    assert near["kl"] < 1e-8
    opposite = distribution_score([[1.0, 0.0]], [[0.0, 1.0]])
    assert opposite["kl"] == pytest.approx(-math.log(2.220446049250313e-16))
    found = (opposite["clark"], opposite["canberra"], opposite["cosine"])
    assert found == pytest.approx((math.sqrt(2), 2.0, 0.0))


def test_tie_rule_of_the_argmax():
    truth = [[0.4, 0.4, 0.2]] * 3
    predicted = [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]
    assert distribution_score(predicted, truth)["argmax_accuracy"] == pytest.approx(2 / 3)
    first = distribution_score([[0.5, 0.5]], [[0.0, 1.0]])
    assert first["argmax_accuracy"] == 0, "of equal predictions the first counts"


def test_streams_pickles_adds_up_over_ranks_and_refuses_other_shapes():
    probabilities, truth = (torch.tensor(x) for x in random_case(3))
    scores = DistributionScores(6)
    for start in range(0, 80, 33):
        scores.update(probabilities[start : start + 33], truth[start : start + 33])
    whole = distribution_score(probabilities, truth)
    assert scores.compute() == pytest.approx(whole, rel=1e-13)
    assert pickle.loads(pickle.dumps(scores)).compute() == scores.compute()
    scores.reset()
    scores.update(truth, truth)
    assert scores.compute()["clark"] == 0
    for make in METRICS:
        ranked = [make(), make()]
        ranked[0].update(probabilities[:30], truth[:30])
        ranked[1].update(probabilities[30:], truth[30:])
        one = make()
        one.update(probabilities, truth)
        for name, reduce in one._reductions.items():
            setattr(ranked[0], name, reduce(torch.stack([getattr(r, name) for r in ranked])))
        ranked[0]._computed = None
        torch.testing.assert_close(ranked[0].compute(), one.compute(), rtol=1e-13, atol=0)
        assert torch.equal(copy.deepcopy(one).compute(), one.compute())
    with pytest.raises(DataError, match="expected 6 classes, got 2"):
        DistributionScores(6).update([[0.5, 0.5]], [[0.5, 0.5]])
    with pytest.raises(DataError, match="row 0 sums to 3"):
        distribution_score([[0.5, 0.5]], [[1, 2]])


# -- Emotion6's own figures ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emotion6() -> np.ndarray:
    """Truth of all 1,980 pictures, 7 classes, rows divided by their sums."""
    if not EMOTION6.is_file():
        pytest.skip(f"no ground truth of Emotion6 at {EMOTION6} (HYBRIDCASCADE_SHARED_DATA)")
    with zipfile.ZipFile(EMOTION6) as archive:
        text = archive.read("ground_truth.txt").decode()
    table = np.loadtxt(io.StringIO(text), delimiter="\t", skiprows=1, usecols=range(3, 10))
    assert table.shape == (1980, 7)
    return table / table.sum(axis=1, keepdims=True)


def test_constants_of_emotion6(emotion6: np.ndarray):
    """Figures of three trivial predictors, computed apart from this package."""
    mean = distribution_score(np.tile(emotion6.mean(axis=0), (1980, 1)), emotion6)
    expected = {
        "kl": 0.611, "chebyshev": 0.324, "cosine": 0.702, "intersection": 0.566,
        "clark_norm": 0.628, "canberra_norm": 0.534,
    }  # fmt: skip
    assert {name: mean[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    joy = 3  # the largest mean; 638 pictures have it first, 4 more have it tied with an earlier class
    assert (emotion6.argmax(axis=1) == joy).mean() == pytest.approx(0.322, abs=1e-3)
    assert mean["argmax_accuracy"] == 642 / 1980
    uniform = distribution_score(np.full((1980, 7), 1 / 7), emotion6)
    expected = {"kl": 0.700, "cosine": 0.657, "clark_norm": 0.635, "canberra_norm": 0.547}
    assert {name: uniform[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    raised = emotion6 + 1e-6
    almost = distribution_score(raised / raised.sum(axis=1, keepdims=True), emotion6)
    assert almost["clark_norm"] == pytest.approx(0.517, abs=1e-3)
    assert almost["canberra_norm"] == pytest.approx(0.306, abs=1e-3)
    assert almost["clark"] == pytest.approx(almost["clark_norm"] * math.sqrt(7))


# -- ranks --------------------------------------------------------------------------------------------


def test_ties_share_the_mean_of_their_places():
    assert ranks({"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.2}, True) == {"a": 1.5, "b": 4, "c": 1.5, "d": 3}
    assert ranks({"a": 0.1, "b": 0.3}, False) == {"a": 2, "b": 1}
    assert ranks({"a": 0.1 + 0.2, "b": 0.3}, True) == {"a": 1.5, "b": 1.5}, "rounding is no difference"


def test_average_rank_knows_the_directions():
    _, truth = random_case(2)
    uniform = np.full_like(truth, 1 / 6)
    results = {
        "perfect": distribution_score(truth, truth),
        "half": distribution_score((truth + uniform) / 2, truth),
        "uniform": distribution_score(uniform, truth),
    }
    assert average_ranks(results) == {"perfect": 1.0, "half": 2.0, "uniform": 3.0}
    assert average_ranks(results, ("kl", "cosine")) == {"perfect": 1.0, "half": 2.0, "uniform": 3.0}
    assert set(RANKED) <= set(DISTRIBUTION_NAMES)
    del results["half"]["clark"]
    results["uniform"]["kl"] = math.nan
    with pytest.raises(DataError, match="'half' has no clark"):
        average_ranks(results)
    with pytest.raises(DataError, match="'uniform' has no kl"):
        average_ranks({"uniform": results["uniform"]})
    with pytest.raises(DataError, match="needs methods"):
        average_ranks({})


# -- classes ------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "never")


def class_case(seed: int, with_labels: bool):
    draw = np.random.default_rng(seed)
    truth = np.concatenate([draw.multinomial(4, np.ones(3) / 3, 50) / 4, np.zeros((50, 1))], axis=1)
    probabilities = np.concatenate([draw.dirichlet(np.ones(3), 50), np.zeros((50, 1))], axis=1)
    return probabilities, truth, draw.integers(0, 3, 50) if with_labels else None


@pytest.mark.parametrize("with_labels", [False, True])
def test_per_class_equals_loops_and_agrees_with_the_score(with_labels: bool):
    probabilities, truth, labels = class_case(0, with_labels)
    confusion = [[0] * 4 for _ in range(4)]
    for i in range(50):
        choice = list(probabilities[i]).index(max(probabilities[i]))
        tied = [k for k in range(4) if truth[i][k] == max(truth[i])]
        answer = int(labels[i]) if labels is not None else choice if choice in tied else tied[0]
        confusion[answer][choice] += 1
    found = per_class(probabilities, truth, NAMES, labels)
    assert [list(row) for row in found.confusion] == confusion
    for k in range(3):
        hits = confusion[k][k]
        assert found.precision[k] == pytest.approx(hits / sum(row[k] for row in confusion))
        assert found.recall[k] == pytest.approx(hits / sum(confusion[k]))
    assert (found.precision[3], found.recall[3], found.f1[3]) == (None, None, None)
    known = [f for f in found.f1 if f is not None]
    whole = score(probabilities, truth, labels)
    assert sum(known) / len(known) == pytest.approx(whole["macro_f1"], abs=1e-6)
    assert sum(confusion[k][k] for k in range(4)) / 50 == pytest.approx(whole["accuracy"], abs=1e-6)
    np.testing.assert_allclose(found.true_share, truth.mean(axis=0))
    np.testing.assert_allclose(found.predicted_share, probabilities.mean(axis=0))


def test_class_counts_add_up_over_batches_and_ranks():
    probabilities, truth, labels = class_case(1, True)
    parts = [ClassCounts(4), ClassCounts(4)]
    parts[0].update(probabilities[:7], truth[:7], labels[:7])
    parts[1].update(probabilities[7:], truth[7:], labels[7:])
    for name, reduce in parts[0]._reductions.items():
        setattr(parts[0], name, reduce(torch.stack([getattr(p, name) for p in parts])))
    parts[0]._computed = None
    confusion, predicted, _ = parts[0].compute()
    whole = per_class(probabilities, truth, NAMES, labels)
    assert confusion.tolist() == [list(row) for row in whole.confusion]
    torch.testing.assert_close(predicted, torch.tensor(whole.predicted_share, dtype=torch.float64))
    parts[0].reset()
    assert int(parts[0].confusion.sum()) == 0
    with pytest.raises(DataError, match="expected 4 classes, got 3"):
        parts[0].update(np.eye(3), np.eye(3))


def test_full_score_holds_everything_as_plain_values_and_tables():
    import json

    probabilities, truth, labels = class_case(2, True)
    full = full_score(probabilities, truth, NAMES, labels)
    plain = json.loads(json.dumps(full.as_dict(), allow_nan=False))
    assert plain["pictures"] == 50
    assert plain["metrics"] == score(probabilities, truth, labels)
    assert plain["distribution"] == distribution_score(probabilities, truth)
    assert plain["per_class"][3] == {
        "class": "never", "pictures": 0, "predicted": 0, "precision": None, "recall": None, "f1": None,
        "true_share": 0.0, "predicted_share": 0.0,
    }  # fmt: skip
    assert sum(map(sum, plain["confusion"]["rows_true"])) == 50
    assert sum(plain["reliability"]["count"]) == 50
    text = "\n".join(to_plain(table) for table in full.tables())
    for expected in ("Clark / √K ↓", "argmax accuracy % ↑", "recall %", "never", "rows: true class"):
        assert expected in text
