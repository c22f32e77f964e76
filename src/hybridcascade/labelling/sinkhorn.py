"""Pseudo-labels balanced over the whole data set by optimal transport."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError

__all__ = ["adaptive_power", "breadth", "column_bias", "estimated_prior", "marginal_prior", "sinkhorn"]


def breadth(probabilities: Tensor) -> float:
    """Return how many of the K classes a set seems to show, `exp(H(mean p)) / K` in (0, 1].

    Args:
        probabilities: predictions, `[N, K]`, rows sum to 1.
    """
    mean = probabilities.double().mean(dim=0).clamp_min(1e-12)
    return math.exp(float(-(mean * mean.log()).sum())) / probabilities.shape[1]


def adaptive_power(probabilities: Tensor, narrow: float = 0.95) -> float:
    """Return the power of `marginal_prior` that fits how many classes there seem to be.

    Balance helps where all classes are there alike, and does harm where some are missing or rare: then every
    class is forced on pictures of others. So 0 (equal shares) where the predictions are spread over all
    classes, 1 (their own shares) where their breadth is `narrow` or less, and between them in proportion.

    Args:
        probabilities: predictions, `[N, K]`, rows sum to 1.
        narrow: breadth below which the predictions' own shares hold, in `[0, 1)`.
    """
    return 1 - min(1.0, max(0.0, (breadth(probabilities) - narrow) / (1 - narrow)))


def marginal_prior(probabilities: Tensor, power: float) -> Tensor:
    """Estimate class shares from predictions: `q_k ~ (mean_n p_nk)^power`.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        power: 0 gives the uniform prior, 1 the predictions' own shares; in `[0, 1]`.

    Returns:
        Shares, `[K]`, summing to 1.

    Raises:
        SettingsError: `power` is out of range.
    """
    if not 0 <= power <= 1:
        raise SettingsError(f"expected a prior power in [0, 1], got {power}")
    shares = probabilities.double().mean(dim=0).clamp_min(1e-12) ** power
    return (shares / shares.sum()).to(probabilities.dtype)


def estimated_prior(
    logits: Tensor, epsilon: float = 1.0, strength: float = 0.05, iterations: int = 200, tolerance: float = 1e-6
) -> Tensor:
    """Estimate class shares by expectation maximisation: the shares that best explain the predictions.

    `r_nk ~ q_k p_nk` and `q_k = (mean_n r_nk + strength / K) / (1 + strength)` in turns, from uniform q, with
    `p = softmax(logits / epsilon)`. Missing classes fall to about `strength / K` and are not forced to 1 / K.
    With strength 0 it is the maximum likelihood, and `sinkhorn` with it gives just the labels `r`.

    The estimate trusts that `p` is calibrated: from predictions that are too flat it goes too far (large
    shares grow), from too sure ones it stays near the shares of the first maximum.

    Args:
        logits: scores, `[N, K]`.
        epsilon: temperature of the predictions; positive.
        strength: pull towards equal shares, as a share of N pictures spread over all classes; not negative.
        iterations: at most so many turns.
        tolerance: stop when no share moves further than this.

    Returns:
        Shares, float64 `[K]`, summing to 1.

    Raises:
        SettingsError: `epsilon` is not positive or `strength` is negative.

    Source: Saerens, Latinne, Decaestecker, Neural Computation 2002; the pull is a Dirichlet prior.
    """
    if not epsilon > 0 or strength < 0:
        raise SettingsError(f"expected a positive epsilon and a strength from 0, got {epsilon} and {strength}")
    classes = logits.shape[1]
    log_predictions = (logits.double() / epsilon).log_softmax(dim=1)
    shares = torch.full((classes,), 1 / classes, dtype=torch.float64, device=logits.device)
    for _ in range(iterations):
        previous = shares
        shares = (log_predictions + shares.log()).softmax(dim=1).mean(dim=0)
        shares = (shares + strength / classes) / (1 + strength)
        if float((shares - previous).abs().max()) <= tolerance:
            break
    return shares


def sinkhorn(
    logits: Tensor,
    epsilon: float = 1.0,
    prior: Tensor | None = None,
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> Tensor:
    """Return the soft labels nearest to the logits whose class shares are the prior.

    `M = exp(logits / epsilon)` is scaled in turns to rows of 1/N and columns of the prior; the labels
    are `N M`. All in logarithms and float64, so that no epsilon underflows. Rows are scaled last: they
    sum to 1 exactly, the columns to the prior within `tolerance`.

    With the uniform prior it falls below zero-shot when classes are missing or rare; then `estimated_prior`.

    Args:
        logits: scores, `[N, K]`.
        epsilon: temperature of the labels; positive. Small is close to a balanced argmax.
        prior: class shares, `[K]`, summing to 1; None for uniform. A share of 0 empties the class.
        iterations: at most so many turns.
        tolerance: stop when no class share is further than this from the prior.

    Returns:
        Labels in the dtype of the logits, `[N, K]`, rows sum to 1.

    Raises:
        SettingsError: epsilon is not positive, or the prior is not a distribution over the K classes.
    """
    if not epsilon > 0:
        raise SettingsError(f"expected a positive Sinkhorn epsilon, got {epsilon}")
    count, classes = logits.shape
    shares = torch.full((classes,), 1 / classes) if prior is None else prior
    shares = shares.to(logits.device, torch.float64)
    if shares.shape != (classes,) or bool((shares < 0).any()) or abs(float(shares.sum()) - 1) > 1e-4:
        raise SettingsError(f"expected a prior of {classes} non-negative shares that sum to 1, got {shares.tolist()}")
    log_columns = shares.log() + math.log(count)
    log_plan = (logits.double() / epsilon).log_softmax(dim=1)
    for _ in range(iterations):
        log_sums = log_plan.logsumexp(dim=0)
        if float((log_sums.exp() / count - shares).abs().max()) <= tolerance:
            break
        scale = torch.where(shares > 0, log_columns - log_sums, -torch.inf)
        log_plan = (log_plan + scale).log_softmax(dim=1)
    return log_plan.exp().to(logits.dtype)


def column_bias(logits: Tensor, labels: Tensor, epsilon: float = 1.0) -> Tensor:
    """Return the class bias b of balanced labels: `labels = softmax(logits / epsilon + b)`.

    Sinkhorn's plan is the teacher's softmax with one factor a class; its logarithm carries the balance
    over to pictures that were not labelled.

    Args:
        logits: teacher scores, `[N, K]`.
        labels: what `sinkhorn` made of them with the same epsilon, `[N, K]`.
        epsilon: temperature of the labels.

    Returns:
        Bias with mean 0, float32 `[K]`; a class that the labels leave empty gets the lowest of the others.
    """
    used = (labels > 0).all(dim=0)
    bias = (labels.double().clamp_min(1e-300).log() - logits.double() / epsilon)[:, used]
    bias = (bias - bias.mean(dim=1, keepdim=True)).mean(dim=0)
    result = torch.full((logits.shape[1],), float(bias.min()), dtype=torch.float64, device=logits.device)
    result[used] = bias
    return (result - result.mean()).float()
