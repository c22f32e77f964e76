"""Metrics against naive numpy loops written here from the definitions, and every stated rule."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import Metric

from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import (
    CLIP,
    METRIC_NAMES,
    DistributionBrier,
    DistributionKL,
    DistributionNLL,
    ScoreMetrics,
    effective_labels,
    reliability,
    score,
)


def naive(probabilities: Any, truth: Any, labels: Any = None):
    """Loops over rows and classes; shares no line with the library."""
    rows, classes = len(probabilities), len(probabilities[0])
    choices, answers, confidences, kl, nll, brier = [], [], [], 0.0, 0.0, 0.0
    for i in range(rows):
        p, d = probabilities[i], truth[i]
        choice = 0
        for j in range(classes):
            if p[j] > p[choice]:
                choice = j
        tied = [j for j in range(classes) if abs(d[j] - max(d)) < 1e-6]
        answer = (choice if choice in tied else tied[0]) if labels is None else labels[i]
        choices.append(choice)
        answers.append(answer)
        confidences.append(p[choice])
        for j in range(classes):
            clipped = p[j] if p[j] > 2.220446049250313e-16 else 2.220446049250313e-16
            if d[j] > 0:
                kl += d[j] * math.log(d[j] / clipped)
                nll -= d[j] * math.log(clipped)
            brier += (p[j] - d[j]) ** 2
    f1 = []
    for k in range(classes):
        hits = sum(c == k and a == k for c, a in zip(choices, answers, strict=True))
        false = sum(c == k and a != k for c, a in zip(choices, answers, strict=True))
        missed = sum(c != k and a == k for c, a in zip(choices, answers, strict=True))
        if hits + false + missed:
            f1.append(2 * hits / (2 * hits + false + missed))
    ece = 0.0
    for b in range(15):
        upper = 1.1 if b == 14 else (b + 1) / 15
        inside = [i for i in range(rows) if b / 15 <= confidences[i] < upper]
        if inside:
            accuracy = sum(choices[i] == answers[i] for i in inside) / len(inside)
            ece += len(inside) / rows * abs(accuracy - sum(confidences[i] for i in inside) / len(inside))
    correct = sum(c == a for c, a in zip(choices, answers, strict=True))
    return {
        "accuracy": correct / rows,
        "macro_f1": sum(f1) / len(f1),
        "ece": ece,
        "kl": kl / rows,
        "nll": nll / rows,
        "brier": brier / rows,
    }


def random_case(seed: int, rows: int = 200, classes: int = 6, sharpness: float = 0.5):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, sharpness), rows)
    truth = rng.multinomial(6, rng.dirichlet(np.ones(classes)), rows) / 6  # votes: zeros and ties
    return probabilities, truth


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 6, 8])
def test_equals_naive_reference_with_ties_and_zeros(seed: int, classes: int):
    probabilities, truth = random_case(seed, classes=classes)
    tied = [(row == row.max()).sum() > 1 for row in truth]
    assert any(tied), "the case should have ties"
    assert (truth == 0).any(), "the case should have zeros"
    assert score(probabilities, truth) == pytest.approx(naive(probabilities, truth), abs=2e-6)


@pytest.mark.parametrize("seed", range(2))
def test_equals_naive_reference_with_drawn_labels(seed: int):
    probabilities, truth = random_case(seed)
    labels = np.random.default_rng(seed).integers(0, 6, len(truth))
    ours = score(probabilities, truth, labels)
    assert ours == pytest.approx(naive(probabilities, truth, labels), abs=2e-6)
    assert ours["accuracy"] != score(probabilities, truth)["accuracy"]
    assert ours["kl"] == score(probabilities, truth)["kl"]


def test_one_hot_truth_gives_the_usual_nll_and_brier():
    result = score([[0.7, 0.3], [0.4, 0.6]], [[1.0, 0.0], [1.0, 0.0]])
    assert result["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2)
    assert result["kl"] == pytest.approx(result["nll"]), "entropy of one-hot truth is 0"
    assert result["brier"] == pytest.approx((2 * 0.3**2 + 2 * 0.6**2) / 2)
    assert result["accuracy"] == 0.5
    assert list(result) == list(METRIC_NAMES)


def test_perfect_prediction_with_zeros_scores_exactly_zero_kl():
    truth = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    result = score(truth, truth)
    assert result["kl"] == 0.0
    assert result["brier"] == 0.0
    assert result["accuracy"] == 1.0


def test_zero_prediction_under_positive_truth_is_clipped_not_infinite():
    result = score([[0.0, 1.0]], [[0.5, 0.5]])
    assert result["kl"] == pytest.approx(0.5 * math.log(0.5 / CLIP) + 0.5 * math.log(0.5))
    assert score([[0.0, 1.0]], [[0.0, 1.0]])["kl"] == 0.0, "a zero in both costs nothing"


def test_kl_direction_is_truth_against_prediction():
    truth, predicted = [[0.9, 0.1]], [[0.5, 0.5]]
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert score(predicted, truth)["kl"] == pytest.approx(forward)
    assert score(truth, predicted)["kl"] != pytest.approx(forward, rel=0.1)


def test_tie_rule_any_tied_class_is_correct():
    truth = [[0.4, 0.4, 0.2]] * 3
    probabilities = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    assert score(probabilities, truth)["accuracy"] == pytest.approx(2 / 3)
    assert effective_labels(probabilities, truth).tolist() == [0, 1, 0], "wrong answers are held to the first"
    assert score(probabilities, truth, labels=[1, 1, 1])["accuracy"] == pytest.approx(1 / 3)


def test_tie_rule_first_maximum_of_the_prediction():
    probabilities = [[0.2, 0.4, 0.4]]
    assert score(probabilities, [[0.0, 1.0, 0.0]])["accuracy"] == 1.0
    assert score(probabilities, [[0.0, 0.0, 1.0]])["accuracy"] == 0.0


def test_classes_that_never_occur_do_not_lower_macro_f1():
    assert score([[0.9, 0.1, 0.0]], [[1.0, 0.0, 0.0]])["macro_f1"] == 1.0


def test_confidence_of_exactly_one_shares_the_last_bin():
    probabilities = [[1.0, 0.0], [0.95, 0.05]]
    truth = [[0.0, 1.0], [1.0, 0.0]]
    assert score(probabilities, truth)["ece"] == pytest.approx(abs(0.5 - 0.975), abs=1e-6)


def test_reliability_agrees_with_ece_and_counts_every_row():
    probabilities, truth = random_case(0)
    diagram = reliability(probabilities, truth)
    assert diagram.ece == pytest.approx(score(probabilities, truth)["ece"], abs=1e-6)
    assert sum(diagram.count) == len(truth)
    assert len(diagram.count) == 15
    assert all(math.isnan(a) == (n == 0) for a, n in zip(diagram.accuracy, diagram.count, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_of_either_side_is_accepted(dtype: torch.dtype):
    probabilities, truth = (torch.tensor(x) for x in random_case(1))
    half = probabilities.to(dtype)
    assert score(half, truth)["kl"] == pytest.approx(score(probabilities, truth)["kl"], rel=2e-2)


def test_batches_equal_one_pass_and_do_not_depend_on_order():
    probabilities, truth = random_case(2)
    metrics = ScoreMetrics(6)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(truth)), 7):
        metrics.update(probabilities[rows], truth[rows])
    assert metrics.compute() == pytest.approx(score(probabilities, truth), abs=1e-6)
    metrics.reset()
    metrics.update(truth, truth)
    assert metrics.compute()["kl"] == 0.0


@pytest.mark.parametrize("kind", [DistributionKL, DistributionNLL, DistributionBrier])
def test_own_metrics_pickle_clone_forward_and_reset(kind: type[Metric]):
    probabilities, truth = (torch.tensor(x) for x in random_case(3))
    metric = kind()
    batch = metric(probabilities, truth)  # forward gives the batch's value and keeps the state
    whole = metric.compute()
    assert torch.equal(batch, whole)
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), whole)
    assert torch.equal(copy.deepcopy(metric).compute(), whole)
    metric.reset()
    assert metric.count == 0


def test_own_metrics_add_up_over_ranks_as_torchmetrics_reduces_them():
    probabilities, truth = (torch.tensor(x) for x in random_case(4))
    ranks = [DistributionKL(), DistributionKL()]
    ranks[0].update(probabilities[:30], truth[:30])  # unequal shards: a mean of means would be wrong
    ranks[1].update(probabilities[30:], truth[30:])
    whole = DistributionKL()
    whole.update(probabilities, truth)
    for name, reduce in whole._reductions.items():
        setattr(ranks[0], name, reduce(torch.stack([getattr(r, name) for r in ranks])))
    ranks[0]._computed = None
    torch.testing.assert_close(ranks[0].compute(), whole.compute(), rtol=1e-14, atol=0)


GOOD = [[0.5, 0.5], [0.25, 0.75]]


@pytest.mark.parametrize(
    ("probabilities", "truth", "labels", "message"),
    [
        ([0.5, 0.5], GOOD, None, r"probabilities must be \[N, K\].*shape \[2\]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), None, "N >= 1"),
        ([[1.0], [1.0]], [[1.0], [1.0]], None, "K >= 2"),
        (GOOD, [[1.0, 0.0]], None, r"\[2, 2\] and truth \[1, 2\] differ"),
        ([[0.5, 0.5], [float("nan"), 0.5]], GOOD, None, "probabilities has NaN or infinity, first in row 1"),
        (GOOD, [[0.5, 0.5], [float("inf"), 0.5]], None, "truth has NaN or infinity, first in row 1"),
        ([[1.5, -0.5], [0.5, 0.5]], GOOD, None, "negative, row 0 has -0.5"),
        ([[0.5, 0.5], [2.0, 3.0]], GOOD, None, "row 1 sums to 5.*softmax"),
        (GOOD, [[3, 2], [1, 4]], None, "truth must sum to 1, row 0 sums to 5"),
        (GOOD, GOOD, [0], r"labels must be \[2\]"),
        (GOOD, GOOD, [0, 2], r"labels\[1\] is 2, expected 0 to 1"),
        (GOOD, GOOD, [-1, 0], r"labels\[0\] is -1"),
        (GOOD, GOOD, [0.0, 1.0], "labels must be integers"),
    ],
)
def test_wrong_input_is_one_clear_error(probabilities: Any, truth: Any, labels: Any, message: str):
    with pytest.raises(DataError, match=message):
        score(probabilities, truth, labels)


def test_streaming_metrics_refuse_another_class_count():
    with pytest.raises(DataError, match="expected 3 classes, got 2"):
        ScoreMetrics(3).update(GOOD, GOOD)
    with pytest.raises(DataError, match="at least 2"):
        ScoreMetrics(1)


def _rank(rank: int, folder: Path, probabilities: Any, truth: Any):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    metrics = ScoreMetrics(6)
    shard = slice(0, 30) if rank == 0 else slice(30, None)
    metrics.update(probabilities[shard], truth[shard])
    result = metrics.compute()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_ranks_agree_with_one_process(tmp_path: Path):
    probabilities, truth = random_case(5)
    torch.multiprocessing.spawn(_rank, (tmp_path, probabilities, truth), nprocs=2)
    for rank in range(2):
        result = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert result == pytest.approx(score(probabilities, truth), abs=1e-6)
