"""What makes sentences about classes unfit: repetition, and the name of another class.

Whether a sentence is too long only the text tower's tokenizer can say: `backbone.token_count`. Needs no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from hybridcascade.data.classes import class_key

__all__ = ["inflections", "named_classes", "sentence_key"]

_IRREGULAR: dict[str, tuple[str, ...]] = {
    "anger": ("angry", "angrily", "angrier", "angriest"),
    "awe": ("awestruck", "awesome", "awesomely", "awful"),
    "fear": ("afraid", "fearsome"),
    "joy": ("joyous", "joyously", "enjoy", "enjoys", "enjoyed", "enjoying", "enjoyment", "enjoyable"),
    "person": ("people",),
    "man": ("men",),
    "woman": ("women",),
    "child": ("children",),
    "mouse": ("mice",),
    "goose": ("geese",),
    "foot": ("feet",),
    "tooth": ("teeth",),
}
_NOUN_ENDINGS = ("ment", "ness")
_VOWELS = "aeiou"
_SHORTEST_STEM = 3


def sentence_key(text: str) -> str:
    """Return what repetitions of one sentence share: case, blanks and the marks at its ends do not count.

    >>> sentence_key("  A dark   Forest. ") == sentence_key("a dark forest")
    True
    """
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'“”‘’")


@functools.cache
def inflections(word: str) -> frozenset[str]:
    """Return an English word with the forms that are made of it by rule, in lower case.

    Plural, past, participles, comparison, -ly, -ful, -some; of nouns in -ment and -ness those of the word before the
    ending too (amusement: amuse, amusing). Some are no words at all, which does no harm: nobody writes them.

    >>> sorted(inflections("amusement") & {"amused", "amusing", "amusements", "music"})
    ['amused', 'amusements', 'amusing']
    """
    word = word.casefold()
    forms = {word, *_IRREGULAR.get(word, ()), *(f"{word}{end}" for end in _endings(word))}
    if word.endswith("e"):
        stem = word[:-1]
        forms |= {f"{stem}{end}" for end in ("ing", "ingly", "ed", "er", "ers", "est")}
    if len(word) > 1 and word[-1] == "y" and word[-2] not in _VOWELS:
        forms |= {f"{word[:-1]}i{end}" for end in ("es", "ed", "er", "est", "ly", "ness")}
    if len(word) >= _SHORTEST_STEM and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS:
        forms |= {f"{word}{word[-1]}{end}" for end in ("ed", "ing", "er", "est", "en", "ened", "ens")}
    for ending in _NOUN_ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            forms |= inflections(word.removesuffix(ending))
    return frozenset(forms)


def _endings(word: str) -> tuple[str, ...]:
    past = ("d",) if word.endswith("e") else ("ed",)
    return (
        "s", "es", *past, "edly", "ing", "ingly", "er", "ers", "est", "ly", "ful", "fully", "fulness", "less", "some",
        "ness", "en", "ens", "ened", "ity",
    )  # fmt: skip


def named_classes(sentence: str, own: str, classes: Iterable[str]) -> list[str]:
    """Return the classes other than `own` that a sentence names, inflected or not.

    What belongs to the own name counts for no other: "a polar bear on ice", said of polar bear, does not name bear.

    Args:
        sentence: said of `own`.
        own: the class it is about.
        classes: all class names; underscores count as blanks.

    Returns:
        Their names, in order.

    >>> named_classes("A crowd of amused faces.", "awe", ["amusement", "awe"])
    ['amusement']
    """
    words = _words(sentence)
    length = len(_words(own))
    kept: list[str | None] = list(words)
    for start in _places(words, own):
        kept[start : start + length] = [None] * length
    others = [name for name in classes if class_key(name) != class_key(own)]
    # a longer name that holds the own one ("two polar bears", said of bear) is another class all the same
    return [name for name in others if _places(words if len(_words(name)) > length else kept, name)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", class_key(text))


def _places(words: Sequence[str | None], name: str) -> list[int]:
    """Where a class name begins among words; its last word may be inflected."""
    parts = _words(name)
    if not parts:
        return []
    last = inflections(parts[-1])
    length = len(parts)
    return [
        start
        for start in range(len(words) - length + 1)
        if list(words[start : start + length - 1]) == parts[:-1] and words[start + length - 1] in last
    ]
