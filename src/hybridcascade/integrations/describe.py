"""Descriptions of any classes from a language model, kept in a file that is whole after every answer.

The file is LaFTer's `{class: [sentence, ...]}` with one key more, `_meta`: the model, the server, the prompts with
their dates, and what was left out of each answer and why. Run again, the command goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from hybridcascade.data.classes import class_key, read_classes
from hybridcascade.data.messages import complaint
from hybridcascade.data.text_checks import named_classes, sentence_key
from hybridcascade.data.texts import META_KEY
from hybridcascade.engine.atomic import write_json
from hybridcascade.errors import OutputExistsError, SettingsError, TextError, UnknownNameError
from hybridcascade.integrations.chat import ChatClient, check_url
from hybridcascade.integrations.describe_prompts import SYSTEM, Prompt, find_prompt, read_answer

__all__ = [
    "PROVIDERS",
    "Asked",
    "DescribeConfig",
    "Descriptions",
    "client_of",
    "describe",
    "open_file",
    "planned_calls",
]

logger = logging.getLogger(__name__)

PROVIDERS = {"openai-compatible": "any server that answers POST BASE_URL/chat/completions as OpenAI's API does"}
"""Kinds of servers, by name."""

FORMAT = 1

Say = Callable[[str], None]


class Asked(Protocol):
    """Who answers: a `ChatClient`, or what stands for one."""

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the answer to messages."""
        ...


@dataclass(frozen=True)
class DescribeConfig:
    """What `describe` makes."""

    classes: str | None = None
    """Class names divided by commas, or a file of them (.txt, .json, .yaml)."""

    provider: str = "openai-compatible"
    """Kind of server: openai-compatible (OpenAI, and most hosted and local servers)."""

    model: str | None = None
    """Language model, as the server calls it."""

    base_url: str = "https://api.openai.com/v1"
    """Where the server is; a local one is often at http://localhost:8000/v1."""

    out: str | None = None
    """File to write, and to go on with: JSON {class: [sentence, ...]}."""

    per_class: int = 40
    """Sentences a class."""

    batch: int = 10
    """Sentences asked for in one call."""

    prompt: str = "auto"
    """evoked_emotion, general, auto (what fits the classes), or a text file with {count} and {class}, and where wanted
    {facet} and {others}."""

    temperature: float | None = None
    """Temperature of the sampling, 0 to 2; left out: the server's own."""

    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never written. Unset: none is sent."""

    timeout: float = 120.0
    """Seconds to wait for an answer."""

    retries: int = 6
    """How often a call is tried again when the server is busy or fails."""

    dry_run: bool = False
    """Show the prompts and the number of calls; nothing is sent, nothing is written."""

    overwrite: bool = False
    """Begin anew instead of going on with the file in --out."""

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise UnknownNameError("provider", self.provider, PROVIDERS)
        missing = [f"--{name}" for name in ("classes", "model", "out") if not getattr(self, name)]
        if missing:
            raise SettingsError(f"missing: {', '.join(missing)}; `hybridcascade describe --help` shows examples")
        check_url(self.base_url)
        for name, least in (("per_class", 1), ("batch", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be {least} or above, got {getattr(self, name)}")
        if not self.timeout > 0:
            raise SettingsError(f"timeout must be above 0 seconds, got {self.timeout}")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise SettingsError(f"temperature must be between 0 and 2, got {self.temperature}")


def client_of(config: DescribeConfig) -> ChatClient:
    """Return the client of a configuration, with the key of the environment."""
    return ChatClient(
        base_url=check_url(config.base_url), model=config.model or "", key=os.environ.get(config.key_env) or None,
        key_env=config.key_env, temperature=config.temperature, timeout=config.timeout, retries=config.retries,
    )  # fmt: skip


@dataclass
class Descriptions:
    """A file of descriptions, as far as it has come.

    Attributes:
        path: of the file.
        meta: content of `_meta`.
        sentences: by class.
    """

    path: Path
    meta: dict[str, Any]
    sentences: dict[str, list[str]]
    _seen: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._seen = {sentence_key(text) for rows in self.sentences.values() for text in rows}

    def calls(self, name: str) -> int:
        """Return how many calls were made for a class."""
        return sum(call["class"] == name for call in self.meta["calls"])

    def add(self, name: str, texts: Sequence[str], classes: Sequence[str], most: int) -> dict[str, int]:
        """Add the sentences of an answer that are fit; return how many were not, by reason.

        Args:
            name: class.
            texts: of the answer.
            classes: all classes.
            most: sentences that the class may have.
        """
        from hybridcascade.backbone.token_count import CONTEXT, token_counts  # loads open_clip

        left_out: Counter[str] = Counter()
        for text, tokens in zip(texts, token_counts(texts), strict=True):
            reason = (
                "repeated" if sentence_key(text) in self._seen
                else "names another class" if named_classes(text, name, classes)
                else f"longer than {CONTEXT} tokens" if tokens > CONTEXT
                else "more than asked for" if len(self.sentences[name]) >= most
                else None
            )  # fmt: skip
            if reason is not None:
                left_out[reason] += 1
                continue
            self._seen.add(sentence_key(text))
            self.sentences[name].append(text)
        return dict(left_out)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.meta["updated"] = _now()
        write_json(self.path, {META_KEY: self.meta, **self.sentences})


def open_file(config: DescribeConfig, classes: Sequence[str], prompt: Prompt) -> Descriptions:
    """Return the file to go on with, or a new one that is not written yet.

    Raises:
        OutputExistsError: the file is there and was not made by this command.
        SettingsError: it was made with another model or prompt.
    """
    path = Path(config.out or "")
    meta = {
        "format": FORMAT, "made_by": f"hybridcascade describe {version('hybridcascade')}", "provider": config.provider,
        "model": config.model, "temperature": config.temperature, "started": _now(), "updated": _now(),
        "prompt": prompt.name, "prompt_text": prompt.text, "system": SYSTEM, "calls": [],
    }  # fmt: skip
    if not path.exists() or config.overwrite:
        return Descriptions(path, meta, {name: [] for name in classes})
    found, sentences = _load(path)
    for key, said in (("model", "--model"), ("prompt_text", "--prompt")):
        if found[key] != meta[key]:
            raise SettingsError(
                f"{path} was made with {said} {_shorten(found[key])}, not {_shorten(meta[key])}. Name another file "
                "with --out, or say --overwrite to begin anew"
            )
    keys = {class_key(name): name for name in sentences}
    own = {name: sentences.pop(keys.get(class_key(name), name), []) for name in classes}
    return Descriptions(path, found, own | sentences)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        loaded = str(error)
    meta = loaded.pop(META_KEY, None) if isinstance(loaded, dict) else None
    if not isinstance(meta, dict) or not _is_ours(meta) or not all(isinstance(rows, list) for rows in loaded.values()):
        raise OutputExistsError(
            f"{path} exists and was not made by this command; nothing was changed. Name another file with --out, or "
            "say --overwrite"
        )
    return meta, {name: [str(text) for text in rows] for name, rows in loaded.items()}


def _is_ours(meta: Mapping[str, Any]) -> bool:
    calls = meta.get("calls")
    whole = isinstance(calls, list) and all(isinstance(call, dict) and "class" in call for call in calls)
    return whole and meta.get("format") == FORMAT and {"model", "prompt_text"} <= set(meta)


def _shorten(value: Any) -> str:
    """Return a value quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def planned_calls(config: DescribeConfig) -> Iterator[tuple[str, str]]:
    """Give class and prompt of each call that is certain; answers with unfit sentences need more calls.

    Raises:
        HybridCascadeError: as `describe`.
    """
    classes = read_classes(config.classes or "")
    prompt = find_prompt(config.prompt, classes)
    work = open_file(config, classes, prompt)
    for name in classes:
        missing = config.per_class - len(work.sentences[name])
        for number in range(math.ceil(missing / config.batch)):
            count = min(config.batch, missing - number * config.batch)
            yield name, prompt.fill(name, count, work.calls(name) + number, classes, work.sentences[name])


