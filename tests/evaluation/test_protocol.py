"""Student's t against printed tables; summaries and pairs against figures worked by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from hybridcascade.errors import DataError
from hybridcascade.evaluation.protocol import (
    ResultRow,
    paired_difference,
    results_dict,
    student_t_cdf,
    student_t_quantile,
    summarize,
    summarize_rows,
)

# Two-sided 95% and 99% columns of the printed t table (Fisher and Yates).
TABLE = [
    (1, 12.7062, 63.6567),
    (2, 4.3027, 9.9248),
    (3, 3.1824, 5.8409),
    (4, 2.7764, 4.6041),
    (5, 2.5706, 4.0321),
    (9, 2.2622, 3.2498),
    (10, 2.2281, 3.1693),
    (30, 2.0423, 2.7500),
    (120, 1.9799, 2.6174),
]


@pytest.mark.parametrize(("degrees", "at_95", "at_99"), TABLE)
def test_quantiles_are_those_of_the_printed_table(degrees: float, at_95: float, at_99: float):
    assert student_t_quantile(0.975, degrees) == pytest.approx(at_95, abs=6e-5)
    assert student_t_quantile(0.995, degrees) == pytest.approx(at_99, abs=6e-5)
    assert student_t_quantile(0.025, degrees) == pytest.approx(-at_95, abs=6e-5)


def test_closed_forms_of_one_and_two_degrees():
    for t in (-40.0, -1.0, -0.1, 0.0, 0.5, 3.0, 200.0):
        assert student_t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-13)
        assert student_t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-13)


def test_many_degrees_approach_the_normal():
    assert student_t_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("degrees", [1, 2, 4, 29])
def test_quantile_inverts_the_distribution_function(probability: float, degrees: float):
    assert student_t_cdf(student_t_quantile(probability, degrees), degrees) == pytest.approx(probability, abs=1e-12)


def test_summary_worked_by_hand():
    summary = summarize([0.40, 0.42, 0.44])
    assert summary.mean == pytest.approx(0.42)
    assert summary.deviation == pytest.approx(0.02)
    assert summary.half_width == pytest.approx(4.30265 * 0.02 / math.sqrt(3), rel=1e-5)
    low, high = summary.interval
    assert low == pytest.approx(0.42 - summary.half_width)
    assert high == pytest.approx(0.42 + summary.half_width)


def test_one_seed_has_no_interval():
    summary = summarize([0.5])
    assert (summary.mean, summary.half_width, summary.interval, summary.count) == (0.5, None, None, 1)
    pair = paired_difference({0: 0.5}, {0: 0.4})
    assert pair.p_value is None


def test_equal_values_have_an_interval_of_zero_width():
    assert summarize([0.5, 0.5, 0.5]).interval == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_summary_refuses_nothing_and_nan(values: list[float]):
    with pytest.raises(DataError, match="cannot summarise"):
        summarize(values)


def test_paired_difference_worked_by_hand():
    # differences 1, 2, 3, 4: mean 2.5, deviation 1.29099, t = 3.87298 with 3 degrees; p = 0.030466
    pair = paired_difference({0: 1, 1: 3, 2: 5, 3: 7}, {3: 3, 2: 2, 1: 1, 0: 0})
    assert pair.difference.mean == pytest.approx(2.5)
    assert pair.p_value == pytest.approx(0.030466, abs=1e-5)
    low, high = pair.difference.interval
    assert low == pytest.approx(2.5 - 3.1824 * 1.2909944 / 2, abs=1e-4)
    assert high == pytest.approx(2.5 + 3.1824 * 1.2909944 / 2, abs=1e-4)


def test_p_value_is_below_five_percent_exactly_when_zero_is_outside():
    for shift in (0.9, 1.1):
        differences = {i: shift * 2.7764 / math.sqrt(5) + (-1) ** i * (i > 0) for i in range(5)}
        pair = paired_difference(differences, dict.fromkeys(range(5), 0.0))
        low, high = pair.difference.interval
        assert (pair.p_value < 0.05) == (not low <= 0 <= high)


def test_pairs_without_spread_have_no_p_value_unless_they_are_equal():
    assert paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}).p_value == 1.0
    assert paired_difference({0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}).p_value == 1.0
    assert paired_difference({0: 2.0, 1: 2.0}, {0: 1.0, 1: 1.0}).p_value is None


def test_rounding_is_no_spread():
    first, second = {0: 0.45, 1: 0.85, 2: 0.35}, {0: 0.40, 1: 0.80, 2: 0.30}
    pair = paired_difference(first, second)
    assert 0 < pair.difference.deviation < 1e-15, "the same difference but for rounding"
    assert pair.p_value is None
    equal = paired_difference({0: 0.1 + 0.2, 1: 0.5, 2: 0.7}, {0: 0.3, 1: 0.5, 2: 0.7})
    assert equal.difference.mean != 0
    assert equal.p_value == 1.0
    small = paired_difference({0: 0.5 + 1e-9, 1: 0.5 + 2e-9, 2: 0.5 + 3e-9}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert small.p_value == pytest.approx(0.0742, abs=1e-4), "small differences are no rounding"


def test_pairs_need_the_same_seeds():
    with pytest.raises(DataError, match=r"same seeds, got \[0, 1\] and \[0, 2\]"):
        paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0})


@pytest.mark.parametrize("bad", [0.0, 1.0, -1.0, 2.0])
def test_quantile_refuses_impossible_probabilities(bad: float):
    with pytest.raises(DataError, match="between 0 and 1"):
        student_t_quantile(bad, 3)
    with pytest.raises(DataError, match="positive"):
        student_t_cdf(0.0, bad - 2.0)


def test_rows_are_grouped_by_method_in_order():
    rows = [
        ResultRow("zero_shot", 0, {"accuracy": 0.4}, 0, 2.0),
        ResultRow("ours", 0, {"accuracy": 0.5}, 10, 4.0),
        ResultRow("zero_shot", 1, {"accuracy": 0.6}, 0, 4.0),
    ]
    first, second = summarize_rows(rows)
    assert (first.method, first.seeds, first.seconds) == ("zero_shot", (0, 1), 3.0)
    assert first.metrics["accuracy"].mean == pytest.approx(0.5)
    assert (second.method, second.trained_parameters) == ("ours", 10)


def test_rows_that_cannot_be_averaged_are_refused():
    with pytest.raises(DataError, match="seed twice"):
        summarize_rows([ResultRow("a", 0, {"accuracy": 0.4}), ResultRow("a", 0, {"accuracy": 0.5})])
    with pytest.raises(DataError, match="different metrics"):
        summarize_rows([ResultRow("a", 0, {"accuracy": 0.4}), ResultRow("a", 1, {"kl": 0.5})])


def test_results_have_the_promised_keys():
    result = results_dict([ResultRow("zero_shot", 3, {"accuracy": 0.4})], {"accuracy": 0.6})
    assert result["ceiling"] == {"accuracy": 0.6}
    assert {"method", "seed", "metrics"} <= result["rows"][0].keys()
    assert result["rows"][0]["seed"] == 3


def test_protocol_and_tables_do_not_import_torch_or_rich():
    code = (
        "import sys, hybridcascade.evaluation.protocol, hybridcascade.evaluation.tables\n"
        "assert not {'torch', 'rich', 'matplotlib', 'torchmetrics'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
