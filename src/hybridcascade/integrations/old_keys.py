"""What the keys and flags of CoOp, Dassl and LaFTer are called here, or why they have no counterpart. Plain tables."""

from __future__ import annotations

__all__ = ["FLAGS", "LAFTER_SCHEDULE", "LEFT_OUT", "RENAMED", "TRAINERS", "TXT_CLS"]

RENAMED: dict[str, str] = {
    "DATALOADER.TRAIN_X.BATCH_SIZE": "image.batch_size",
    "DATALOADER.NUM_WORKERS": "workers",
    "OPTIM.MAX_EPOCH": "image.epochs",
    "OUTPUT_DIR": "out",
    "LABEL_FREE.PRECISION": "precision",
    "LABEL_FREE.TEXT_MODE": "text_mode",
    "LABEL_FREE.TEMPLATES": "templates",
    "LABEL_FREE.DESCRIPTIONS": "descriptions",
    "LABEL_FREE.TEXT_CACHE": "text_cache",
    "LABEL_FREE.VIEW": "view",
    "LABEL_FREE.TEXT_EPOCHS": "text.epochs",
    "LABEL_FREE.TEXT_LR": "text.lr",
    "LABEL_FREE.TEXT_WEIGHT_DECAY": "text.weight_decay",
    "LABEL_FREE.TEXT_SCHEDULE": "text.schedule",
}
"""Key -> key of a recipe that means the same."""

_WEIGHTS = "comes with the CLIP weights"
_DATA = "say where the pictures are: --data (a split_zhou file becomes a manifest: hybridcascade convert SPLIT.json)"
_ROWS = "label-free training takes every picture; to take some, keep their rows of the manifest"
_LAST = "the last epoch is tested, once, by `hybridcascade evaluate`"
_PROMPT = "learned words of a text prompt: texts are fixed here, and the vision tower is tuned"
_OPTIMIZER = "AdamW is the optimiser here"
_RUN = "a run folder has logs, checkpoints and figures without asking"

LEFT_OUT: dict[str, str] = {
    "VERSION": "a number of Dassl's own",
    "DATASET.NAME": _DATA,
    "DATASET.ROOT": _DATA,
    "DATASET.NUM_SHOTS": _ROWS,
    "DATASET.NUM_LABELED": _ROWS,
    "DATASET.VAL_PERCENT": "no validation split is taken: nothing is chosen by labels",
    "DATASET.SUBSAMPLE_CLASSES": "name the classes with --classes, and keep their rows of the manifest",
    "DATASET.SOURCE_DOMAINS": _DATA,
    "DATASET.TARGET_DOMAINS": _DATA,
    "INPUT.SIZE": _WEIGHTS,
    "INPUT.INTERPOLATION": _WEIGHTS,
    "INPUT.PIXEL_MEAN": _WEIGHTS,
    "INPUT.PIXEL_STD": _WEIGHTS,
    "INPUT.RRCROP_SCALE": "a view has its own crop (`view`)",
    "DATALOADER.TEST.BATCH_SIZE": "say it to evaluate: --batch_size",
    "DATALOADER.TEST.SAMPLER": "pictures are tested in their order",
    "DATALOADER.TRAIN_X.SAMPLER": "every picture once an epoch, in an order drawn from the seed",
    "DATALOADER.K_TRANSFORMS": "a plain and a strong view, always",
    "OPTIM.MOMENTUM": _OPTIMIZER,
    "OPTIM.ADAM_BETA1": _OPTIMIZER,
    "OPTIM.ADAM_BETA2": _OPTIMIZER,
    "OPTIM.STAGED_LR": "the method says which parameters train with which share of the rate",
    "TRAIN.PRINT_FREQ": _RUN,
    "TRAIN.CHECKPOINT_FREQ": _RUN,
    "TRAIN.COUNT_ITER": "an epoch is one pass over the pictures",
    "TEST.FINAL_MODEL": _LAST,
    "TEST.SPLIT": "say it to evaluate: --split",
    "TEST.NO_TEST": _LAST,
    "TEST.EVALUATOR": _LAST,
    "TEST.PER_CLASS_RESULT": _LAST,
    "TEST.COMPUTE_CMAT": _LAST,
    "VERBOSE": "--verbose of a command",
    "RESUME": "--resume of `hybridcascade train`",
    "LABEL_FREE.EXPORT": "a run folder holds the model",
    "TRAINER.COOP.N_CTX": _PROMPT,
    "TRAINER.COOP.CSC": _PROMPT,
    "TRAINER.COOP.CTX_INIT": _PROMPT,
    "TRAINER.COOP.CLASS_TOKEN_POSITION": _PROMPT,
    "TRAINER.COCOOP.N_CTX": _PROMPT,
    "TRAINER.COCOOP.CTX_INIT": _PROMPT,
}
"""Key -> why it is not carried over."""

