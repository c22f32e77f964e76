"""Configurations of CoOp, Dassl and LaFTer as recipes of ours: every key is accounted for. Needs no Dassl."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hybridcascade.config import TrainConfig
from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import SettingsError, did_you_mean
from hybridcascade.integrations.keys import METHODS, NODES, backbone_name, read_method
from hybridcascade.integrations.old_keys import FLAGS, LAFTER_SCHEDULE, LEFT_OUT, RENAMED, TRAINERS, TXT_CLS
from hybridcascade.methods.settings import SETTINGS, default_phases
from hybridcascade.recipes import build_config, read_recipe

__all__ = ["ConvertedKey", "ConvertedRecipe", "convert_recipe"]

_GEOMETRY = {"random_resized_crop", "random_crop", "random_flip", "center_crop", "normalize", "instance_norm"}
_COLOUR = {"colorjitter", "randomgrayscale", "gaussian_blur", "autoaugment", "randaugment", "randaugment2",
           "randaugment_fixmatch", "imagenet_policy", "cifar10_policy", "svhn_policy"}  # fmt: skip
_CASCADES = ("HYBRID_CASCADE", "MULTI_LAYER_PROMPT", "NGA", "CONSISTENCY_LOSS")


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one key or flag.

    Attributes:
        key: as written, such as `OPTIM.LR`.
        value: its value.
        became: what it is in the recipe, such as `image.lr: 0.002`; empty when it is not carried over.
        note: why not, or what to know.
        known: whether the key is known at all.
    """

    key: str
    value: Any
    became: str = ""
    note: str = ""
    known: bool = True


