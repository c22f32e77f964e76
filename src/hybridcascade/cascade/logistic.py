"""Multinomial logistic regression to its optimum: L-BFGS over all rows at once, soft targets, L2 on the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError

__all__ = ["STRENGTHS", "LogisticFit", "choose_strength", "fit_logistic", "logistic_loss"]

STRENGTHS: tuple[float, ...] = tuple(10.0**power for power in range(1, -7, -1))
"""Strengths that are tried first, from strong to weak; the best one's half decades are tried after them."""

_HISTORY = 20  # pairs of steps that L-BFGS keeps


@dataclass(frozen=True)
class LogisticFit:
    """An optimum.

    Attributes:
        weight: `[K, F]`.
        bias: `[K]`.
        loss: value of the objective, penalty included.
        gradient: largest entry of its gradient, in absolute value.
        iterations: of L-BFGS.
    """

    weight: Tensor
    bias: Tensor
    loss: float
    gradient: float
    iterations: int


def logistic_loss(
    weight: Tensor, bias: Tensor, features: Tensor, targets: Tensor, strength: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objective and its gradient.

    The objective is the mean over rows of `-sum_k q_k log softmax(W x + b)_k`, plus `strength / 2` times the sum
    of squares of W; the bias is free.

    Args:
        weight: W, `[K, F]`.
        bias: b, `[K]`.
        features: x, `[N, F]`.
        targets: q, distributions `[N, K]`.
        strength: of the penalty, 0 or above.

    Returns:
        The value, and its gradients by W and b.
    """
    scores = torch.addmm(bias, features, weight.T).log_softmax(dim=1)
    value = -(targets * scores).sum() / len(features) + 0.5 * strength * weight.square().sum()
    error = (scores.exp() - targets) / len(features)
    return value, error.T @ features + strength * weight, error.sum(dim=0)


def fit_logistic(
    features: Tensor,
    targets: Tensor,
    strength: float,
    start: LogisticFit | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-8,
) -> LogisticFit:
    """Minimise `logistic_loss` by L-BFGS with a line search that holds the strong Wolfe conditions.

    The objective is convex, and with a penalty its optimum is unique up to a constant on the bias, which changes
    no prediction.

    Args:
        features: standardised, `[N, F]`; float64 converges to the last digits.
        targets: distributions, `[N, K]`.
        strength: of the penalty, above 0: without one, classes that can be told apart have no optimum.
        start: another fit to start from; None starts at zero.
        iterations: most of them.
        tolerance: stop when no entry of the gradient is larger.

    Raises:
        SettingsError: the strength is not above 0.
    """
    if not strength > 0:
        raise SettingsError(f"expected a regularisation above 0, got {strength}")
    shape = (targets.shape[1], features.shape[1])
    weight = features.new_zeros(shape) if start is None else start.weight.clone()
    bias = features.new_zeros(shape[0]) if start is None else start.bias.clone()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=tolerance,
        tolerance_change=1e-20, history_size=_HISTORY, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        value, weight.grad, bias.grad = logistic_loss(weight, bias, features, targets, strength)
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    value, by_weight, by_bias = logistic_loss(weight, bias, features, targets, strength)
    largest = max(float(by_weight.abs().max()), float(by_bias.abs().max()))
    count = int(solver.state[weight]["n_iter"])
    return LogisticFit(weight.detach(), bias.detach(), float(value), largest, count)


def choose_strength(
    features: Tensor, targets: Tensor, held_out: Tensor, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, dict[float, float]]:
    """Choose the strength of the penalty by the cross-entropy of held-out rows.

    Fits go from strong to weak, each from the one before; around the best strength half steps are tried too.

    Args:
        features: `[N, F]`.
        targets: distributions, `[N, K]`.
        held_out: which rows are not fitted but judged, bool `[N]`; some and not all.
        strengths: to try, descending.

    Returns:
        The best strength, and the held-out cross-entropy of each that was tried.
    """
    tried: dict[float, float] = {}
    fits: dict[float, LogisticFit] = {}

    def judge(strength: float, start: LogisticFit | None) -> None:
        fit = fit_logistic(features[~held_out], targets[~held_out], strength, start, tolerance=1e-7)
        fits[strength] = fit
        tried[strength] = float(logistic_loss(fit.weight, fit.bias, features[held_out], targets[held_out], 0.0)[0])

    last = None
    for strength in strengths:
        judge(strength, last)
        last = fits[strength]
    best = min(tried, key=lambda strength: tried[strength])
    for near in (best * 10**0.5, best / 10**0.5):
        judge(near, fits[best])
    return min(tried, key=lambda strength: tried[strength]), tried