FLAGS: dict[str, str] = {
    "--root": "DATASET.ROOT",
    "--output-dir": "OUTPUT_DIR",
    "--resume": "RESUME",
    "--seed": "SEED",
    "--trainer": "TRAINER.NAME",
    "--backbone": "MODEL.BACKBONE.NAME",
    "--transforms": "INPUT.TRANSFORMS",
    "--batch_size": "DATALOADER.TRAIN_X.BATCH_SIZE",
    "--epochs": "OPTIM.MAX_EPOCH",
    "--txt_epochs": "LABEL_FREE.TEXT_EPOCHS",
    "--lr": "--lr",
    "--txt_cls": "--txt_cls",
    "--zero_shot": "--zero_shot",
    "--workers": "--workers",
    "--scheduler": "--scheduler",
    "--scheduler-epochs": "--scheduler-epochs",
    "--scheduler-gamma": "--scheduler-gamma",
    "--weight-decay": "--weight-decay",
    "--acc-batches": "--acc-batches",
    "--arch": "--arch",
    "--gpt_prompts": "--gpt_prompts",
    "--text_prompts": "--text_prompts",
    "--device": "--device",
    "--exp-name": "--exp-name",
    "--logfolder": "--logfolder",
    "--source-domains": "DATASET.SOURCE_DOMAINS",
    "--target-domains": "DATASET.TARGET_DOMAINS",
    "--config-file": "--config-file",
    "--dataset-config-file": "--dataset-config-file",
    "--head": "--head",
    "--eval-only": "--eval-only",
    "--model-dir": "--model-dir",
    "--load-epoch": "--load-epoch",
    "--no-train": "--no-train",
}
"""Flags of CoOp's `train.py` and LaFTer's `LaFTer.py` -> the key that means the same, or the flag itself."""

_UNREAD = "LaFTer's code does not use it"
LAFTER_SCHEDULE = "LaFTer's training does not follow it: its rate is constant, as schedule none is"
LEFT_OUT |= {
    "--workers": _UNREAD + "; --workers here does",
    "--scheduler": LAFTER_SCHEDULE,
    "--scheduler-epochs": _UNREAD,
    "--scheduler-gamma": _UNREAD,
    "--weight-decay": _UNREAD + ": its weight decay is 0.01, the default here",
    "--acc-batches": _UNREAD + "; --accumulate here does",
    "--arch": _UNREAD + ": the backbone is named in the YAML file",
    "--gpt_prompts": "only stored; --txt_cls decides the texts",
    "--text_prompts": _UNREAD,
    "--device": _UNREAD + "; --device here does",
    "--exp-name": _UNREAD,
    "--logfolder": _RUN,
    "--config-file": "give that file to `hybridcascade convert`",
    "--dataset-config-file": "give that file to `hybridcascade convert`",
    "--head": "the method brings its head",
    "--eval-only": "`hybridcascade evaluate RUN --data ...`",
    "--model-dir": "`hybridcascade evaluate RUN --data ...`",
    "--load-epoch": _LAST,
    "--no-train": "`hybridcascade evaluate RUN --data ...`",
}

TRAINERS: dict[str, tuple[str, str]] = {
    "LaFTer": ("lafter", ""),
    "LaFTerUFT": ("lafter", ""),
    "MultiLayerLaFTer": ("multilayer", ""),
    "HybridCascadeLaFTer": ("hybrid_cascade", ""),
    "ZeroshotCLIP": ("zero_shot", ""),
    "ZeroshotCLIP2": ("zero_shot", "its template ensemble is the default here"),
    "CoOp": ("linear_probe", "CoOp learns a text prompt from labels; the nearest here that learns from labels"),
    "CoCoOp": ("linear_probe", "CoCoOp learns a text prompt from labels; the nearest here that learns from labels"),
}
"""Trainer -> method, and what to know."""

TXT_CLS: dict[str, str] = {"cls_only": "names", "templates_only": "templates", "lafter": "descriptions"}
"""LaFTer's `--txt_cls` -> `text_mode`; `zero_shot` there is a method here."""
