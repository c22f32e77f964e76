"""Target distributions of pictures: from votes, from labels through a prior, of a few pictures or of all.

Targets belong to the sample: they are kept in the rows of the source, and which pictures keep theirs in a
few-shot choice depends on the seed and the sample id alone, never on the order of the pictures.

The class y of the joint target `(1 - lam) y + lam l` is the first maximum of the distribution l, in the
order of the classes. For a picture with votes that is the class with most votes, the first of those that
tie; for a picture with a label it is the label, for every prior gives the label the largest share.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hybridcascade.data.messages import complaint
from hybridcascade.data.pictures import PictureSource
from hybridcascade.errors import DataError, SettingsError, UnknownNameError

__all__ = ["TARGET_SOURCES", "Targets", "choose_share", "choose_shots", "make_targets"]

log = logging.getLogger(__name__)

TARGET_SOURCES: dict[str, str] = {
    "auto": "votes where a picture has them, else its label through the prior",
    "votes": "votes alone: a picture with a label only counts as unlabelled",
    "labels": "labels through the prior, also where there are votes (their first maximum, where no label is stated)",
}
"""What targets are made from."""


@dataclass(frozen=True)
class Targets:
    """Target distributions of N pictures over K classes, in the rows of their source.

    Attributes:
        distribution: float32 `[N, K]`; known rows sum to 1, the others are zeros.
        known: which pictures have a target, bool `[N]`.
        origins: `votes`, `label` or `none`, N of them.
        remarks: what a person should know of how they were made.
    """

    distribution: Tensor
    known: Tensor
    origins: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """Class y of the joint target, the first maximum; -1 where not known. int64 `[N]`."""
        return torch.where(self.known, self.distribution.argmax(dim=1), -1)

    @property
    def rows(self) -> list[int]:
        """The rows that are known, ascending."""
        return [int(row) for row in self.known.nonzero()[:, 0]]

    def counts(self) -> dict[str, int]:
        """Return how many targets come from votes, from labels, and how many pictures have none."""
        return {origin: self.origins.count(origin) for origin in ("votes", "label", "none")}

    def keep(self, rows: Sequence[int]) -> Targets:
        """Return the targets with only those of `rows` known; a row without a target stays without."""
        kept = torch.zeros_like(self.known)
        kept[torch.as_tensor(list(rows), dtype=torch.int64)] = True
        known = self.known & kept
        origins = tuple(o if k else "none" for o, k in zip(self.origins, known.tolist(), strict=True))
        return replace(self, distribution=self.distribution * known[:, None], known=known, origins=origins)


def make_targets(
    source: PictureSource,
    classes: Sequence[str],
    use: str = "auto",
    prior: ArrayLike | None = None,
    vote_smoothing: float = 0.0,
    shots: int | None = None,
    share: float | None = None,
    seed: int = 0,
) -> Targets:
    """Make the targets of a source; pictures without votes and label simply have none.

    Args:
        source: N pictures, with votes, labels, both or neither.
        classes: K names, the order of the columns.
        use: a name of `TARGET_SOURCES`.
        prior: distribution of each label, `[K, K]` (`priors.prior_matrix`); None puts all on the label.
        vote_smoothing: votes added to every class, see `priors.votes_to_distribution`.
        shots: keep the targets of this many pictures a class only; None keeps all.
        share: keep the targets of this share of the pictures that have one only, in (0, 1].
        seed: of the choice of `shots` or `share`; another seed chooses other pictures.

    Raises:
        DataError: no picture has a target.
        ClassListError: a label or a voted class is not in `classes`.
        SettingsError: a number out of range, or shots and share together.
    """
    if use not in TARGET_SOURCES:
        raise UnknownNameError("source of targets", use, TARGET_SOURCES)
    if not 0 <= vote_smoothing < float("inf"):
        raise SettingsError(f"expected the smoothing of votes to be 0 or above, got {vote_smoothing}")
    origins = tuple(_origin(sample.votes is not None, sample.label is not None, use) for sample in source.samples)
    table = np.zeros((len(source), len(classes)))
    voted = [row for row, origin in enumerate(origins) if origin == "votes"]
    labelled = [row for row, origin in enumerate(origins) if origin == "label"]
    if not voted and not labelled:
        found = f"none of {len(source)}, with the targets from {use!r}"
        remedy = "Give a folder per class, or a manifest with labels or votes"
        raise DataError(complaint(source.name, "a picture with a target", found, remedy))
    if voted:
        totals = np.array([sum(source.samples[row].votes or ()) for row in voted])[:, None]
        shares = _part(source, voted).targets(classes).double().numpy()
        table[voted] = (shares * totals + vote_smoothing) / (totals + len(classes) * vote_smoothing)
    if labelled:
        table[labelled] = _checked_prior(prior, len(classes))[_part(source, labelled).labels(classes).numpy()]
    known = torch.tensor([origin != "none" for origin in origins])
    targets = Targets(torch.from_numpy(table).float(), known, origins)
    return _chosen(targets, source, classes, shots, share, seed)


def choose_shots(ids: Sequence[str], labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """Choose `shots` pictures of each class by a stable hash of (seed, id).

    The choice of a picture depends on the ids of its own class alone, and a larger `shots` keeps what a
    smaller one chose.

    Args:
        ids: N sample ids.
        labels: class of each, N of them; negative for a picture that cannot be chosen.
        shots: pictures a class, at least 1; a class that has fewer gives all it has.
        seed: any integer.

    Returns:
        Rows, ascending.
    """
    if shots < 1:
        raise SettingsError(f"expected shots of 1 or above, got {shots}")
    taken: dict[int, int] = {}
    rows = []
    for row in sorted((r for r in range(len(ids)) if labels[r] >= 0), key=lambda r: _place(ids[r], seed)):
        taken[labels[row]] = taken.get(labels[row], 0) + 1
        if taken[labels[row]] <= shots:
            rows.append(row)
    return sorted(rows)


def choose_share(ids: Sequence[str], rows: Sequence[int], share: float, seed: int) -> list[int]:
    """Choose a share of some rows by a stable hash of (seed, id): rounded, at least one; a larger share keeps them.

    Args:
        ids: N sample ids.
        rows: rows to choose from, at least one.
        share: in (0, 1].
        seed: any integer.

    Returns:
        Rows, ascending.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"expected a share above 0 and at most 1, got {share}")
    ordered = sorted(rows, key=lambda row: _place(ids[row], seed))
    return sorted(ordered[: max(1, round(share * len(ordered)))])


