"""Numbers of `hybrid_cascade`."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.errors import SettingsError
from hybridcascade.methods.numbers.base import AGGREGATIONS, POOLS, PROMPT_INITS, between, choice

__all__ = ["HybridCascadeSettings"]


@dataclass(frozen=True)
class HybridCascadeSettings:
    """Numbers of `hybrid_cascade`; every part can be switched off or exchanged for ablation."""

    input_alignment: float = 1.0
    """How far the mean and spread of each colour of the training pictures are taken to what the weights expect,
    0 for not at all. Weaker by itself where few classes are seen, or where the weights' record is silent."""

    plan: str | tuple[tuple[int, ...], ...] = "hybrid"
    """Stage plan: a name of `backbone.plans` or the blocks of each stage, counted from 1. The last block
    always is a stage of its own, on CLIP's own path; `last` is that stage alone."""

    pool: str = "both"
    """What the shallower stages read: cls, patch (mean of the patch tokens) or both (averaged)."""

    aggregation: str = "nga"
    """How a stage sums its blocks: nga, free, mean or last."""

    sigma: float = 1.0
    """Width of the NGA Gaussian at the start, in blocks."""

    sigma_per_layer: bool = False
    """Learn a sigma for each block instead of one for each stage."""

    fusion: str = "learned"
    """Stage weights: learned, or fixed to uniform (the mean) or last (CLIP's own path alone), or agreement: at each
    epoch anew from how well each stage agrees with the balanced labels of all together."""

    fusion_start: str = "last"
    """For fusion=learned: stage weights at the start, last or uniform."""

    fusion_gap: float = 5.0
    """For fusion_start=last: the last stage's weight is exp(gap) times another's at the start."""

    fusion_lr_scale: float = 20.0
    """Learning rate of stage weights and sigmas over the phase's: few numbers that have far to go."""

    alignment_lr_scale: float = 3.0
    """Learning rate of the stages' alignment over the phase's: it starts far from the text space."""

    heads: str = "per_stage"
    """One head for all stages (shared) or one a stage (per_stage)."""

    head_start: str = "prototypes"
    """Class vectors at the start of the image phase: prototypes (mean texts) or text (text-trained)."""

    train_head: bool = True
    """Whether the head trains on pictures."""

    class_bias: bool = True
    """Give the head a class bias that starts at Sinkhorn's balance, so that the student starts balanced."""

    train_logit_scale: bool = False
    """Whether the factor on the cosine trains; it is used in prediction too."""

    adapter_rank: int = 0
    """Rank of a residual adapter before the head, the identity at the start; 0 for none."""

    train_layer_norms: str = "all"
    """Which LayerNorms of the vision tower train: all, last_half or none."""

    prompts: int = 0
    """Prompt tokens that enter once, before the first block; 0 for none."""

    prompt_init: str = "neutral"
    """`neutral` (no effect at the start) or `uniform` (random)."""

    teacher: str = "frozen"
    """frozen (labels once, before training), or mixed each epoch with the live or the ema model."""

    teacher_source: str = "zero_shot"
    """The frozen teacher: zero_shot, text_head (text-trained), or the ensemble of both."""

    teacher_views: int = 6
    """Views of a picture that the frozen teacher averages over, 1 to 6: itself, its mirror image, four crops."""

    predict_views: int = 6
    """Views of a picture that a prediction averages over, 1 to 6; 1 is six times as fast."""

    teacher_share: float = 0.5
    """For live and ema: share of the frozen teacher's logits that stays in the mixture."""

    ema_decay: float = 0.99
    """For ema: share of the old average that a step keeps."""

    labels: str = "sinkhorn"
    """How teacher logits become labels: sinkhorn (balanced over the data set), softmax, argmax, topk (the surest of
    each class), prototype (texts and pictures vote) or anchored_mixture (Gaussians held by the texts)."""

    prior: str = "adaptive"
    """Class shares that Sinkhorn aims at: uniform; estimated from the pictures, for classes rare or missing; or
    adaptive, equal where all classes seem to be there and else nearer to the shares that the teacher sees."""

    neighbours: int = 0
    """Smooth the teacher over so many nearest pictures before it labels; 0 for not at all."""

    neighbour_share: float = 0.5
    """Part of the neighbours in a smoothed prediction."""

    top_share: float = 0.2
    """For labels=topk: pictures that a class chooses, as a share of those it has on average."""

    sinkhorn_epsilon: float = 0.0
    """Temperature of CLIP's logits in softmax and sinkhorn labels, and of the student at its start. 0 finds it: as
    sure on average as CLIP is with class names alone. Descriptions make CLIP surer than it is right."""

    prior_power: float = 0.0
    """For prior=uniform: 0 for equal shares, 1 for the teacher's own, between them a mixture."""

    wheel: float = 0.0
    """Share of each label that goes to the classes near it on the ring of the emotion space (--space); 0 for none."""

    polarity_gate: float = 0.0
    """How strongly a label takes from the side, pleasant or unpleasant, that it says less of; 0 for not at all."""

    label_temperature: float = 1.0
    """Labels are raised to 1 / temperature and renormalised; below 1 sharpens."""

    label_smoothing: float = 0.0
    """Share of the uniform distribution in the target."""

    stage_loss: float = 1.0
    """Weight of the mean cross-entropy of the single stages, which trains their alignment."""

    consistency: float = 0.1
    """Weight of the stage-consistency loss; the deeper stage's side is detached."""

    fairness: float = 0.0
    """Weight of the term that keeps a batch's mean prediction over all classes."""

    distribution_share: float = 0.8
    """With targets: share of the distribution in the joint target, the rest is the class."""

    noise_std: float = 0.1
    """Text phase: standard deviation of the noise on each dimension of a unit text feature."""

    text_smoothing: float = 0.1
    """Text phase: share of the uniform distribution in the target."""

    def __post_init__(self) -> None:
        self._check_choices()
        for key in ("sigma", "fusion_gap", "label_temperature"):
            between(key, getattr(self, key), 0, open_low=True)
        for key in ("fusion_lr_scale", "alignment_lr_scale"):
            between(key, getattr(self, key), 0, open_low=True)
        between("teacher_views", self.teacher_views, 1, 6)
        between("predict_views", self.predict_views, 1, 6)
        between("top_share", self.top_share, 0, 0.99999, open_low=True)
        if self.prior != "uniform" and self.prior_power:
            raise SettingsError(f"expected prior_power 0 with prior={self.prior}, got {self.prior_power}")
        for key in (
            "prompts",
            "adapter_rank",
            "neighbours",
            "sinkhorn_epsilon",
            "polarity_gate",
            "stage_loss",
            "consistency",
            "fairness",
            "noise_std",
        ):
            between(key, getattr(self, key), 0)
        shares = ("input_alignment", "wheel", "teacher_share", "prior_power", "neighbour_share", "distribution_share")
        for key in shares:
            between(key, getattr(self, key), 0, 1)
        for key in ("label_smoothing", "text_smoothing", "ema_decay"):
            between(key, getattr(self, key), 0, 0.99999)

    def _check_choices(self) -> None:
        choice("pool", self.pool, POOLS)
        choice("aggregation", self.aggregation, AGGREGATIONS)
        choice("fusion_start", self.fusion_start, ("last", "uniform"))
        choice("heads", self.heads, ("shared", "per_stage"))
        choice("head_start", self.head_start, ("prototypes", "text"))
        choice("train_layer_norms", self.train_layer_norms, ("all", "last_half", "none"))
        choice("prompt_init", self.prompt_init, PROMPT_INITS)
        choice("teacher", self.teacher, ("frozen", "live", "ema"))
        choice("teacher_source", self.teacher_source, ("zero_shot", "text_head", "ensemble"))
        choice("labels", self.labels, ("sinkhorn", "softmax", "argmax", "topk", "prototype", "anchored_mixture"))
        choice("prior", self.prior, ("uniform", "adaptive", "estimated"))
        choice("fusion", self.fusion, ("learned", "uniform", "last", "agreement"))