@dataclass(frozen=True)
class ConvertedRecipe:
    """A recipe and the account of how it came about.

    Attributes:
        recipe: keys and values, nested.
        keys: one entry for each key that was written, in order.
        sources: names of the files.
        assumed: what was taken because nothing said otherwise; empty when nothing was.
    """

    recipe: dict[str, Any]
    keys: tuple[ConvertedKey, ...]
    sources: tuple[str, ...]
    assumed: str = ""

    @property
    def unknown(self) -> tuple[ConvertedKey, ...]:
        """Keys that nobody here knows: read them yourself."""
        return tuple(key for key in self.keys if not key.known)

    @property
    def left_out(self) -> tuple[ConvertedKey, ...]:
        """Known keys that a recipe does not need or cannot say."""
        return tuple(key for key in self.keys if key.known and not key.became)

    def text(self) -> str:
        """Return the YAML, headed by everything that was not carried over."""
        lines = [f"# Converted from {', '.join(self.sources)}.", *([f"# {self.assumed}."] if self.assumed else [])]
        for title, keys in (("Unknown, not carried over", self.unknown), ("Not carried over", self.left_out)):
            lines += [f"# {title}:"] if keys else []
            lines += [f"#   {key.key}: {key.value!r}{f'  ({key.note})' if key.note else ''}" for key in keys]
        noted = [key for key in self.keys if key.became and key.note]
        lines += ["# To know:"] if noted else []
        lines += [f"#   {key.became}: {key.note}" for key in noted]
        return "\n".join(lines) + "\n" + yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `text` to a file, whole or not at all."""
        write_text(path, self.text())


def convert_recipe(files: Sequence[str | Path], flags: Sequence[str] = ()) -> ConvertedRecipe:
    """Convert configuration files and a command line of CoOp, Dassl or LaFTer to a recipe of ours.

    Args:
        files: YAML files, later ones go before earlier ones, as Dassl merges them.
        flags: the rest of the command line, in words: `["--lr", "0.0005", "OPTIM.MAX_EPOCH", "10"]`.

    Returns:
        The recipe, which `hybridcascade train --config` reads, and what became of each key.

    Raises:
        SettingsError: a file is missing or no YAML mapping, a flag has no value, or the values make no recipe.
    """
    work = _Work()
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise SettingsError(f"{path}: expected a YAML file, found nothing. Check the path")
        work.values |= _flat(read_recipe(path))
    work.values |= _read_flags(flags)
    if not work.values:
        raise SettingsError("nothing to convert: the files and flags hold no key")
    work.convert()
    sources = (*(str(file) for file in files), *(["flags"] if flags else []))
    _check(work.recipe)
    return ConvertedRecipe(work.recipe, tuple(work.keys[key] for key in work.values), sources, work.assumed)


@dataclass
class _Work:
    """A conversion under way: what is still to do, the recipe so far, and the account."""

    values: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, ConvertedKey] = field(default_factory=dict)
    assumed: str = ""

    def convert(self) -> None:
        self._method()
        self._texts()
        for key, value in self.values.items():
            if key in RENAMED and value not in (None, ""):
                self.put(key, RENAMED[key], value)
        self._backbone()
        self._optimizer()
        self._schedule()
        self._rest()
        for key, value in self.values.items():
            if key not in self.keys:
                reason = LEFT_OUT.get(key)
                unset = value in (None, "", []) and key.partition(".")[0] in NODES
                note = reason or ("not set" if unset else f"no such key is known.{did_you_mean(key, _known())}")
                self.keys[key] = ConvertedKey(key, value, "", note, known=reason is not None or unset)

    def put(self, key: str, name: str, value: Any, note: str = "") -> None:
        """Carry a key over, unless it is of a phase that the method does not have."""
        phase = name.partition(".")[0]
        if phase in ("text", "image") and phase not in default_phases(self.recipe["method"]):
            self.leave(key, f"method {self.recipe['method']} has no {phase} phase with such numbers")
            return
        place, (*nodes, leaf) = self.recipe, name.split(".")
        for node in nodes:
            place = place.setdefault(node, {})
        place[leaf] = value
        self.keys[key] = ConvertedKey(key, self.values[key], f"{name}: {value}", note)

    def leave(self, key: str, note: str) -> None:
        """Account for a key that is not carried over."""
        if key in self.values:
            self.keys[key] = ConvertedKey(key, self.values[key], "", note)

    def _method(self) -> None:
        name = self.values.get("TRAINER.NAME")
        if name is None:
            inferred = next(
                (t for t in ("CoOp", "CoCoOp") if any(f"TRAINER.{t.upper()}." in k for k in self.values)), ""
            )
            method = TRAINERS[inferred][0] if inferred else "hybrid_cascade"
            method = "multilayer" if any(k.startswith("MULTI_LAYER_PROMPT.") for k in self.values) else method
            self.recipe["method"] = "lafter" if "--txt_cls" in self.values else method
            self.assumed = f"No trainer was named, so the method is {self.recipe['method']}: choose another if you like"
        elif name in TRAINERS:
            self.put("TRAINER.NAME", "method", *TRAINERS[name])
        else:
            near = did_you_mean(str(name), TRAINERS)
            self.recipe["method"] = "hybrid_cascade"
            note = f"no counterpart of this trainer is known.{near} The recipe takes hybrid_cascade"
            self.keys["TRAINER.NAME"] = ConvertedKey("TRAINER.NAME", name, "", note, known=False)
        if (chosen := self.values.get("HYBRID_CASCADE.METHOD")) and self.recipe["method"] == "hybrid_cascade":
            self.put("HYBRID_CASCADE.METHOD", "method", chosen)
        self._settings()

    def _settings(self) -> None:
        """Read the documents' keys as our trainers read them, and say them as settings."""
        method = self.recipe["method"]
        trainer = next((name for name, methods in METHODS.items() if method in methods), None)
        nodes: dict[str, dict[str, Any]] = {}
        for key, value in self.values.items():
            node, _, leaf = key.partition(".")
            if (node in _CASCADES and leaf in NODES[node]) or key in ("LABEL_FREE.SETTINGS", "OPTIM.LR"):
                nodes.setdefault(node, {})[leaf] = value
        if trainer is None or not any(node != "OPTIM" for node in nodes):
            return
        depth = 24 if "L-14" in str(self.values.get("MODEL.BACKBONE.NAME", "")).replace("/", "-") else 12
        given = read_method(trainer, nodes, depth).given
        if not given:
            return
        self.recipe["settings"] = {key: _plain(value) for key, value in given.items()}
        for node, keys in nodes.items():
            for leaf, value in keys.items():
                if node != "OPTIM" and value not in (None, []) and f"{node}.{leaf}" not in self.keys:
                    key = f"{node}.{leaf}"
                    self.keys[key] = ConvertedKey(key, value, f"settings: {self.recipe['settings']}")

    def _texts(self) -> None:
        if self.values.get("--zero_shot") or self.values.get("--txt_cls") == "zero_shot":
            key = "--zero_shot" if self.values.get("--zero_shot") else "--txt_cls"
            self.put(key, "method", "zero_shot")
            self.recipe.pop("settings", None)
        mode = self.values.get("--txt_cls")
        if mode is None or "--txt_cls" in self.keys:
            return
        if mode not in TXT_CLS:
            self.keys["--txt_cls"] = ConvertedKey("--txt_cls", mode, "", "no such choice", known=False)
        elif mode == "lafter":
            # The recipe must name a file before it may ask for descriptions.
            self.leave("--txt_cls", "name the sentences with --descriptions FILE; templates alone until then")
        else:
            self.put("--txt_cls", "text_mode", TXT_CLS[mode])

    def _backbone(self) -> None:
        key = "MODEL.BACKBONE.NAME"
        if not self.values.get(key):
            return
        try:
            self.put(key, "backbone", backbone_name(str(self.values[key])))
        except SettingsError:
            self.leave(key, "no vision transformer: choose --backbone ViT-B-32/openai or another")

    def _optimizer(self) -> None:
        name = str(self.values.get("OPTIM.NAME", "adamw"))
        adamw = name.startswith("adam")
        if "OPTIM.NAME" in self.values:
            note = "AdamW" if adamw else "AdamW is the optimiser here, so rate and decay of another do not carry over"
            self.leave("OPTIM.NAME", note)
        for key, leaf in (("OPTIM.LR", "lr"), ("OPTIM.WEIGHT_DECAY", "weight_decay")):
            if key in self.values and adamw:
                self.put(key, f"image.{leaf}", float(self.values[key]))
            else:
                self.leave(key, f"of {name}: the method's own number is taken")
        if "--lr" in self.values:  # LaFTer's is of both phases
            self.put("--lr", "lr", float(self.values["--lr"]))

    def _is_lafter(self) -> bool:
        """Whether LaFTer's own code is meant, not the Dassl trainer here, which has keys of its own."""
        own = any(key.startswith("LABEL_FREE.") and key not in FLAGS.values() for key in self.values)
        return self.recipe["method"] == "lafter" and not own

    def _schedule(self) -> None:
        kind = self.values.get("OPTIM.LR_SCHEDULER")
        if self._is_lafter():
            kind = None
            self.leave("OPTIM.LR_SCHEDULER", LAFTER_SCHEDULE)
        warmup = float(self.values.get("OPTIM.WARMUP_EPOCH", 0) or 0)
        epochs = self.values.get("OPTIM.MAX_EPOCH")
        for key in ("OPTIM.WARMUP_TYPE", "OPTIM.WARMUP_CONS_LR", "OPTIM.WARMUP_MIN_LR", "OPTIM.WARMUP_RECOUNT"):
            self.leave(key, "a warm-up here rises linearly from a tenth of the rate")
        if kind == "cosine":
            self._cosine(warmup, epochs)
        elif kind in ("single_step", "multi_step"):
            self._steps(kind, epochs)
        now = self.recipe.get("image", {}).get("schedule", "of the method")
        for key in ("OPTIM.WARMUP_EPOCH", "OPTIM.STEPSIZE", "OPTIM.GAMMA"):
            if key not in self.keys:
                self.leave(key, f"means nothing with the schedule {now}")

    def _cosine(self, warmup: float, epochs: Any) -> None:
        fits = warmup > 0 and (epochs is None or float(epochs) > warmup)
        self.put("OPTIM.LR_SCHEDULER", "image.schedule", "cosine_warmup" if fits else "cosine")
        if fits:
            self.put("OPTIM.WARMUP_EPOCH", "image.warmup_epochs", warmup)

    def _steps(self, kind: str, epochs: Any) -> None:
        sizes = self.values.get("OPTIM.STEPSIZE", -1)
        sizes = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]
        if kind == "single_step":
            last = int(sizes[-1])
            sizes = list(range(last, int(epochs or 0), last)) if last > 0 else []
        if not sizes:
            self.put("OPTIM.LR_SCHEDULER", "image.schedule", "none", "no step falls inside the epochs")
            return
        self.put("OPTIM.LR_SCHEDULER", "image.schedule", "multistep")
        key = "OPTIM.STEPSIZE" if "OPTIM.STEPSIZE" in self.values else "OPTIM.LR_SCHEDULER"
        self.put(key, "image.milestones", [float(size) for size in sizes])
        if "OPTIM.GAMMA" in self.values:
            self.put("OPTIM.GAMMA", "image.gamma", float(self.values["OPTIM.GAMMA"]))

    def _rest(self) -> None:
        if (seed := self.values.get("SEED")) is not None:
            if int(seed) >= 0:
                self.put("SEED", "seed", int(seed))
            else:
                self.leave("SEED", "negative means another result every time; here a seed is 0 or above")
        if "USE_CUDA" in self.values:
            self.put("USE_CUDA", "device", "auto" if self.values["USE_CUDA"] else "cpu")
        for key in ("TRAINER.COOP.PREC", "TRAINER.COCOOP.PREC"):
            if key in self.values:
                precision = {"fp16": "auto", "amp": "auto"}.get(str(self.values[key]), str(self.values[key]))
                note = "auto takes bf16 where the hardware has it" if precision == "auto" else ""
                self.put(key, "precision", precision, note)
        if self._is_lafter():
            self.leave("INPUT.TRANSFORMS", "LaFTer's code does not use it: its views are its own, as view lafter is")
        elif "INPUT.TRANSFORMS" in self.values:
            self._view(self.values["INPUT.TRANSFORMS"])

    def _view(self, written: Any) -> None:
        names = {written} if isinstance(written, str) else set(written or ())
        if strange := sorted(names - _GEOMETRY - _COLOUR):
            note = f"{', '.join(strange)} is not known; choose --view none, affect_safe or lafter"
            self.keys["INPUT.TRANSFORMS"] = ConvertedKey("INPUT.TRANSFORMS", written, "", note, known=False)
            return
        moving = names & (_GEOMETRY - {"center_crop", "normalize", "instance_norm"})
        view = "lafter" if names & _COLOUR else "affect_safe" if moving else "none"
        self.put("INPUT.TRANSFORMS", "view", view, "the nearest view; crops and strengths are its own")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _literal(value)
    return found


