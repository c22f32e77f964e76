"""Numbers of `cascade_clip`."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.errors import SettingsError
from hybridcascade.methods.numbers.base import AGGREGATIONS, PROMPT_INITS, between, choice

__all__ = ["CascadeClipSettings"]


@dataclass(frozen=True)
class CascadeClipSettings:
    """Numbers of `cascade_clip`: text-image decoders, one a stage, summed."""

    input_alignment: float = 1.0
    """How far the mean and spread of each colour of the training pictures are taken to what the weights expect,
    0 for not at all. Weaker by itself where few classes are seen, or where the weights' record is silent."""

    plan: str | tuple[tuple[int, ...], ...] = "cascade_clip"
    """Stage plan: a name of `backbone.plans` or the blocks of each stage, counted from 1."""

    aggregation: str = "nga"
    """How a stage sums its blocks: nga, free (Cascade-CLIP's own: a learned weight a block), mean or last."""

    sigma: float = 1.0
    """Width of the Gaussian that the block weights start from, in blocks."""

    mixing_lr_scale: float = 10.0
    """Learning rate of sigmas or block weights over the phase's: few numbers that have far to go."""

    decoder_layers: int = 3
    """Layers of each decoder."""

    decoder_width: int = 0
    """Width of the decoders, a multiple of `decoder_heads`; 0 for half of the embedding, to the nearest multiple."""

    decoder_heads: int = 8
    """Attention heads of each layer."""

    feed_forward: int = 0
    """Inner width of the feed-forward parts; 0 for twice the decoder's width."""

    readout: str = "vector"
    """How a decoder gives a logit: vector (a learned vector on its output), mean or logsumexp (of the last
    layer's scores over the patches, the map that Cascade-CLIP segments by)."""

    start: str = "zero_shot"
    """zero_shot: the decoders correct the balanced zero-shot prediction and start near silence; alone: they
    are all there is, as in Cascade-CLIP, and start at random."""

    class_bias: bool = True
    """For start=zero_shot: a learned number a class beside the zero-shot scores, started at Sinkhorn's balance."""

    prompts: int = 0
    """Prompt tokens that enter once, before the first block; 0 for none, and no gradient through the tower."""

    prompt_init: str = "neutral"
    """`neutral` (no effect at the start) or `uniform` (random)."""

    train_layer_norms: str = "none"
    """Which LayerNorms of the vision tower train: all, last_half or none."""

    teacher: str = "frozen"
    """frozen (labels once, before training), or mixed each epoch with the live or the ema model."""

    teacher_views: int = 6
    """Views of a picture that the frozen teacher averages over, 1 to 6: itself, its mirror image, four crops."""

    teacher_share: float = 0.5
    """For live and ema: share of the frozen teacher's logits that stays in the mixture."""

    ema_decay: float = 0.99
    """For ema: share of the old average that a step keeps."""

    labels: str = "sinkhorn"
    """How teacher logits become labels: sinkhorn (balanced over the data set), softmax or argmax (LaFTer's)."""

    sinkhorn_epsilon: float = 0.0
    """Temperature of CLIP's logits in softmax and sinkhorn labels, and of the zero-shot scores in the prediction.
    0 finds it: as sure on average as CLIP is with class names alone."""

    prior: str = "adaptive"
    """Class shares that Sinkhorn aims at: uniform; or adaptive, equal where all classes seem to be there and else
    nearer to the shares that the teacher sees."""

    prior_power: float = 0.0
    """For prior=uniform: 0 for equal shares, 1 for the teacher's own, between them a mixture."""

    label_smoothing: float = 0.0
    """Share of the uniform distribution in the target."""

    predict_views: int = 6
    """Views of a picture that a prediction averages over, 1 to 6; 1 is six times as fast."""

    distribution_share: float = 0.8
    """With targets: share of the distribution in the joint target, the rest is the class."""

    def __post_init__(self) -> None:
        choice("aggregation", self.aggregation, AGGREGATIONS)
        choice("readout", self.readout, ("vector", "mean", "logsumexp"))
        choice("start", self.start, ("zero_shot", "alone"))
        choice("prompt_init", self.prompt_init, PROMPT_INITS)
        choice("train_layer_norms", self.train_layer_norms, ("all", "last_half", "none"))
        choice("teacher", self.teacher, ("frozen", "live", "ema"))
        choice("labels", self.labels, ("sinkhorn", "softmax", "argmax"))
        choice("prior", self.prior, ("uniform", "adaptive"))
        if self.prior != "uniform" and self.prior_power:
            raise SettingsError(f"expected prior_power 0 with prior={self.prior}, got {self.prior_power}")
        for key in ("sigma", "mixing_lr_scale"):
            between(key, getattr(self, key), 0, open_low=True)
        for key in ("decoder_layers", "decoder_heads"):
            between(key, getattr(self, key), 1)
        for key in ("prompts", "decoder_width", "feed_forward", "sinkhorn_epsilon"):
            between(key, getattr(self, key), 0)
        if self.decoder_width % self.decoder_heads:
            raise SettingsError(
                f"expected decoder_width to be a multiple of decoder_heads, got {self.decoder_width} "
                f"and {self.decoder_heads}"
            )
        for key in ("teacher_views", "predict_views"):
            between(key, getattr(self, key), 1, 6)
        for key in ("input_alignment", "teacher_share", "prior_power", "distribution_share"):
            between(key, getattr(self, key), 0, 1)
        for key in ("label_smoothing", "ema_decay"):
            between(key, getattr(self, key), 0, 0.99999)
