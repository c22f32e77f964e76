"""What a run is made of, as plain dataclasses: the options of the commands and the keys of the recipes.

Nothing here imports torch, so a wrong option is answered at once. Each field is documented by the string
below it (the command line shows it as help), with its unit. Values that contradict each other raise
`SettingsError` when the object is made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridcascade.config_phases import check_phase, check_phase_numbers, phases_of
from hybridcascade.config_targets import check_calibration, check_prior_numbers, check_targets
from hybridcascade.config_use import (
    DEVICES,
    EvaluateConfig,
    PredictConfig,
    at_least,
    check_layout,
    one_of,
    split_names,
)
from hybridcascade.data.priors import DEFAULT_EPSILON, DEFAULT_SIGMA
from hybridcascade.engine.schedules import SCHEDULES
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods import catalogue  # noqa: F401  (registers the methods; imports no torch)
from hybridcascade.methods.registry import method_entry
from hybridcascade.methods.settings import PhaseDefaults, method_settings

__all__ = [
    "BACKBONES",
    "DEVICES",
    "PRECISIONS",
    "TEXT_MODES",
    "TUNES",
    "VIEWS",
    "EvaluateConfig",
    "PhaseSettings",
    "PredictConfig",
    "TrainConfig",
    "at_least",
    "check_backbone",
    "check_layout",
    "check_prior_numbers",
    "one_of",
    "split_names",
]

BACKBONES: dict[str, str] = {
    "nano": "12 blocks for the 64x64 sandbox, in the package: for trying out, not for photographs",
    "ViT-B-32/openai": "151M parameters, 12 blocks, 224x224: the usual start (any MODEL/TAG of open_clip works)",
    "ViT-B-16/openai": "150M parameters, 12 blocks, 224x224: finer patches, about 4x the time",
    "ViT-L-14/openai": "428M parameters, 24 blocks, 224x224: the strongest of OpenAI's at this size",
    "MODEL@FILE": "a local .pt or .safetensors file, such as ViT-B-32@weights.pt",
    "hf-hub:ORG/NAME": "a repository of the Hugging Face hub that open_clip can read",
}
"""Ways to name CLIP weights, with what is behind each."""

VIEWS: dict[str, str] = {
    "none": "no augmentation: the student sees the plain view",
    "lafter": "crop 0.2-1, flip, colour jitter, grey, blur (as LaFTer trains)",
    "affect_safe": "geometry only: colour, brightness and blur carry the emotion",
}
"""Strong views and what each does. A test holds them equal to the data room's."""

