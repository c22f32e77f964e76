"""The client against a real server: what is retried, how long it waits, what a person is told."""

from __future__ import annotations

import email.utils
import logging
import time

import pytest
from tests.describe.chat_server import ChatServer, Reply, completion, refusal

from hybridcascade.errors import HybridCascadeError, SettingsError
from hybridcascade.integrations.chat import LONGEST_WAIT, ChatClient, ChatError, check_url

ASK = [{"role": "user", "content": "hello"}]
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def ask(replies: list[Reply], **options: object) -> tuple[str, ChatServer, list[float]]:
    """Ask a server that gives these replies in turn, the last one again and again."""
    server, waits = ChatServer(lambda number, _: replies[min(number, len(replies) - 1)]), []
    with server.running() as url:
        client = ChatClient(url, "m", **{"key": KEY, "sleep": waits.append, **options})
        try:
            return client.ask(ASK), server, waits
        except HybridCascadeError as error:
            error.server, error.waits = server, waits  # type: ignore[attr-defined]
            raise


def test_a_request_is_what_the_api_expects() -> None:
    text, server, waits = ask([completion("Hi there")], temperature=0.5)
    assert text == "Hi there"
    assert waits == []
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["messages"], request["temperature"]) == ("m", ASK, 0.5)
    _, server, _ = ask([completion("Hi")], key=None)
    assert server.requests[0]["authorization"] is None
    assert "temperature" not in server.requests[0], "left out, so that models with a fixed one accept the request"


def test_retry_after_is_obeyed_as_seconds_and_as_date() -> None:
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    busy = [refusal(429, Retry_After="7"), refusal(503, Retry_After=later), refusal(429, Retry_After="99999")]
    text, server, waits = ask([*busy, completion("Hi")])
    assert text == "Hi"
    assert len(server.requests) == 4
    assert waits[0] == 7
    assert waits[1] == pytest.approx(30, abs=5)
    assert waits[2] == LONGEST_WAIT


def test_without_retry_after_waits_double() -> None:
    with pytest.raises(ChatError, match=r"HTTP 500: no; gave up after 6 tries.*goes on where it stopped") as caught:
        ask([refusal(500, Retry_After="nan")], retries=5)
    waits = caught.value.waits  # type: ignore[attr-defined]
    assert len(waits) == 5
    for number, wait in enumerate(waits):
        assert 0.75 * 2**number <= wait <= 1.25 * 2**number


@pytest.mark.parametrize(
    "broken",
    [
        (200, {}, b"<html>busy</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
        (200, {}, b'{"choices": [{"mess'),
        (200, {}, b"[1]"),
        completion("   "),
    ],
)
def test_malformed_answers_are_asked_again(broken: Reply) -> None:
    text, server, waits = ask([broken, completion("Hi")])
    assert text == "Hi"
    assert len(server.requests) == 2
    assert len(waits) == 1
    with pytest.raises(ChatError, match=r"the answer (is no chat completion|holds no text).*gave up after 2 tries"):
        ask([broken], retries=1)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), r"HTTP 401.*\[key\].*valid key.*variable MY_KEY"),
        (refusal(404, "no such model"), r"HTTP 404: no such model. Check --base_url \(it usually ends in /v1\)"),
        (refusal(400, "temperature unsupported"), r"HTTP 400: temperature unsupported. The server does not accept"),
        (refusal(429, "quota", "insufficient_quota"), r"HTTP 429: quota. The account has no credit left"),
        ((404, {}, b"<html>nothing here</html>"), r"HTTP 404 Not Found. Check"),
        ((302, {"Location": "http://elsewhere/v1"}, b""), r"HTTP 302.*points to http://elsewhere/v1"),
        ((401, {}, b'["odd"]'), r"HTTP 401"),
    ],
)
def test_what_will_not_pass_is_told_at_once_and_without_the_key(reply: Reply, message: str) -> None:
    with pytest.raises(ChatError, match=message) as caught:
        ask([reply], key_env="MY_KEY")
    assert KEY not in str(caught.value)
    assert len(caught.value.server.requests) == 1  # type: ignore[attr-defined]


def test_a_silent_server_is_a_timeout() -> None:
    def slow(number: int, _: object) -> Reply:
        if number == 0:
            time.sleep(1.0)
        return completion("Hi")

    server = ChatServer(slow)
    with server.running() as url:
        assert ChatClient(url, "m", timeout=0.3, sleep=lambda _: None).ask(ASK) == "Hi"
        assert len(server.requests) == 2


def test_no_server_is_told_at_once_but_a_lost_one_is_waited_for() -> None:
    waits: list[float] = []
    server = ChatServer(lambda *_: completion("Hi"))
    with server.running() as url:
        client = ChatClient(url, "m", sleep=waits.append, retries=2)
        client.ask(ASK)
    with pytest.raises(ChatError, match=r"the connection failed.*gave up after 3 tries"):
        client.ask(ASK)
    assert len(waits) == 2
    with pytest.raises(ChatError, match=r"the connection failed.*Check --base_url and that the server runs"):
        ChatClient(url, "m", sleep=waits.append).ask(ASK)
    assert len(waits) == 2


def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask([refusal(429, f"slow down, {KEY}"), completion("Hi")])
    assert "slow down, [key]" in caplog.text
    assert KEY not in caplog.text + repr(ChatClient("http://x", "m", KEY))


@pytest.mark.parametrize("url", ["api.openai.com", "ftp://x/v1", "http://", "http://me:pw@x/v1", "http://x/v1?key=1"])
def test_wrong_addresses(url: str) -> None:
    with pytest.raises(SettingsError, match="base_url") as caught:
        check_url(url)
    assert "pw" not in str(caught.value)


def test_the_slash_at_the_end_does_not_matter() -> None:
    assert check_url("http://localhost:8000/v1/") == "http://localhost:8000/v1"
