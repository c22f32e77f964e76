"""A small client for chat completions, as OpenAI's API and the many servers that speak it understand them.

Only the standard library: one request is all that is needed, and what is retried, how long it waits and what a person
is told stays in plain sight here.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import math
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hybridcascade.errors import HybridCascadeError, SettingsError

__all__ = ["ChatClient", "ChatError", "check_url"]

logger = logging.getLogger(__name__)

LONGEST_WAIT = 120.0
"""Seconds that one wait lasts at most, whatever a server asks for."""

_FIRST_WAIT = 1.0  # seconds; doubles with every retry
_MOST_BYTES = 10_000_000  # of an answer; sentences need a few thousand
_SHOWN = 300  # characters of a server's message
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REMEDIES = {
    400: "The server does not accept the request: check --model and its limits",
    401: "Put a valid key in the environment variable {key_env}",
    403: "The key in {key_env} may not use this model or server",
    404: "Check --base_url (it usually ends in /v1) and --model",
    413: "The request is too long for the server: lower --batch",
}


class ChatError(HybridCascadeError, OSError):
    """A server did not give an answer that can be used; the message says what to do."""


class _NoAnswer(Exception):
    """This try failed; another may not."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would send the key along to wherever the server points."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse; the redirection is then answered as an error that names its aim."""


def check_url(url: str) -> str:
    """Return a base URL without the slash at its end.

    Raises:
        SettingsError: no http or https URL, or one with a password in it, which would end up in the file.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"base_url: expected a URL such as https://api.openai.com/v1, got {url!r}")
    if parts.username or parts.password or parts.query:
        raise SettingsError("base_url must hold no user, password or query: the key is read from the environment")
    return url.rstrip("/")


@dataclass
class ChatClient:
    """Asks one model on one server.

    Attributes:
        base_url: without `/chat/completions`.
        model: as the server calls it.
        key: sent as bearer token; None sends none (local servers need none). It is in no message and no log.
        key_env: where the key came from, for messages.
        temperature: of the sampling, 0..2; None leaves it to the server.
        timeout: seconds without any byte after which a try is given up.
        retries: tries after the first one that failed in passing (429, 5xx, timeout, lost or broken answers).
        sleep: waits; tests put their own here.
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    key_env: str = "OPENAI_API_KEY"
    temperature: float | None = None
    timeout: float = 120.0
    retries: int = 6
    sleep: Callable[[float], None] = time.sleep
    _answered: bool = field(default=False, init=False)

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text that the model answers.

        Args:
            messages: `role` and `content` each, in order.

        Raises:
            ChatError: the server refused for good, or every try failed.
        """
        for attempt in range(self.retries + 1):
            try:
                text = self._try(messages)
            except _NoAnswer as error:
                if attempt == self.retries:
                    raise ChatError(
                        f"{self._place}: {error}; gave up after {attempt + 1} tries. Run the same command again later: "
                        "it goes on where it stopped"
                    ) from error
                wait = self._wait(attempt, error.wait)
                logger.warning(
                    "%s: %s; try %d of %d in %.0f s", self._place, error, attempt + 2, self.retries + 1, wait
                )
                self.sleep(wait)
            else:
                self._answered = True
                return text
        raise AssertionError("unreachable: the last try returns or raises")

    @property
    def _place(self) -> str:
        return f"{self.base_url} ({self.model})"

    def _wait(self, attempt: int, asked: float | None) -> float:
        """Seconds until the next try: what the server asks for, else twice as long each time, never in step."""
        if asked is not None:
            return min(max(asked, 0.0), LONGEST_WAIT)
        return float(min(_FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.75, 1.25))

    def _try(self, messages: Sequence[Mapping[str, str]]) -> str:
        sampling = {} if self.temperature is None else {"temperature": self.temperature}
        body = {"model": self.model, "messages": [dict(message) for message in messages], **sampling}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return _content(response.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except TimeoutError as error:
            raise _NoAnswer(f"no answer within {self.timeout:g} s") from error
        except (http.client.HTTPException, OSError) as error:
            raise self._unreached(error) from error

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        said, code = self._said(error)
        text = f"HTTP {error.code}{f': {said}' if said else f' {error.reason}'}"
        if error.code in _PASSING and code != "insufficient_quota":  # a spent account is also told as 429
            return _NoAnswer(text, _retry_after(error.headers.get("Retry-After")))
        remedy = _REMEDIES.get(error.code, "See the server's documentation").format(key_env=self.key_env)
        if error.code == 429:
            remedy = "The account has no credit left: add some, then run the same command again"
        if 300 <= error.code < 400:
            remedy = f"It points to {error.headers.get('Location')}: give that as --base_url if you trust it"
        return ChatError(f"{self._place}: {text}. {remedy}.")

    def _said(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        """The server's own message and code, without the key, should it repeat that."""
        try:
            text = error.read(_MOST_BYTES).decode("utf-8", "replace")
        except (http.client.HTTPException, OSError):
            return "", ""
        try:
            told = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            told = text if not text.lstrip().startswith("<") else ""
        told = told if isinstance(told, dict) else {"message": told}
        message = " ".join(str(told.get("message") or "").split())
        if self.key:
            message = message.replace(self.key, "[key]")
        return message[:_SHOWN].rstrip("."), str(told.get("code") or told.get("type") or "")

    def _unreached(self, error: Exception) -> Exception:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            return _NoAnswer(f"no answer within {self.timeout:g} s")
        text = f"the connection failed ({reason})"
        if self._answered or isinstance(error, http.client.HTTPException | ConnectionResetError):
            return _NoAnswer(text)
        return ChatError(f"{self._place}: {text}. Check --base_url and that the server runs.")


def _content(data: bytes) -> str:
    """The text in a whole answer of a server."""
    try:
        answer = json.loads(data)
        text = cast("Any", answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        start = " ".join(data[:80].decode("utf-8", "replace").split())
        raise _NoAnswer(f"the answer is no chat completion (it begins {start!r})") from error
    if not isinstance(text, str) or not text.strip():
        raise _NoAnswer("the answer holds no text")
    return text


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
