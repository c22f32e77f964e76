"""The numbers of every method, without torch, so that a wrong `--set key=value` is answered at once.

One frozen dataclass a method; its field names are the keywords of the method's constructor and its
defaults are the method's defaults. `default_phases` has the numbers of the training phases, which are
the engine's and not the method's.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "SETTINGS",
    "HybridCascadeSeedSettings",
    "HybridCascadeSettings",
    "LafterSettings",
    "LinearProbeSettings",
    "PhaseDefaults",
    "TextOnlySettings",
    "ZeroShotSettings",
    "default_phases",
    "default_view",
    "method_settings",
]

POOLS = ("cls", "patch", "both")
AGGREGATIONS = ("nga", "free", "mean", "last")
PROMPT_INITS = ("uniform", "neutral")


@dataclass(frozen=True)
class PhaseDefaults:
    """Numbers of one training phase."""

    epochs: int
    """Passes over the pictures; in the text phase an epoch is one step on all texts."""

    lr: float
    """Highest learning rate of AdamW."""

    weight_decay: float
    """Decoupled weight decay of AdamW, per unit of learning rate and step."""

    batch_size: int
    """Pictures a step; the text phase takes all texts at once."""

    schedule: str = "none"
    """Learning-rate schedule, a name of `engine.schedules`."""

    warmup_epochs: float = 3.0
    """Epochs of linear warm-up from a tenth, for the schedules that have one."""

    milestones: tuple[float, ...] = ()
    """Epochs at which `multistep` lowers the rate."""

    gamma: float = 0.1
    """Factor of `multistep` at each milestone."""


def _choice(key: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UnknownNameError(key.replace("_", " "), value, valid)


def _between(key: str, value: float, low: float, high: float = float("inf"), open_low: bool = False) -> None:
    fits = (low < value if open_low else low <= value) and value <= high
    if not fits:
        bracket = "(" if open_low else "["
        end = "infinity)" if high == float("inf") else f"{high:g}]"
        raise SettingsError(f"expected {key} in {bracket}{low:g}, {end}, got {value}")


@dataclass(frozen=True)
class ZeroShotSettings:
    """`zero_shot` has no numbers of its own."""


@dataclass(frozen=True)
class TextOnlySettings:
    """Numbers of `text_only`."""

    noise_std: float = 0.1
    """Standard deviation of the Gaussian noise added to each dimension of a unit text feature."""

    label_smoothing: float = 0.1
    """Share of the uniform distribution in the target."""

    def __post_init__(self) -> None:
        _between("noise_std", self.noise_std, 0)
        _between("label_smoothing", self.label_smoothing, 0, 0.999)


@dataclass(frozen=True)
class LafterSettings(TextOnlySettings):
    """Numbers of `lafter`; the defaults are LaFTer's own, as its code has them."""

    preset: str = "faithful"
    """`faithful` pins the numbers below to LaFTer's; `custom` lets them be changed."""

    prompts: int = 50
    """Prompt tokens that enter once, before the first block."""

    prompt_init: str = "uniform"
    """`uniform` (random, LaFTer's) or `neutral` (no effect at the start)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("preset", self.preset, ("faithful", "custom"))
        _choice("prompt_init", self.prompt_init, PROMPT_INITS)
        _between("prompts", self.prompts, 1)
        if self.preset != "faithful":
            return
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                raise SettingsError(
                    f"{field.name}={getattr(self, field.name)!r} contradicts preset='faithful', which has "
                    f"{field.default!r}; set preset=custom to change it"
                )


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
        _choice("aggregation", self.aggregation, AGGREGATIONS)
        _choice("prompt_init", self.prompt_init, PROMPT_INITS)
        _between("sigma", self.sigma, 0, open_low=True)
        _between("prompts", self.prompts, 1)
        _between("consistency", self.consistency, 0)
        _between("distribution_share", self.distribution_share, 0, 1)


@dataclass(frozen=True)
class HybridCascadeSettings:
    """Numbers of `hybrid_cascade`; every part can be switched off or exchanged for ablation."""

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

    fusion_start: str = "uniform"
    """Stage weights at the start: last or uniform."""

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

    teacher: str = "ema"
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
    """How teacher logits become labels: sinkhorn (balanced over the data set), softmax or argmax."""

    sinkhorn_epsilon: float = 2.0
    """Temperature of CLIP's logits in softmax and sinkhorn labels, and of the student at its start.
    Descriptions make CLIP surer than it is right: above 1 the distributions are calibrated better."""

    prior_power: float = 0.0
    """Class shares that Sinkhorn aims at: 0 for equal shares, 1 for the teacher's own."""

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
        for key in ("sigma", "fusion_gap", "sinkhorn_epsilon", "label_temperature"):
            _between(key, getattr(self, key), 0, open_low=True)
        for key in ("fusion_lr_scale", "alignment_lr_scale"):
            _between(key, getattr(self, key), 0, open_low=True)
        _between("teacher_views", self.teacher_views, 1, 6)
        _between("predict_views", self.predict_views, 1, 6)
        for key in ("prompts", "adapter_rank", "stage_loss", "consistency", "fairness", "noise_std"):
            _between(key, getattr(self, key), 0)
        for key in ("teacher_share", "prior_power", "distribution_share"):
            _between(key, getattr(self, key), 0, 1)
        for key in ("label_smoothing", "text_smoothing", "ema_decay"):
            _between(key, getattr(self, key), 0, 0.99999)

    def _check_choices(self) -> None:
        _choice("pool", self.pool, POOLS)
        _choice("aggregation", self.aggregation, AGGREGATIONS)
        _choice("fusion_start", self.fusion_start, ("last", "uniform"))
        _choice("heads", self.heads, ("shared", "per_stage"))
        _choice("head_start", self.head_start, ("prototypes", "text"))
        _choice("train_layer_norms", self.train_layer_norms, ("all", "last_half", "none"))
        _choice("prompt_init", self.prompt_init, PROMPT_INITS)
        _choice("teacher", self.teacher, ("frozen", "live", "ema"))
        _choice("teacher_source", self.teacher_source, ("zero_shot", "text_head", "ensemble"))
        _choice("labels", self.labels, ("sinkhorn", "softmax", "argmax"))


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
        _choice("stages", self.stages, ("last", "all"))
        _choice("pool", self.pool, POOLS)
        _between("distribution_share", self.distribution_share, 0, 1)


