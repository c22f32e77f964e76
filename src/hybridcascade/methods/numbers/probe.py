"""Numbers of `linear_probe`."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.methods.numbers.base import POOLS, between, choice

__all__ = ["LinearProbeSettings"]


@dataclass(frozen=True)
class LinearProbeSettings:
    """Numbers of `linear_probe`."""

    stages: str = "last"
    """Features: last (CLIP's own image feature) or all (the stages of the plan beside it)."""

    plan: str | tuple[tuple[int, ...], ...] = "hybrid"
    """For stages=all: a name of `backbone.plans` or the blocks of each stage, counted from 1."""

    pool: str = "cls"
    """For stages=all, what the stages read: cls, patch (mean of the patch tokens) or both."""

    distribution_share: float = 1.0
    """Share of the distribution in the joint target, the rest is the class."""

    def __post_init__(self) -> None:
        choice("stages", self.stages, ("last", "all"))
        choice("pool", self.pool, POOLS)
        between("distribution_share", self.distribution_share, 0, 1)
