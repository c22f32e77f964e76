"""A Gaussian mixture on image features whose classes are anchored to their texts.

Classes are Gaussians on unit features, held by their text prototypes and by the zero-shot prediction y.
Labels z, means mu and variances v are found by turns, each step in closed form, for

`min  sum_i (z_i log z_i - lambda z_i log y_i) - sum_i z_i sum_s omega_s l_i^(s) - g sum_ij w_ij z_i z_j`

with `l_ik = -1/2 sum_d (f_id - mu_kd)^2 / v_d`, less `1/2 sum_d log v_kd` where each class has its own v:

- labels: `z_i ~ y_i^lambda exp(sum_s omega_s l_i^(s) + g sum_j (w_ij + w_ji) z_j)`;
- means: `mu_k = unit(b_k u_k + (1 - b_k) t_k)`, u_k the mean of the class's pictures, each weighted by its
  confidence `1 - H(z_i) / log K`, t_k the anchor, n_k the sum of the weights,
  `b_k = n_k / (n_k + alpha)` with `alpha = anchor N / K`;
- variances: shared, `v = sum_ik z_ik (f_i - mu_k)^2 / N`, or anchored one a class,
  `v_k = b_k S_k + (1 - b_k) (v_0 + (t_k - mu_k)^2)`.

StatA has alpha = 1 picture. Here it grows with N: the little weight that a missing class gets from each of
many pictures would outweigh a fixed number.

Source: TransCLIP (Zanella et al., NeurIPS 2024); anchors from StatA (Zanella et al., CVPR 2025); confidence in
the counts from MOON. Written from the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.neighbours import nearest_neighbours

__all__ = ["AnchoredMixture", "FeatureSet", "fit_anchored_mixture"]


@dataclass(frozen=True)
class FeatureSet:
    """Features of one stage; the log-likelihoods of several add up, `sum_s omega_s l^(s)`.

    Attributes:
        features: `[N, E]`; rows are brought to length 1.
        anchors: text prototypes in the same space, `[K, E]`; None where the stage has no text space: the
            anchors are then the stage's class means under the zero-shot prediction.
        weight: omega, positive; None for `d_eff / E`, shared over the sets: `d_eff = (sum e)^2 / sum e^2`
            over the eigenvalues of the covariance within the zero-shot classes. A diagonal Gaussian takes
            dimensions that vary together for independent ones, and is too sure by about that factor.
    """

    features: Tensor
    anchors: Tensor | None = None
    weight: float | None = None


@dataclass(frozen=True)
class AnchoredMixture:
    """What `fit_anchored_mixture` found.

    Attributes:
        labels: z, `[N, K]`, rows sum to 1, in the dtype of the logits.
        counts: pictures of each class, weighted by confidence, float64 `[K]`.
        means: unit class means of each feature set, float64 `[K, E]`.
        variances: of each feature set, float64 `[1, E]` shared or `[K, E]` one a class.
        weights: omega of each feature set.
        zero_shot_weight: lambda.
        epsilon: temperature of the zero-shot logits.
    """

    labels: Tensor
    counts: Tensor
    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    weights: tuple[float, ...]
    zero_shot_weight: float
    epsilon: float

    def score(self, features: Tensor | Sequence[Tensor], logits: Tensor | None = None) -> Tensor:
        """Score pictures one by one, also those that the mixture has not seen.

        Args:
            features: `[M, E]` of each feature set, in the order of the fit.
            logits: zero-shot scores of the same pictures, `[M, K]`; None leaves them out.

        Returns:
            Logits, float64 `[M, K]`. With zero-shot scores, and no neighbours in the fit, their softmax of
            the fitted pictures are the labels.

        Raises:
            SettingsError: another number of feature sets than in the fit.
        """
        sets = [features] if isinstance(features, Tensor) else list(features)
        if len(sets) != len(self.means):
            raise SettingsError(f"expected {len(self.means)} feature sets, as in the fit, got {len(sets)}")
        scores = _log_likelihood([_unit(part) for part in sets], self.means, self.variances, self.weights)
        if logits is None:
            return scores
        return scores + self.zero_shot_weight * (logits.double() / self.epsilon).log_softmax(dim=1)


def fit_anchored_mixture(
    logits: Tensor,
    sets: Sequence[FeatureSet],
    *,
    epsilon: float = 1.0,
    zero_shot_weight: float = 1.0,
    anchor: float = 0.5,
    class_variances: bool = False,
    close_gap: bool = True,
    neighbours: int = 0,
    neighbour_weight: float = 1.0,
    rounds: int = 10,
) -> AnchoredMixture:
    """Fit the mixture of this module.

    A class without pictures stays at its anchor and takes nothing from the others: not below zero-shot
    when classes are missing or rare.

    Args:
        logits: zero-shot scores, `[N, K]`.
        sets: at least one feature set of the N pictures.
        epsilon: temperature of the zero-shot logits; positive.
        zero_shot_weight: lambda, not negative.
        anchor: how many pictures an anchor is worth, in units of N / K; not negative.
        class_variances: one variance vector a class in place of a shared one.
        close_gap: move all anchors by the mean difference of the pictures and their predicted texts first:
            CLIP's pictures and texts lie apart, and the shift is the same for every class.
        neighbours: of each picture in the first feature set, for the term with w; 0 for none.
        neighbour_weight: g, not negative; w are cosines, not below 0, over twice the number of neighbours.
        rounds: of statistics and labels, at least 1.

    Returns:
        The mixture; its labels follow the last statistics.

    Raises:
        SettingsError: a number is out of range, or a feature set does not fit the logits.
    """
    _check_numbers(epsilon, zero_shot_weight, anchor, neighbour_weight, rounds)
    _check_sets(logits, sets)
    zero_shot = (logits.double() / epsilon).log_softmax(dim=1)
    labels = zero_shot.exp()
    parts = [_Part(part, labels, len(sets), close_gap) for part in sets]
    links = _links(sets[0].features, neighbours, neighbour_weight) if neighbours else None
    for _ in range(rounds):
        for part in parts:
            part.update(labels, anchor * len(labels) / labels.shape[1], class_variances)
        scores = zero_shot_weight * zero_shot + _log_likelihood(
            [p.units for p in parts], [p.means for p in parts], [p.variances for p in parts], [p.weight for p in parts]
        )
        labels = _step_labels(scores, labels, links)
    return AnchoredMixture(
        labels=labels.to(logits.dtype),
        counts=labels.T @ _confidence(labels),
        means=tuple(part.means for part in parts),
        variances=tuple(part.variances for part in parts),
        weights=tuple(part.weight for part in parts),
        zero_shot_weight=zero_shot_weight,
        epsilon=epsilon,
    )


class _Part:
    """Statistics of one feature set."""

    def __init__(self, given: FeatureSet, labels: Tensor, sets: int, close_gap: bool) -> None:
        self.units = _unit(given.features)
        class_means = (labels.T @ self.units) / labels.sum(dim=0).clamp_min(1e-12)[:, None]
        self.anchors = _unit(class_means if given.anchors is None else given.anchors)
        if close_gap and given.anchors is not None:
            gap = (self.units - labels @ self.anchors).mean(dim=0)
            self.anchors = _unit(self.anchors + gap)
        residual = self.units - labels @ class_means
        self.weight = _effective_share(residual) / sets if given.weight is None else given.weight
        self.means = self.anchors
        self.start = self.variances = _floored(self._shared_variances(labels))

    def update(self, labels: Tensor, alpha: float, class_variances: bool) -> None:
        """Statistics of the present labels."""
        trusted = labels * _confidence(labels)[:, None]
        counts = trusted.sum(dim=0)
        share = (counts / (counts + alpha).clamp_min(1e-12))[:, None]
        sums = trusted.T @ self.units
        averages = sums / counts.clamp_min(1e-12)[:, None]
        self.means = _unit(share * averages + (1 - share) * self.anchors)
        if not class_variances:
            self.variances = _floored(self._shared_variances(labels))
            return
        squares = trusted.T @ self.units.square() / counts.clamp_min(1e-12)[:, None]
        own = squares - 2 * averages * self.means + self.means.square()
        far = self.start + (self.anchors - self.means).square()
        self.variances = _floored(share * own + (1 - share) * far)

    def _shared_variances(self, labels: Tensor) -> Tensor:
        # Expanded, so that [N, K, E] never exists; float64 bears the cancellation.
        cross = ((labels.T @ self.units) * self.means).sum(dim=0)
        own = (labels.sum(dim=0)[:, None] * self.means.square()).sum(dim=0)
        return ((self.units.square().sum(dim=0) - 2 * cross + own) / len(labels))[None]


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.double(), dim=1)


def _floored(variances: Tensor) -> Tensor:
    """No dimension below a thousandth of the mean: one that hardly varies must not decide alone."""
    return variances.clamp_min(1e-3 * float(variances.mean()) + 1e-12)


def _confidence(labels: Tensor) -> Tensor:
    """`1 - H(z) / log K`, `[N]`."""
    entropy: Tensor = torch.special.entr(labels).sum(dim=1)
    return (1 - entropy / math.log(max(labels.shape[1], 2))).clamp_min(0)


def _effective_share(residual: Tensor) -> float:
    """`(tr C)^2 / (E ||C||^2)` of the covariance C; between 1 / E and 1."""
    covariance = residual.T @ residual
    squares = float(covariance.square().sum())
    return float(covariance.trace()) ** 2 / (len(covariance) * squares) if squares > 0 else 1.0


def _log_likelihood(
    units: Sequence[Tensor], means: Sequence[Tensor], variances: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """`sum_s omega_s l^(s)`, `[N, K]`; what all classes share with one variance is kept, it changes no label."""
    total = torch.zeros(len(units[0]), len(means[0]), dtype=torch.float64, device=units[0].device)
    for features, mean, variance, weight in zip(units, means, variances, weights, strict=True):
        precision = 1 / variance
        squared = features.square() @ precision.T - 2 * features @ (mean * precision).T
        squared = squared + (mean.square() * precision).sum(dim=1)
        total -= weight / 2 * (squared + variance.log().sum(dim=1))
    return total


def _links(features: Tensor, neighbours: int, weight: float) -> Tensor:
    """`g (w_ij + w_ji)` as a sparse `[N, N]`."""
    cosines, rows = nearest_neighbours(features, neighbours)
    total, count = rows.shape
    own = torch.arange(total, device=rows.device)[:, None].expand_as(rows)
    values = weight / (2 * max(count, 1)) * cosines.double().clamp_min(0)
    ends = torch.stack([torch.cat([own, rows]).flatten(), torch.cat([rows, own]).flatten()])
    values = torch.cat([values, values]).flatten()
    links: Tensor = torch.sparse_coo_tensor(ends, values, (total, total), check_invariants=False).coalesce()
    return links


def _step_labels(scores: Tensor, labels: Tensor, links: Tensor | None, turns: int = 5) -> Tensor:
    if links is None:
        return scores.softmax(dim=1)
    for _ in range(turns):
        labels = (scores + torch.sparse.mm(links, labels)).softmax(dim=1)
    return labels


def _check_numbers(
    epsilon: float, zero_shot_weight: float, anchor: float, neighbour_weight: float, rounds: int
) -> None:
    if not epsilon > 0:
        raise SettingsError(f"expected a positive epsilon, got {epsilon}")
    if min(zero_shot_weight, anchor, neighbour_weight) < 0:
        raise SettingsError(
            "expected zero_shot_weight, anchor and neighbour_weight from 0, got "
            f"{zero_shot_weight}, {anchor} and {neighbour_weight}"
        )
    if rounds < 1:
        raise SettingsError(f"expected at least one round, got {rounds}")


def _check_sets(logits: Tensor, sets: Sequence[FeatureSet]) -> None:
    if not sets:
        raise SettingsError("expected at least one feature set for the mixture, got none")
    for number, part in enumerate(sets):
        fits = part.features.ndim == 2 and len(part.features) == len(logits)
        if part.anchors is not None:
            fits = fits and part.anchors.shape == (logits.shape[1], part.features.shape[1])
        if not fits:
            anchors = None if part.anchors is None else tuple(part.anchors.shape)
            raise SettingsError(
                f"feature set {number}: expected features of {len(logits)} pictures and anchors of "
                f"{logits.shape[1]} classes in the same space, got {tuple(part.features.shape)} and {anchors}"
            )
        if part.weight is not None and not part.weight > 0:
            raise SettingsError(f"feature set {number}: expected a positive weight, got {part.weight}")
