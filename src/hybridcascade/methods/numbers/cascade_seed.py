"""Numbers of `hybrid_cascade_seed`."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.methods.numbers.base import AGGREGATIONS, PROMPT_INITS, between, choice
from hybridcascade.methods.numbers.lafter import TextOnlySettings

__all__ = ["HybridCascadeSeedSettings"]


@dataclass(frozen=True)
class HybridCascadeSeedSettings(TextOnlySettings):
    """Numbers of `hybrid_cascade_seed`, as the seed documents have them."""

    plan: str | tuple[tuple[int, ...], ...] = "hybrid"
    """Stage plan: a name of `backbone.plans` or the blocks of each stage, counted from 1."""

    aggregation: str = "nga"
    """How a stage sums its blocks: nga, free, mean or last."""

    sigma: float = 1.0
    """Width of the NGA Gaussian at the start, in blocks."""

    prompts: int = 50
    """Prompt tokens that enter once, before the first block."""

    prompt_init: str = "uniform"
    """`uniform` (random) or `neutral` (no effect at the start)."""

    consistency: float = 0.1
    """Weight of the stage-consistency loss in the objective."""

    distribution_share: float = 0.8
    """With targets: share of the distribution in the joint target, the rest is the class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("aggregation", self.aggregation, AGGREGATIONS)
        choice("prompt_init", self.prompt_init, PROMPT_INITS)
        between("sigma", self.sigma, 0, open_low=True)
        between("prompts", self.prompts, 1)
        between("consistency", self.consistency, 0)
        between("distribution_share", self.distribution_share, 0, 1)
