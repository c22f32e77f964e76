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

    regularisation: float = 0.0
    """Strength of L2 on the weights, against the mean loss; 0 chooses it on held-out training pictures and then learns
    from all of them."""

    held_out_share: float = 0.2
    """For regularisation 0: share of the training pictures that choose, those whose ids have the lowest hash."""

    iterations: int = 1000
    """Most iterations of L-BFGS, each over all pictures."""

    distribution_share: float = 1.0
    """Share of the distribution in the joint target, the rest is the class."""

    def __post_init__(self) -> None:
        choice("stages", self.stages, ("last", "all"))
        choice("pool", self.pool, POOLS)
        between("regularisation", self.regularisation, 0)
        between("held_out_share", self.held_out_share, 0.01, 0.9)
        between("iterations", self.iterations, 1)
        between("distribution_share", self.distribution_share, 0, 1)