TEXT_MODES: dict[str, str] = {
    "auto": "descriptions where a file is given and the method learns from texts, else templates",
    "names": "the class names alone",
    "templates": "the class names in sentence templates",
    "descriptions": "templates and the sentences of --descriptions",
}
TUNES: dict[str, str] = {
    "full": "everything the method trains, the tower's LayerNorms and prompts included",
    "heads": "heads, fusion and alignment alone, on features that are stored once: seconds instead of minutes",
}
"""Ways of tuning, with what each trains."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class PhaseSettings:
    """Numbers of one training phase; what is left out keeps the method's own default."""

    epochs: int | None = None
    """Passes over the pictures; in the text phase one epoch is one step on all texts."""

    lr: float | None = None
    """Highest learning rate of AdamW."""

    weight_decay: float | None = None
    """Weight decay of AdamW, per step and unit of learning rate."""

    batch_size: int | None = None
    """Pictures in a step (the text phase always takes all texts at once)."""

    schedule: str | None = None
    """Learning-rate schedule: none, warmup, cosine, cosine_warmup or multistep."""

    warmup_epochs: float | None = None
    """Length of the linear warm-up, in epochs."""

    milestones: tuple[float, ...] | None = None
    """Epochs at which multistep lowers the learning rate, ascending."""

    gamma: float | None = None
    """Factor of multistep at each milestone, above 0 and at most 1."""

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 0)
        at_least("lr", self.lr, 0)
        at_least("weight_decay", self.weight_decay, 0)
        at_least("batch_size", self.batch_size, 1)
        at_least("warmup_epochs", self.warmup_epochs, 0)
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", self.schedule, SCHEDULES)
        if self.gamma is not None and not 0 < self.gamma <= 1:
            raise SettingsError(f"gamma must be above 0 and at most 1, got {self.gamma}")
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(self.milestones))
            if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) <= 0:
                raise SettingsError(f"milestones must be positive and ascending, got {list(self.milestones)}")

    def given(self) -> dict[str, Any]:
        """Return the numbers that were set, by field name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a training run."""

    data: str | None = None
    """Training pictures: a folder, a folder per class, a .zip, or a manifest (.csv, .parquet, .jsonl).
    Methods that learn from texts alone need none."""

    classes: list[str] | str | None = None
    """Class names: a file (.txt with a name a line, .json, .yaml), or names divided by commas.
    Left out: the names that the data brings (folder names, manifest labels)."""

    method: str = "hybrid_cascade"
    """How to tune; `hybridcascade info` lists the methods."""

    backbone: str = "nano"
    """CLIP weights: nano (in the package), MODEL/TAG such as ViT-B-32/openai, MODEL@FILE, or hf-hub:ORG/NAME."""

    out: str | None = None
    """Run folder to make; it is never overwritten unless --overwrite says so."""

    seed: int = 0
    """Seed of everything drawn at random: 0 or above."""

    descriptions: str | None = None
    """Descriptions of the classes: a JSON file {class: [sentence, ...]} (LaFTer's format), or a set of the package:
    mikels8, ekman6_neutral."""

    templates: str | None = None
    """Sentences for the class names: general, evoked_emotion, or a text file with one a line, {} for the name.
    Left out: what fits the classes."""

    text_mode: str = "auto"
    """Texts to learn from: auto, names, templates or descriptions."""

    text_cache: str = "auto"
    """Folder that keeps encoded texts between runs, `none` for no cache. `auto` is `hybridcascade/texts` in the
    user's cache folder (XDG_CACHE_HOME or ~/.cache; ~/Library/Caches; LOCALAPPDATA): shared by all runs, since the
    files are named by a hash of texts and weights and can only save time, never change a result."""

    tune: str = "full"
    """What trains on pictures: full, or heads: all but the tower and prompts, on features that are stored once (the
    image phase and its numbers are then not used). `hybridcascade info` says which methods can."""

    warm_start: int = 0
    """Epochs of a heads phase before the image phase; 0 for none."""

    feature_cache: str = "auto"
    """Folder that keeps stored features between runs, `none` to keep them in memory. `auto` is `hybridcascade/features`
    in the user's cache folder; what was used longest ago goes when there are more than --feature_gb."""

    feature_gb: float = 8.0
    """Most that stored features may take, on disk or in memory, in 10^9 bytes."""

    view: str | None = None
    """Augmentation of the student's pictures: none, lafter or affect_safe. Left out: what the method asks for."""

    precision: str = "auto"
    """Compute dtype of the frozen weights: auto (bf16 where the hardware has it), fp32, bf16 or fp16."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    devices: int = 1
    """Number of devices to train on."""

    epochs: int | None = None
    """Epochs of the image phase: short for --image.epochs (with --tune heads for --heads.epochs)."""

    batch_size: int | None = None
    """Pictures in a step of the image phase: short for --image.batch_size (with --tune heads
    for --heads.batch_size)."""

    lr: float | None = None
    """Learning rate of every phase; --text.lr, --heads.lr and --image.lr go before it."""

    schedule: str | None = None
    """Schedule of every phase; --text.schedule, --heads.schedule and --image.schedule go before it."""

    text: PhaseSettings = field(default_factory=PhaseSettings)
    """Text phase: the classifier learns from sentences"""

    heads: PhaseSettings = field(default_factory=PhaseSettings)
    """Heads phase: heads, fusion and alignment learn from stored features (--tune heads, --warm_start)"""

    image: PhaseSettings = field(default_factory=PhaseSettings)
    """Image phase: the model learns from pictures"""

    settings: dict[str, Any] = field(default_factory=dict)
    """The method's own numbers; on the command line `--set key=value`, as often as needed."""

    use_labels: bool = False
    """Learn from the labels, votes or probabilities of the data too, where the method can (joint target).
    Pictures without any stay unlabelled."""

    targets: str = "auto"
    """What to learn from: auto (votes where there are any, else the label), votes or labels."""

    space: str | None = None
    """Emotion space of the classes: mikels8, ekman6, ekman6_neutral, ferplus8, or a YAML file of your own."""

    ring: str | None = None
    """Ring of a space that has none agreed on: a candidate's name (mikels_induced, mikels_alias), or the classes
    in cyclic order, divided by commas."""

    prior: str | None = None
    """Distribution that a label stands for: none, wheel, wheel_polarity, exclusion or smoothing. Left out:
    wheel_polarity with --space, else none."""

    prior_sigma: float = DEFAULT_SIGMA
    """Width of the prior, in steps on the ring."""

    prior_epsilon: float = DEFAULT_EPSILON
    """Floor of the prior, which all classes divide among them."""

    vote_smoothing: float = 0.0
    """Votes added to every class before they become a distribution."""

    shots: int | None = None
    """Learn from the labels of this many pictures a class only, chosen by a hash of seed and id."""

    label_share: float | None = None
    """Learn from the labels of this share of the labelled pictures only, chosen by a hash of seed and id."""

    split: str | None = None
    """Pictures to train on, by the `split` of the data; left out: all."""

    calibrate: str | None = None
    """Labelled split, such as val, on which a temperature is fitted after the training: supervised calibration. It is
    saved with the model and told wherever the model is used. Left out: no label is read for it."""

    watch: int = 128
    """Training pictures on which a criterion without labels is measured after each epoch, to tell when tuning
    drifts; 0 for none."""

    choose_epoch: str = "last"
    """Epoch whose weights are kept: last, or criterion (the best one by the criterion without labels)."""

    workers: int = 0
    """Processes that decode pictures beside the training process."""

    accumulate: int = 1
    """Steps whose gradients are added before the weights move."""

    gradient_clip: float | None = None
    """Largest norm of the gradient; left out: not clipped."""

    strict: bool = False
    """Stop at the first picture that cannot be read, instead of skipping and counting it."""

    allow_outside: bool = False
    """Let a manifest point to pictures outside its own folder."""

    format: str = "auto"
    """Layout of the data: auto, none, or a published data set with its options, such as emotion6@classes=6;
    `hybridcascade data formats` lists them."""

    make_split: str | None = None
    """Split for data that has none, by a hash of each picture's id: hash:0.8 (train, test), hash:0.7,0.1 (with val)."""

    resume: bool = False
    """Go on with the run in --out from its last checkpoint."""

    overwrite: bool = False
    """Replace the run in --out."""

    def __post_init__(self) -> None:
        entry = method_entry(self.method)
        check_backbone(self.backbone)
        one_of("text mode", self.text_mode, TEXT_MODES)
        one_of("precision", self.precision, PRECISIONS)
        one_of("device", self.device, DEVICES)
        one_of("way of tuning", self.tune, TUNES)
        check_layout(self.format, self.make_split)
        if self.view is not None:
            one_of("view", self.view, VIEWS)
        PhaseSettings(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, schedule=self.schedule)  # checks them
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        at_least("watch", self.watch, 0)
        one_of("choose_epoch", self.choose_epoch, ("last", "criterion"))
        at_least("devices", self.devices, 1)
        at_least("accumulate", self.accumulate, 1)
        at_least("warm_start", self.warm_start, 0)
        if not self.feature_gb > 0:
            raise SettingsError(f"feature_gb must be above 0, got {self.feature_gb}")
        self._check_combinations(entry.images)
        check_targets(
            self.learns_from_labels, self.targets, self.space, self.ring, self.prior, self.prior_sigma,
            self.prior_epsilon, self.vote_smoothing, self.shots, self.label_share,
        )  # fmt: skip
        check_calibration(self.calibrate, self.split, self.data)
        for phase, numbers in self.phases().items():
            check_phase(phase, numbers)

    def _check_combinations(self, images: str) -> None:
        if self.choose_epoch == "criterion" and not self.watch:
            raise SettingsError("--choose_epoch criterion needs pictures to measure it on: --watch 128")
        if self.resume and self.overwrite:
            raise SettingsError("--resume and --overwrite contradict each other: go on with the run, or replace it")
        if self.resume and not self.out:
            raise SettingsError("--resume needs --out with the run folder to go on with")
        if self.text_mode == "descriptions" and not self.descriptions:
            raise SettingsError(
                "text mode 'descriptions' needs --descriptions: mikels8, ekman6_neutral, or a JSON file"
            )
        if self.descriptions and self.text_mode in ("names", "templates"):
            raise SettingsError(f"--descriptions is given, but text mode {self.text_mode!r} does not read it")
        if self.use_labels and not hasattr(method_settings(self.method), "distribution_share"):
            raise SettingsError(f"method {self.method!r} cannot learn from labels: drop --use_labels")
        if images != "none" and not self.data:
            raise SettingsError(f"method {self.method!r} learns from pictures: say where they are with --data")
        if not self.data and not self.classes:
            raise SettingsError("without --data the classes must be named: --classes classes.txt or --classes awe,fear")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise SettingsError(f"gradient_clip must be above 0, got {self.gradient_clip}")

    @property
    def learns_from_labels(self) -> bool:
        """Whether the training pictures need targets."""
        return self.use_labels or method_entry(self.method).images == "targets"

    def phases(self) -> dict[str, PhaseDefaults]:
        """Return the numbers of each phase of the method: its defaults with what was set laid over them.

        Raises:
            SettingsError: numbers were set for a phase that the method does not have.
        """
        short = {k: v for k, v in (("epochs", self.epochs), ("batch_size", self.batch_size)) if v is not None}
        own = {"text": self.text.given(), "heads": self.heads.given(), "image": self.image.given()}
        defaults = phases_of(self.method, self.tune, self.warm_start, own["heads"])
        last = "heads" if self.tune == "heads" else "image"
        own[last] = short | own[last]
        check_phase_numbers(self.method, defaults, own, self.tune)
        shared = {k: v for k, v in (("lr", self.lr), ("schedule", self.schedule)) if v is not None}
        return {phase: dataclasses.replace(base, **shared | own[phase]) for phase, base in defaults.items()}

    def resolved(self) -> dict[str, Any]:
        """Return the whole configuration as plain values, phases filled in: what `config.yaml` of a run holds."""
        plain = dataclasses.asdict(self)
        phases = {name: dataclasses.asdict(numbers) for name, numbers in self.phases().items()}
        for numbers in phases.values():
            numbers["milestones"] = list(numbers["milestones"])
        for short in ("epochs", "batch_size", "lr", "schedule", "resume", "overwrite"):
            plain.pop(short)
        plain |= {name: phases.get(name, {}) for name in ("text", "heads", "image")}
        return plain


def check_backbone(name: str) -> None:
    """Raise `SettingsError` for a slip of the pen at once; whether weights exist only the backbone room knows."""
    model, at, file = name.partition("@")
    if at and not Path(file).is_file():
        raise SettingsError(f"backbone {name!r}: there is no file {file!r}")
    if at or name == "nano" or name.startswith("hf-hub:"):
        return
    model, slash, tag = name.rpartition("/")
    if not (model and slash and tag):
        raise UnknownNameError("backbone", name, BACKBONES, "A model of open_clip needs its tag: MODEL/TAG.")
