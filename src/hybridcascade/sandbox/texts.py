"""The words of the sandbox: captions for training the nano CLIP, templates and descriptions for tuning it.

Captions name what web captions name: mostly the things (palette, shape), seldom their tone, density or
edge, and sometimes the emotion. How often each is named is the *coverage*, a parameter; the shipped
nano CLIP was trained with `COVERAGE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridcascade.sandbox.world import ATTRIBUTES, EMOTIONS, conditional, stream

__all__ = ["CLASSES", "COVERAGE", "TEMPLATES", "captions", "descriptions"]

CLASSES: Final = EMOTIONS

COVERAGE: Final[dict[str, float]] = {
    "palette": 0.8,
    "shape": 0.8,
    "density": 0.2,
    "tone": 0.2,
    "edge": 0.2,
    "emotion": 0.4,
}
"""Probability that a caption names the attribute."""

TEMPLATES: Final = (
    "a painting that evokes {}.",
    "an abstract painting evoking {}.",
    "a picture full of {}.",
    "a canvas that feels like {}.",
    "abstract art expressing {}.",
    "a painting of {}.",
)
"""Templates for class names; `{}` is the name."""

_MEDIA: Final = ("a painting", "an abstract painting", "a picture", "a canvas", "abstract art")
_FEELING: Final = (
    "that evokes {}",
    "evoking {}",
    "full of {}",
    "that feels like {}",
    "expressing {}",
    "of {}",
)
_DENSITY: Final = ("a few", "some", "many", "a crowd of")
_TONE: Final = ("in dark tones", "in muted tones", "in pale tones", "in vivid tones")
_EDGE: Final = ("with soft edges", "with crisp edges", "with ragged edges")


def _caption(values: NDArray[np.int64], emotion: str, named: Mapping[str, bool], pick: NDArray[np.float64]) -> str:
    palette = ATTRIBUTES["palette"][values[0]] if named["palette"] else ""
    shape = ATTRIBUTES["shape"][values[1]] if named["shape"] else ("shapes" if palette or named["density"] else "")
    count = _DENSITY[values[2]] if named["density"] else ""
    things = " ".join(word for word in (count, palette, shape) if word)
    words = [_MEDIA[int(pick[0] * len(_MEDIA))]]
    if named["emotion"]:
        words.append(_FEELING[int(pick[1] * len(_FEELING))].format(emotion))
    if things:
        words.append(("with " if pick[2] < 0.5 or named["emotion"] else "of ") + things)
    words += [_TONE[values[3]]] if named["tone"] else []
    words += [_EDGE[values[4]]] if named["edge"] else []
    return " ".join(words) + "."


def captions(
    attributes: NDArray[np.int64],
    emotions: NDArray[np.int64],
    seed: int,
    coverage: Mapping[str, float] = COVERAGE,
) -> list[str]:
    """Write one caption a picture.

    Args:
        attributes: values `[N, 5]` in the order of `ATTRIBUTES`.
        emotions: the emotion that caused each picture `[N]`.
        seed: of what is named and how.
        coverage: probability of naming each attribute and the emotion, 0..1.
    """
    keys = (*ATTRIBUTES, "emotion")
    chance = np.array([coverage[key] for key in keys])
    naming = stream(seed, 30).random((len(attributes), len(keys))) < chance
    picks = stream(seed, 31).random((len(attributes), 3))
    return [
        _caption(row, EMOTIONS[e], dict(zip(keys, map(bool, told), strict=True)), pick)
        for row, e, told, pick in zip(attributes, emotions, naming, picks, strict=True)
    ]


def descriptions(per_class: int = 25, seed: int = 0) -> dict[str, list[str]]:
    """Return descriptions of what evokes each emotion, in LaFTer's JSON form.

    They know of each emotion what a language model knows of a real one: which palettes, shapes, tones,
    densities and edges go with it, drawn from p(attribute | emotion), two of five in a sentence on average.

    Args:
        per_class: sentences a class.
        seed: of the draw.
    """
    return {emotion: _describe(k, per_class, seed) for k, emotion in enumerate(EMOTIONS)}


def _describe(k: int, count: int, seed: int) -> list[str]:
    tables = [conditional(name)[k] for name in ATTRIBUTES]
    values = [stream(seed, 32, k, j).choice(len(p), size=count, p=p) for j, p in enumerate(tables)]
    naming = stream(seed, 33, k).random((count, len(tables))) < 0.4
    sentences = []
    for i, (row, told) in enumerate(zip(np.stack(values, axis=1), naming, strict=True)):
        named = dict(zip(ATTRIBUTES, map(bool, told), strict=True)) | {"emotion": True}
        pick = np.array([(i % len(_MEDIA)) / len(_MEDIA), (i % len(_FEELING)) / len(_FEELING), 0.0])
        sentences.append(_caption(row, EMOTIONS[k], named, pick))
    return sentences