def describe(config: DescribeConfig, client: Asked, say: Say = logger.info) -> Descriptions:
    """Ask until every class has its sentences; the file is written after each answer.

    Args:
        config: what is wanted.
        client: answers.
        say: told each prompt and what came of it.

    Returns:
        The finished file.

    Raises:
        ChatError: the server refused or failed; what was answered before is in the file.
        OutputExistsError: the file is no description file of this command.
        TextError: a class did not get its sentences within three times the calls that it should have needed.
    """
    classes = read_classes(config.classes or "")
    prompt = find_prompt(config.prompt, classes)
    work = open_file(config, classes, prompt)
    say(f"system: {SYSTEM}")
    for name in classes:
        planned = math.ceil((config.per_class - len(work.sentences[name])) / config.batch)
        for _ in range(3 * planned):
            if len(work.sentences[name]) >= config.per_class:
                break
            _ask_once(work, config, client, prompt, name, classes, say)
    short = {name: len(work.sentences[name]) for name in classes if len(work.sentences[name]) < config.per_class}
    if short:
        found = ", ".join(f"{name} {count}" for name, count in short.items())
        remedy = "Run the command again for more, or lower --per_class; the file says what was left out and why"
        raise TextError(complaint(str(work.path), f"{config.per_class} sentences a class", found, remedy))
    return work


def _ask_once(
    work: Descriptions, config: DescribeConfig, client: Asked, prompt: Prompt, name: str, classes: Sequence[str],
    say: Say,
) -> None:  # fmt: skip
    rows = work.sentences[name]
    text = prompt.fill(name, min(config.batch, config.per_class - len(rows)), work.calls(name), classes, rows)
    say(f"prompt ({name}): {text}")
    answer = client.ask([{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}])
    before = len(rows)
    left_out = work.add(name, read_answer(answer), classes, config.per_class)
    kept = len(rows) - before
    call = {"class": name, "prompt": text, "date": _now(), "base_url": check_url(config.base_url), "kept": kept}
    work.meta["calls"].append(call | ({"left_out": left_out} if left_out else {}))
    work.save()
    reasons = "".join(f", {count} {reason}" for reason, count in left_out.items())
    say(f"{name}: {len(rows)} of {config.per_class} ({kept} new{reasons})")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