def _literal(value: Any) -> Any:
    """Read `"(224, 224)"` and `"1e-5"`, which YAML leaves as text, as yacs does."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _read_flags(words: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in _flag_pairs(list(words))}  # noqa: C416  (pairs may repeat: the last one counts)


def _flag_pairs(words: list[str]) -> Iterator[tuple[str, Any]]:
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            values = [value] if equals else []
            while not equals and words and not words[0].startswith("--") and not words[0].isupper():
                values.append(words.pop(0))
                if flag not in ("--transforms", "--source-domains", "--target-domains"):
                    break
            read = [_literal(value) for value in values]
            yield FLAGS.get(flag, flag), True if not read else read[0] if len(read) == 1 else read
        elif words:
            yield word, _literal(words.pop(0))
        else:
            raise SettingsError(f"flags: expected a value after {word!r}, found the end")


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML has a word for."""
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _known() -> tuple[str, ...]:
    own = (f"{node}.{key}" for node, keys in NODES.items() for key in keys)
    return (*RENAMED, *LEFT_OUT, *FLAGS, *own, "OPTIM.LR", "OPTIM.WEIGHT_DECAY", "OPTIM.NAME", "MODEL.BACKBONE.NAME")


def _check(recipe: Mapping[str, Any]) -> None:
    """Make the configuration that the recipe means, so that no recipe is written that `train` refuses."""
    method = recipe["method"]
    if method not in SETTINGS:
        raise SettingsError(f"the configuration asks for method {method!r}, which is not here")
    build_config(TrainConfig, {**recipe, "data": "x", "classes": "a,b"}, "the converted recipe")
