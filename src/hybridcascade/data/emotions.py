"""Emotion spaces: which emotions there are, how they lie on a wheel, which are pleasant. Needs no torch.

Three distances between two emotions a and b of a wheel:

* `steps`: how many places apart they are on the ring, the shorter way round.
* `distance`: 1 + steps, the pairwise emotion distance of Zhao et al.
* `polarity_distance`: 1 + steps, but penalty + steps (penalty 4) between emotions of opposite polarity, so
  that on Mikels' wheel any two of one polarity are nearer than any two of opposite polarity.

Only Mikels' eight emotions have an agreed ring. For the others a ring is the user's explicit choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hybridcascade.data.classes import class_key
from hybridcascade.data.messages import complaint, shown
from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "DISTANCES",
    "EKMAN6",
    "EKMAN6_NEUTRAL",
    "EMPTY_PLACE",
    "FERPLUS8",
    "MIKELS8",
    "OPPOSITE_PENALTY",
    "SPACES",
    "EmotionSpace",
    "find_space",
    "read_space",
]

EMPTY_PLACE = "-"
"""A place of a ring that holds no class but counts as a step."""

OPPOSITE_PENALTY = 4
"""What the polarity-aware distance adds to the steps between opposite emotions, instead of 1."""

DISTANCES: dict[str, str] = {
    "steps": "places apart on the ring",
    "distance": "1 + steps",
    "polarity": "1 + steps, penalty + steps between opposite polarities",
}


@dataclass(frozen=True)
class EmotionSpace:
    """A set of emotions with its geometry.

    Attributes:
        name: of the space.
        classes: K names, in the order that data sets store them.
        ring: names of classes in cyclic order, `-` for a place without a class; None where no ring is
            agreed on. A class that is not on the ring (neutral) is as far from every other as the ring's
            opposite ends are from each other.
        polarity: 1 pleasant, -1 unpleasant, 0 neither, for every class; None where nothing is said.
        notes: where the order and the ring come from.
        candidates: rings that people use for this space, by name; `with_ring` takes these names.

    Raises:
        SettingsError: a class twice, a ring or polarity that does not fit the classes.
    """

    name: str
    classes: tuple[str, ...]
    ring: tuple[str, ...] | None = None
    polarity: Mapping[str, int] | None = None
    notes: str = ""
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"emotion space {self.name!r}"
        _check_classes(self.classes, where)
        if self.ring is not None:
            _check_ring(self.ring, self.classes, where)
        if self.polarity is not None:
            _check_polarity(self.polarity, self.classes, where)

    def index(self, name: str) -> int:
        """Return the place of a class in `classes`; case, underscores and blanks do not count.

        Raises:
            UnknownNameError: no such class.
        """
        keys = [class_key(known) for known in self.classes]
        if class_key(name) not in keys:
            raise UnknownNameError(f"emotion of space {self.name}", name, self.classes)
        return keys.index(class_key(name))

    def with_ring(self, ring: str | Sequence[str]) -> EmotionSpace:
        """Return the space with a ring of the user's choice.

        Args:
            ring: name of a candidate, or the classes in cyclic order (one string with commas will do),
                `-` for a place without a class.

        Raises:
            UnknownNameError: no such candidate.
            SettingsError: a ring that does not fit the classes.
        """
        if isinstance(ring, str) and "," not in ring:
            if ring not in self.candidates:
                hint = "Or write the ring: the classes in cyclic order, with commas."
                raise UnknownNameError(f"ring of space {self.name}", ring, self.candidates or ("none",), hint)
            return replace(self, ring=self.candidates[ring])
        names = [part.strip() for part in ring.split(",")] if isinstance(ring, str) else list(ring)
        keys = {class_key(name): name for name in self.classes}
        return replace(self, ring=tuple(keys.get(class_key(name), name) for name in names))

    def steps(self, first: str, second: str) -> int:
        """Return how many places two classes are apart on the ring.

        Raises:
            SettingsError: the space has no ring; the message names the known candidates.
            UnknownNameError: no such class.

        >>> MIKELS8.steps("awe", "fear")
        2
        """
        ring = self._demand_ring()
        a, b = (self.classes[self.index(name)] for name in (first, second))
        if a == b:
            return 0
        if a not in ring or b not in ring:
            return len(ring) // 2
        apart = abs(ring.index(a) - ring.index(b))
        return min(apart, len(ring) - apart)

    def distance(self, first: str, second: str) -> int:
        """Return 1 + steps (Zhao et al.'s pairwise emotion distance); errors as in `steps`."""
        return 1 + self.steps(first, second)

    def opposed(self, first: str, second: str) -> bool:
        """Return whether one class is pleasant and the other unpleasant; one that is neither opposes none.

        Raises:
            SettingsError: the space has no polarity.
            UnknownNameError: no such class.
        """
        if self.polarity is None:
            remedy = "Add `polarity: {positive: [...], negative: [...]}` to its file, or use a prior without polarity"
            raise SettingsError(complaint(f"emotion space {self.name!r}", "a polarity", "none", remedy))
        signs = [self.polarity[self.classes[self.index(name)]] for name in (first, second)]
        return signs[0] * signs[1] < 0

    def polarity_distance(self, first: str, second: str, penalty: int = OPPOSITE_PENALTY) -> int:
        """Return penalty + steps between opposite polarities, else 1 + steps; errors as in `steps` and `opposed`.

        Args:
            first: a class.
            second: a class.
            penalty: above the steps of any two classes of one polarity, so that opposites always lie
                farther apart.
        """
        self._check_penalty(penalty)
        return (penalty if self.opposed(first, second) else 1) + self.steps(first, second)

    def matrix(
        self, kind: str = "steps", classes: Sequence[str] | None = None, penalty: int = OPPOSITE_PENALTY
    ) -> tuple[tuple[int, ...], ...]:
        """Return a distance between all pairs, K rows of K numbers.

        Args:
            kind: `steps`, `distance` or `polarity`, see `DISTANCES`.
            classes: rows and columns, names of this space in any order, all or some; None means all.
            penalty: of `polarity`.

        Raises:
            UnknownNameError: no such distance or class.
            SettingsError: no ring, or no polarity.
        """
        between: dict[str, Callable[[str, str], int]] = {
            "steps": self.steps,
            "distance": self.distance,
            "polarity": lambda a, b: (penalty if self.opposed(a, b) else 1) + self.steps(a, b),
        }
        if kind not in between:
            raise UnknownNameError("distance", kind, DISTANCES)
        if kind == "polarity":
            self._check_penalty(penalty)
        names = self.classes if classes is None else tuple(classes)
        return tuple(tuple(between[kind](a, b) for b in names) for a in names)

    def _check_penalty(self, penalty: int) -> None:
        signs = self.polarity or {}
        alike = [(a, b) for a in self.classes for b in self.classes if signs.get(a, 0) * signs.get(b, 0) > 0]
        longest = max((self.steps(a, b) for a, b in alike), default=0)
        if penalty <= longest:
            found = f"{penalty}, and classes of one polarity are up to {longest} steps apart"
            where = f"emotion space {self.name!r}"
            raise SettingsError(complaint(where, "a penalty above the steps", found, "Raise the penalty"))

    def _demand_ring(self) -> tuple[str, ...]:
        if self.ring is not None:
            return self.ring
        known = "; ".join(f"{name}: {', '.join(ring)}" for name, ring in self.candidates.items())
        remedy = f"Choose one (with_ring, or --ring). Known candidates: {known or 'none'}"
        raise SettingsError(complaint(f"emotion space {self.name!r}", "a ring", "none that is agreed on", remedy))


def _check_classes(classes: Sequence[str], where: str) -> None:
    keys = [class_key(name) for name in classes]
    if len(classes) < 2 or len(set(keys)) != len(keys):
        raise SettingsError(complaint(where, "at least two different classes", shown(list(classes)), "Correct them"))


def _check_ring(ring: Sequence[str], classes: Sequence[str], where: str) -> None:
    named = [name for name in ring if name != EMPTY_PLACE]
    for name in named:
        if name not in classes:
            raise UnknownNameError(f"emotion in the ring of {where}", name, (*classes, EMPTY_PLACE))
    if len(set(named)) != len(named) or len(named) < 2:
        remedy = "Name each class once, in cyclic order"
        raise SettingsError(complaint(f"{where}, ring", "at least two classes, each once", shown(list(ring)), remedy))


def _check_polarity(polarity: Mapping[str, int], classes: Sequence[str], where: str) -> None:
    for name in polarity:
        if name not in classes:
            raise UnknownNameError(f"emotion in the polarity of {where}", name, classes)
    missing = [name for name in classes if polarity.get(name) not in (-1, 0, 1)]
    if missing:
        remedy = "Give 1 (pleasant), -1 (unpleasant) or 0 (neither) for every class"
        raise SettingsError(complaint(f"{where}, polarity", "1, -1 or 0", f"none for {', '.join(missing)}", remedy))


def _signs(positive: Sequence[str], negative: Sequence[str], neither: Sequence[str] = ()) -> dict[str, int]:
    return dict.fromkeys(positive, 1) | dict.fromkeys(negative, -1) | dict.fromkeys(neither, 0)


_EKMAN_RINGS = {
    "mikels_induced": ("joy", "surprise", "fear", "sadness", "disgust", "anger"),
    "mikels_alias": ("joy", "-", "surprise", "-", "fear", "sadness", "disgust", "anger"),
}
_EKMAN_NOTES = (
    "No ring is agreed on. mikels_alias puts joy in the place of amusement and surprise in that of awe on Mikels' "
    "wheel and keeps its empty places; mikels_induced closes the gaps. Polarity is ours: surprise is neither."
)
_FOUR_BAD = ("anger", "disgust", "fear", "sadness")

MIKELS8 = EmotionSpace(
    "mikels8",
    ("amusement", "awe", "contentment", "excitement", *_FOUR_BAD),
    ("amusement", "contentment", "awe", "excitement", "fear", "sadness", "disgust", "anger"),
    _signs(("amusement", "awe", "contentment", "excitement"), _FOUR_BAD),
    "Mikels' wheel. Classes in the order of EmoSet's info.json and of Flickr_LDL's and Twitter_LDL's header.",
)
EKMAN6 = EmotionSpace(
    "ekman6",
    ("anger", "disgust", "fear", "joy", "sadness", "surprise"),
    None,
    _signs(("joy",), _FOUR_BAD, ("surprise",)),
    f"Ekman's six. {_EKMAN_NOTES}",
    _EKMAN_RINGS,
)
EKMAN6_NEUTRAL = EmotionSpace(
    "ekman6_neutral",
    (*EKMAN6.classes, "neutral"),
    None,
    _signs(("joy",), _FOUR_BAD, ("surprise", "neutral")),
    f"Emotion6 as stored: Ekman's six and neutral, which is on no ring. {_EKMAN_NOTES}",
    _EKMAN_RINGS,
)
FERPLUS8 = EmotionSpace(
    "ferplus8",
    ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    None,
    _signs(("happiness",), (*_FOUR_BAD, "contempt"), ("neutral", "surprise")),
    "FER+ in its stored order, without `unknown` and `NF`. No ring is agreed on. Polarity is ours: surprise is "
    "neither.",
)

SPACES: dict[str, EmotionSpace] = {space.name: space for space in (MIKELS8, EKMAN6, EKMAN6_NEUTRAL, FERPLUS8)}
"""The spaces of this package by name."""


def find_space(name: str | Path, ring: str | None = None) -> EmotionSpace:
    """Return a space by name, or read it from a YAML file.

    Args:
        name: `mikels8`, `ekman6`, ..., or the path of a `.yaml` file, see `read_space`.
        ring: as in `EmotionSpace.with_ring`; None keeps the space's own.

    Raises:
        UnknownNameError: no such space and no such file.
        SettingsError: the file or the ring does not describe a space.
    """
    text = str(name)
    if text.lower().endswith((".yaml", ".yml")):
        space = read_space(text)
    elif text in SPACES:
        space = SPACES[text]
    else:
        raise UnknownNameError("emotion space", text, SPACES, "Or give a .yaml file of your own.")
    return space if ring is None else space.with_ring(ring)


def read_space(path: str | Path) -> EmotionSpace:
    """Read a space of the user's own from a small YAML file.

    ```yaml
    name: moods                      # optional, else the file's name
    classes: [calm, joy, gloom, dread]
    ring: [calm, joy, dread, gloom]  # optional; - for a place without a class
    polarity:                        # optional; what is in no list is neither
      positive: [calm, joy]
      negative: [gloom, dread]
    notes: who says so               # optional
    ```

    Raises:
        SettingsError: the file is missing, is not YAML, or does not describe a space.
        UnknownNameError: an unknown key, or a name in ring or polarity that is no class.
    """
    content = _load(Path(path))
    known = ("name", "classes", "ring", "polarity", "notes")
    for key in content:
        if key not in known:
            raise UnknownNameError(f"key in {path}", str(key), known)
    classes = _names(content.get("classes"), f"{path}, classes")
    ring = None if content.get("ring") is None else _names(content["ring"], f"{path}, ring")
    polarity = None if content.get("polarity") is None else _read_polarity(content["polarity"], classes, str(path))
    name, notes = str(content.get("name") or Path(path).stem), str(content.get("notes") or "")
    return EmotionSpace(name, classes, ring, polarity, notes)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found = error.strerror or str(error)
        remedy = f"Check the path, or name a space: {', '.join(SPACES)}"
        raise SettingsError(complaint(str(path), "a file with an emotion space", found, remedy)) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        message = complaint(str(path), "YAML", " ".join(str(error).split()), "Correct the file")
        raise SettingsError(message) from error
    if not isinstance(content, dict):
        remedy = "Write `classes: [calm, joy]`"
        raise SettingsError(complaint(str(path), "`key: value` lines", type(content).__name__, remedy))
    return content


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        # YAML reads no and off as false: such names need quotes.
        raise SettingsError(complaint(where, "a list of names", shown(value), "Write [calm, joy], 'no' in quotes"))
    return tuple(name.strip() for name in value)


def _read_polarity(value: object, classes: Sequence[str], path: str) -> dict[str, int]:
    where, lists = f"{path}, polarity", {"positive": 1, "negative": -1}
    if not isinstance(value, dict) or not set(value) <= set(lists):
        remedy = "Write {positive: [...], negative: [...]}"
        raise SettingsError(complaint(where, "the lists positive and negative", shown(value), remedy))
    signs = dict.fromkeys(classes, 0)
    named: set[str] = set()
    for key, sign in lists.items():
        for name in _names(value.get(key, []), f"{where}, {key}"):
            if name not in classes:
                raise UnknownNameError(f"emotion in {where}", name, classes)
            if name in named:
                raise SettingsError(complaint(where, "each class in one list", f"{name!r} in two", "Name it once"))
            named.add(name)
            signs[name] = sign
    return signs
