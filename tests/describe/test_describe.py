"""`hybridcascade describe` against a real server: what it writes, what it leaves out, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.describe.chat_server import ChatServer, Reply, completion, refusal

from hybridcascade.cli import main
from hybridcascade.data.texts import read_descriptions
from hybridcascade.errors import OutputExistsError, SettingsError, TextError, UnknownNameError
from hybridcascade.integrations.chat import ChatError
from hybridcascade.integrations.describe import DescribeConfig, client_of, describe, planned_calls
from hybridcascade.integrations.describe_prompts import PROMPTS, find_prompt, read_answer

KEY = "sk-very-secret"
CLASSES = "awe,fear,joy"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def fresh(number: int, body: dict[str, Any]) -> Reply:
    """As many new sentences as the prompt asks for."""
    count = int(re.search(r"Write (\d+)", body["messages"][-1]["content"])[1])
    return completion("\n".join(f"{i + 1}. A hill numbered {number} with {i} trees." for i in range(count)))


def config(url: str, tmp_path: Path, **options: Any) -> DescribeConfig:
    base = {"classes": CLASSES, "model": "m", "base_url": url, "out": str(tmp_path / "d.json"), "per_class": 6}
    return DescribeConfig(**{**base, "batch": 4, **options})


def make(url: str, tmp_path: Path, **options: Any) -> dict[str, Any]:
    chosen = config(url, tmp_path, **options)
    client = client_of(chosen)
    client.sleep = lambda _: None
    describe(chosen, client)
    return json.loads((tmp_path / "d.json").read_text())


def test_the_file_is_lafters_format_with_a_note_on_how_it_was_made(tmp_path: Path) -> None:
    server, said = ChatServer(fresh), []
    with server.running() as url:
        chosen = config(url, tmp_path)
        describe(chosen, client_of(chosen), said.append)
    text = (tmp_path / "d.json").read_text()
    made = json.loads(text)
    assert {name: len(rows) for name, rows in made.items() if name != "_meta"} == {"awe": 6, "fear": 6, "joy": 6}
    assert len(server.requests) == 6, "two calls a class: four sentences and two"
    assert read_descriptions(tmp_path / "d.json", ["fear"])["fear"] == made["fear"]
    meta = made["_meta"]
    assert (meta["model"], meta["provider"]) == ("m", "openai-compatible")
    assert [call["prompt"] for call in meta["calls"]] == server.prompts
    for call in meta["calls"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", call["date"])
        assert any(call["prompt"] in line for line in said), "prompts are shown as well as stored"
    assert KEY not in text
    assert KEY not in "\n".join(said)
    assert server.requests[0]["authorization"] == f"Bearer {KEY}"


def test_a_dry_run_tells_the_prompts_that_are_then_sent_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ChatServer(fresh)
    with server.running() as url:
        chosen = config(url, tmp_path, per_class=20)
        words = ["--classes", CLASSES, "--model", "m", "--base_url", url, "--out", chosen.out or "", "--batch", "4"]
        assert main(["describe", *words, "--per_class", "20", "--dry_run"]) == 0
        shown = capsys.readouterr().out
        assert server.requests == []
        assert list(tmp_path.iterdir()) == []
        describe(chosen, client_of(chosen))
    assert len(server.prompts) == 15
    assert "\n15 calls of m at" in shown
    assert all(prompt in shown for prompt in server.prompts)
    assert len(set(server.prompts)) == 15, "each call asks for another side of its class"


def test_the_command_writes_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(fresh).running() as url:
        out = str(tmp_path / "d.json")
        words = ["describe", "--classes", CLASSES, "--model", "m", "--base_url", url, "--out", out, "--per_class", "3"]
        assert main([*words, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"out": out, "sentences": {"awe": 3, "fear": 3, "joy": 3}, "calls": 3}
    assert f"--descriptions {out}" in told.err


def test_repetitions_other_names_and_long_sentences_are_left_out_and_counted(tmp_path: Path) -> None:
    first = "\n".join(
        [
            "A wide sky over ice.", "a  WIDE sky over ice", "A crowd of joyful people.",
            "A far road " + "and hills " * 60, "The moon above a wood.", "A ship under stars.",
        ]
    )  # fmt: skip

    def reply(number: int, body: dict[str, Any]) -> Reply:
        return completion(first) if number == 0 else fresh(number, body)

    with ChatServer(reply).running() as url:
        made = make(url, tmp_path)
    assert made["awe"][:3] == ["A wide sky over ice.", "The moon above a wood.", "A ship under stars."]
    assert len(made["awe"]) == 6
    assert made["_meta"]["calls"][0]["left_out"] == {
        "repeated": 1, "names another class": 1, "longer than 77 tokens": 1,
    }  # fmt: skip


def test_a_sentence_of_one_class_is_not_taken_for_another(tmp_path: Path) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        return completion("A grey wall.") if number in (0, 1) else fresh(number, body)

    with ChatServer(reply).running() as url:
        made = make(url, tmp_path, classes="awe,fear", per_class=1, batch=1)
    assert made["awe"] == ["A grey wall."]
    assert made["fear"] != ["A grey wall."]


def test_a_class_that_stays_short_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        stuck = "evoke fear" in body["messages"][-1]["content"]
        return (
            completion("A dark wood." if stuck else fresh(number, body)[2].decode()) if stuck else fresh(number, body)
        )

    server = ChatServer(reply)
    with server.running() as url, pytest.raises(TextError, match=r"expected 6 sentences a class, found fear 1\. Run"):
        make(url, tmp_path)
    made = json.loads((tmp_path / "d.json").read_text())
    assert (len(made["awe"]), len(made["fear"]), len(made["joy"])) == (6, 1, 6)
    assert sum("evoke fear" in prompt for prompt in server.prompts) == 6, "three times what it should have needed"


def test_busy_and_broken_answers_change_nothing_in_the_file(tmp_path: Path) -> None:
    def troubled(number: int, body: dict[str, Any]) -> Reply:
        trouble = [refusal(429, Retry_After="1"), (200, {}, b"{oops"), refusal(502), fresh(number // 4, body)]
        return trouble[number % 4]

    server = ChatServer(troubled)
    with server.running() as url:
        troubled_file = make(url, tmp_path)
    assert len(server.requests) == 24
    (tmp_path / "d.json").unlink()
    with ChatServer(fresh).running() as url:
        calm = make(url, tmp_path)
    assert {k: v for k, v in troubled_file.items() if k != "_meta"} == {k: v for k, v in calm.items() if k != "_meta"}


def test_a_refusal_in_the_middle_keeps_what_was_answered(tmp_path: Path) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        return refusal(401, "expired") if number == 3 else fresh(number, body)

    server = ChatServer(reply)
    with server.running() as url:
        with pytest.raises(ChatError, match="HTTP 401: expired"):
            make(url, tmp_path)
        half = json.loads((tmp_path / "d.json").read_text())
        assert (len(half["awe"]), len(half["fear"]), len(half["joy"])) == (6, 4, 0)
        whole = make(url, tmp_path)
    assert len(server.requests) == 7, "six calls that count, one that was refused"
    assert whole["awe"] == half["awe"]
    assert whole["fear"][:4] == half["fear"]
    assert whole["_meta"]["calls"][:3] == half["_meta"]["calls"]
    assert whole["_meta"]["started"] == half["_meta"]["started"]
    assert server.prompts[3] == server.prompts[4], "the call that failed is made again"


@pytest.mark.slow
def test_a_killed_command_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    pid: list[int] = []

    def reply(number: int, body: dict[str, Any]) -> Reply:
        if number == 3:
            os.kill(pid[0], signal.SIGKILL)
        return fresh(number, body)

    server = ChatServer(reply)
    with server.running() as url:
        out = str(tmp_path / "d.json")
        words = ["describe", "--classes", CLASSES, "--model", "m", "--base_url", url, "--out", out, "--per_class", "6"]
        command = [sys.executable, "-m", "hybridcascade", *words, "--batch", "4"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        pid.append(process.pid)
        assert process.wait(timeout=300) == -signal.SIGKILL
        half = json.loads((tmp_path / "d.json").read_text())
        assert (len(half["awe"]), len(half["fear"]), len(half["joy"])) == (6, 4, 0)
        whole = make(url, tmp_path)
    assert len(server.requests) == 7
    assert whole["fear"][:4] == half["fear"]
    assert all(len(whole[name]) == 6 for name in CLASSES.split(","))


def test_more_sentences_and_classes_may_be_asked_for_later(tmp_path: Path) -> None:
    with ChatServer(fresh).running() as url:
        first = make(url, tmp_path, classes="awe,fear")
        server = ChatServer(lambda number, body: fresh(number + 100, body))
        with server.running() as other:
            more = make(other, tmp_path, classes="Fear,surprise", per_class=8)
    assert len(server.requests) == 3
    assert more["Fear"][:6] == first["fear"]
    assert more["awe"] == first["awe"], "classes that are not asked for stay"
    assert len(more["surprise"]) == 8
    assert {call["base_url"] for call in more["_meta"]["calls"]} == {url, other}


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    for content in ('{"awe": ["mine"]}', "not json", '{"_meta": {"format": 1}, "awe": []}', "[]"):
        path.write_text(content)
        with pytest.raises(OutputExistsError, match="was not made by this command; nothing was changed"):
            make("http://127.0.0.1:1/v1", tmp_path)
        assert path.read_text() == content
    with ChatServer(fresh).running() as url:
        made = make(url, tmp_path, overwrite=True)
        assert len(made["awe"]) == 6
        with pytest.raises(SettingsError, match="was made with --model 'm', not 'n'"):
            make(url, tmp_path, model="n")
        with pytest.raises(SettingsError, match="was made with --prompt"):
            make(url, tmp_path, prompt="general")


def test_prompts_fit_the_classes_or_are_the_users_own(tmp_path: Path) -> None:
    assert find_prompt("auto", ["awe", "fear"]) is PROMPTS["evoked_emotion"]
    assert find_prompt("auto", ["polar_bear", "fox"]) is PROMPTS["general"]
    general = PROMPTS["general"].fill("polar_bear", 5, 0, ["polar_bear", "red_fox"])
    assert "Write 5 different captions of pictures that show polar bear," in general
    assert general.endswith("Do not use the words: red fox.")
    known = ["A white shape.", "A cold paw."]
    assert "white shape" not in PROMPTS["general"].fill("fox", 5, 7, ["fox"], known)
    assert PROMPTS["general"].fill("fox", 5, 8, ["fox"], known).endswith("these:\nA white shape.\nA cold paw.")
    own = tmp_path / "p.txt"
    own.write_text("{count} lines on {class}")
    (_, prompt), *_ = planned_calls(config("http://x/v1", tmp_path, prompt=str(own), batch=6))
    assert prompt == "6 lines on awe"
    for text, message in (("{count} of {klass}", r"found \{klass\}"), ("about {class}", r"expected \{count\}")):
        own.write_text(text)
        with pytest.raises(SettingsError, match=message):
            find_prompt(str(own), ["awe", "fear"])
    with pytest.raises(SettingsError, match="expected one of auto, evoked_emotion, general, or a text file"):
        find_prompt("evoked", ["awe", "fear"])


@pytest.mark.parametrize(
    "answer",
    [
        "A dark wood.\nAn empty, silent house.",
        "Sure! Here you are:\n\n- A dark wood.\n* “An empty, silent house.”\n",
        "1. A dark wood.\n2) **An empty, silent house.**",
        '```json\n["A dark wood.", "An empty, silent house."]\n```',
        '{"captions": ["A dark wood.", "An empty, silent house."]}',
        "<think>Which ones?\nA bright day at sea.</think>\nA dark wood.\n\nAn empty, silent house.",
    ],
)
def test_answers_are_read_whatever_form_they_have(answer: str) -> None:
    assert read_answer(answer) == ["A dark wood.", "An empty, silent house."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": None, "model": None}, "missing: --classes, --model"),
        ({"base_url": "localhost"}, "base_url: expected a URL"),
        ({"per_class": 0}, "per_class must be 1 or above, got 0"),
        ({"timeout": 0.0}, "timeout must be above 0"),
        ({"temperature": 3.0}, "temperature must be between 0 and 2"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        config("http://x/v1", tmp_path, **options)
    with pytest.raises(UnknownNameError, match=r"unknown provider 'openai'.*Did you mean 'openai-compatible'"):
        config("http://x/v1", tmp_path, provider="openai")
