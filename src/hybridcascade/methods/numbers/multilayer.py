"""Numbers of `multilayer`."""

from __future__ import annotations

from dataclasses import dataclass

from hybridcascade.methods.numbers.base import AGGREGATIONS, PROMPT_INITS, between, choice

__all__ = ["MultiLayerSettings"]


@dataclass(frozen=True)
class MultiLayerSettings:
    """Numbers of `multilayer`.

    Learning rates are factors on the image phase's rate: at its default of 5e-4 prompts train at 1e-4 and NGA
    at 1e-5, as the documents of the method have it.
    """

    input_alignment: float = 1.0
    """How far the mean and spread of each colour of the training pictures are taken to what the weights expect,
    0 for not at all. Weaker by itself where few classes are seen, or where the weights' record is silent."""

    plan: str | tuple[tuple[int, ...], ...] = "multilayer"
    """Segments: a name of `backbone.plans` or the blocks of each segment, counted from 1."""

    prompts: int = 16
    """Prompt tokens of each segment's own, which enter at its first block."""

    earlier_prompts: str = "replaced"
    """Whether the tokens of earlier segments are `replaced` by a segment's own, or `kept` beside them."""

    prompt_init: str = "cls"
    """`cls` (random numbers beside the mean CLS token of the training pictures at the place where the prompts enter),
    `uniform` (the random numbers alone) or `neutral` (no effect at the start; adds a gate for each block and head)."""

    aggregation: str = "nga"
    """How a segment sums its blocks: nga, free, mean or last."""

    sigma: float = 1.0
    """Width of the NGA Gaussian at the start, in blocks."""

    fusion_start: str = "last"
    """Segment weights at the start: last or uniform."""

    fusion_gap: float = 3.0
    """For fusion_start=last: the last segment's weight is exp(gap) times another's at the start."""

    consistency: float = 0.1
    """Weight of the consistency of neighbouring segments (the documents' CONSISTENCY_LOSS.ALPHA)."""

    segment_loss: float = 1.0
    """Weight of the mean cross-entropy of the single shallower segments, which trains their alignment."""

    progressive: bool = True
    """Unfreeze from the deepest segment to the shallowest, then the rest; False trains everything at once."""

    unfreeze_share: float = 0.5
    """Share of the image phase after which everything trains; below 1. For progressive."""

    head_start: str = "prototypes"
    """Class vectors at the start of the image phase: prototypes (mean texts) or text (text-trained)."""

    class_bias: bool = True
    """Give the head a class bias that starts at Sinkhorn's balance, so that the student starts balanced."""

    train_layer_norms: bool = True
    """Whether the LayerNorms of the vision tower train, with the last step of the schedule."""

    prompt_lr_scale: float = 0.2
    """Learning rate of the prompts over the phase's."""

    nga_lr_scale: float = 0.02
    """Learning rate of NGA's sigmas over the phase's."""

    fusion_lr_scale: float = 20.0
    """Learning rate of the segment weights over the phase's: few numbers that have far to go."""

    alignment_lr_scale: float = 1.0
    """Learning rate of the segments' alignment over the phase's."""

    labels: str = "sinkhorn"
    """Pseudo-labels: sinkhorn (balanced over the data set), softmax or argmax of a teacher that labels all
    pictures once, before training; or live: LaFTer's, hard labels of each batch from the live LayerNorms."""

    teacher_source: str = "zero_shot"
    """Who labels: text_head (the text-trained head, LaFTer's) or zero_shot (mean texts)."""

    teacher_views: int = 6
    """Views of a picture that the teacher averages over, 1 to 6: itself, its mirror image, four crops."""

    predict_views: int = 6
    """Views of a picture that a prediction averages over, 1 to 6; 1 is six times as fast."""

    sinkhorn_epsilon: float = 0.0
    """Temperature of CLIP's logits in softmax and sinkhorn labels, and of the student at its start. 0 finds it: as
    sure on average as CLIP is with class names alone."""

    prior: str = "adaptive"
    """Class shares that Sinkhorn aims at: uniform; or adaptive, equal where all classes seem to be there and else
    nearer to the shares that the teacher sees."""

    label_smoothing: float = 0.0
    """Share of the uniform distribution in the target of the image phase."""

    distribution_share: float = 0.8
    """With targets: share of the distribution in the joint target, the rest is the class."""

    noise_std: float = 0.1
    """Text phase: standard deviation of the noise on each dimension of a unit text feature."""

    text_smoothing: float = 0.1
    """Text phase: share of the uniform distribution in the target."""

    def __post_init__(self) -> None:
        choice("earlier_prompts", self.earlier_prompts, ("replaced", "kept"))
        choice("prompt_init", self.prompt_init, ("cls", *PROMPT_INITS))
        choice("aggregation", self.aggregation, AGGREGATIONS)
        choice("fusion_start", self.fusion_start, ("last", "uniform"))
        choice("head_start", self.head_start, ("text", "prototypes"))
        choice("labels", self.labels, ("sinkhorn", "softmax", "argmax", "live"))
        choice("teacher_source", self.teacher_source, ("text_head", "zero_shot"))
        for key in ("prompts", "teacher_views", "predict_views"):
            between(key, getattr(self, key), 1, 6 if key.endswith("views") else float("inf"))
        choice("prior", self.prior, ("uniform", "adaptive"))
        between("sinkhorn_epsilon", self.sinkhorn_epsilon, 0)
        between("input_alignment", self.input_alignment, 0, 1)
        for key in ("sigma", "fusion_gap"):
            between(key, getattr(self, key), 0, open_low=True)
        for key in ("prompt", "nga", "fusion", "alignment"):
            between(f"{key}_lr_scale", getattr(self, f"{key}_lr_scale"), 0, open_low=True)
        for key in ("consistency", "segment_loss", "noise_std"):
            between(key, getattr(self, key), 0)
        for key in ("unfreeze_share", "label_smoothing", "text_smoothing"):
            between(key, getattr(self, key), 0, 0.999)
        between("distribution_share", self.distribution_share, 0, 1)