def _place(sample_id: str, seed: int) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed}\n{sample_id}".encode()).digest(), sample_id


def _origin(has_votes: bool, has_label: bool, use: str) -> str:
    if has_votes and use != "labels":
        return "votes"
    return "label" if use != "votes" and (has_label or has_votes) else "none"


def _part(source: PictureSource, rows: Sequence[int]) -> PictureSource:
    """Some rows without `take`, which copies pictures that are in memory."""
    samples, pictures = [source.samples[row] for row in rows], [source.pictures[row] for row in rows]
    return PictureSource(samples, pictures, source.classes, source.name)


def _checked_prior(prior: ArrayLike | None, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if prior is None:
        return np.eye(count)
    rows = np.asarray(prior, dtype=np.float64)
    if rows.shape != (count, count) or (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1.0, atol=1e-6):
        found = f"shape {list(rows.shape)}, row sums {np.round(rows.sum(axis=-1), 4).tolist()}"
        remedy = "Make it with prior_matrix, for the same classes"
        raise SettingsError(complaint("prior", f"[{count}, {count}] with rows that sum to 1", found, remedy))
    if (rows.astype(np.float32).argmax(axis=1) != np.arange(count)).any():
        remedy = "The class of the joint target would not be the label"
        raise SettingsError(complaint("prior", "the largest share on the label", "another class above it", remedy))
    return rows


def _chosen(
    targets: Targets, source: PictureSource, classes: Sequence[str], shots: int | None, share: float | None, seed: int
) -> Targets:
    if shots is not None and share is not None:
        raise SettingsError("shots and a share of the labels contradict each other: choose one")
    if share is not None:
        return targets.keep(choose_share(source.ids, targets.rows, share, seed))
    if shots is None:
        return targets
    labels = targets.labels.tolist()
    few = {name: labels.count(k) for k, name in enumerate(classes) if labels.count(k) < shots}
    kept = targets.keep(choose_shots(source.ids, labels, shots, seed))
    if not few:
        return kept
    remark = f"fewer than {shots} pictures to learn from: " + ", ".join(f"{n} {c}" for n, c in few.items())
    log.info("%s: %s", source.name, remark)  # the caller tells the remarks
    return replace(kept, remarks=(remark,))