_TEXT_PHASE = PhaseDefaults(epochs=400, lr=5e-4, weight_decay=0.01, batch_size=1)
_IMAGE_PHASE = PhaseDefaults(epochs=50, lr=5e-4, weight_decay=0.01, batch_size=50)
_OWN_TEXT_PHASE = PhaseDefaults(epochs=0, lr=5e-4, weight_decay=0.01, batch_size=1)
_OWN_IMAGE_PHASE = PhaseDefaults(epochs=5, lr=1e-3, weight_decay=0.01, batch_size=50, schedule="cosine")
_PROBE_PHASE = PhaseDefaults(epochs=100, lr=2e-3, weight_decay=0.01, batch_size=512, schedule="cosine")

SETTINGS: dict[str, tuple[type[Any], dict[str, PhaseDefaults], str]] = {
    "zero_shot": (ZeroShotSettings, {}, "none"),
    "text_only": (TextOnlySettings, {"text": _TEXT_PHASE}, "none"),
    "lafter": (LafterSettings, {"text": _TEXT_PHASE, "image": _IMAGE_PHASE}, "lafter"),
    "hybrid_cascade_seed": (HybridCascadeSeedSettings, {"text": _TEXT_PHASE, "image": _IMAGE_PHASE}, "lafter"),
    "hybrid_cascade": (HybridCascadeSettings, {"text": _OWN_TEXT_PHASE, "image": _OWN_IMAGE_PHASE}, "affect_safe"),
    "linear_probe": (LinearProbeSettings, {"image": _PROBE_PHASE}, "none"),
}
"""Settings, phase numbers and strong view of each method."""


def _entry(method: str) -> tuple[type[Any], dict[str, PhaseDefaults], str]:
    if method not in SETTINGS:
        raise UnknownNameError("method", method, SETTINGS)
    return SETTINGS[method]


def default_phases(method: str) -> dict[str, PhaseDefaults]:
    """Return the numbers of each phase of `method`, in order; empty for one that trains nothing.

    Raises:
        UnknownNameError: no such method.
    """
    return dict(_entry(method)[1])


def default_view(method: str) -> str:
    """Return the strong view that `method` trains on when nothing else is said."""
    return _entry(method)[2]


def method_settings(method: str, given: Mapping[str, Any] | None = None) -> Any:
    """Build the settings of `method` from its defaults and what was given.

    Args:
        method: registry key.
        given: values by field name, as YAML or the command line gives them.

    Returns:
        The method's frozen settings dataclass; `dataclasses.asdict` of it are constructor keywords.

    Raises:
        UnknownNameError: no such method, setting or choice; the message lists the valid ones.
        SettingsError: a value of the wrong type, out of range, or contradicting another.
    """
    kind = _entry(method)[0]
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in (given or {}).items():
        if key not in hints:
            raise UnknownNameError(f"setting of {method}", key, hints)
        values[key] = _as_type(key, value, hints[key])
    return kind(**values)


def _as_type(key: str, value: Any, wanted: Any) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (int, float, bool, str):
        if type(value) is not wanted:
            raise SettingsError(f"expected {key} to be a {wanted.__name__}, got {value!r}")
        return value
    if isinstance(value, str):
        return value
    try:  # what is left is a stage plan
        return tuple(tuple(int(block) for block in stage) for stage in value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"expected {key} to be a plan's name or lists of blocks, got {value!r}") from error
