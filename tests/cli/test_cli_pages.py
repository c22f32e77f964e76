"""Every command that a page or a recipe shows is understood by the command line as it is."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from hybridcascade.cli.entry import COMMANDS
from hybridcascade.recipes import find_recipe

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").glob("*.md"))]
RECIPES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "recipes").glob("*.yaml"))
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MADE_BY = re.compile(r"Made by: (hybridcascade [^*\n]+)\*")
COMMENT = re.compile(r"^#\s*(hybridcascade .+)$", re.MULTILINE)


def shown_commands(file: str) -> list[str]:
    """The commands in code blocks, captions of tables and comments of recipes, continued lines joined."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".yaml"):
        return [found.strip() for found in COMMENT.findall(re.sub(r"\\\n#\s*", " ", text))]
    lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    # `pip install uv && uv run hybridcascade demo` is a command of ours too
    own = [line[line.index("hybridcascade ") :] for line in lines if re.match(r"(.*&& uv run )?hybridcascade ", line)]
    return own + MADE_BY.findall(text)


SHOWN = [
    pytest.param(command, id=f"{file}: {command[:60]}") for file in PAGES + RECIPES for command in shown_commands(file)
]


def test_commands_are_found_at_all() -> None:
    found = {file: len(shown_commands(file)) for file in PAGES + RECIPES}
    assert min(found["README.md"], found["docs/evidence.md"]) >= 7
    assert found["recipes/emotion6.yaml"] >= 3


@pytest.mark.parametrize("command", SHOWN)
def test_a_shown_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *words = shlex.split(command, comments=True)[1:]
    assert name in COMMANDS
    words = words[1:] if name == "texts" else words  # `texts compare`: the parser is that of the second word
    if "--flags" in words:  # `convert` joins it with its value, which begins like an option
        place = words.index("--flags")
        words[place : place + 2] = [f"--flags={words[place + 1]}"]
    options = importlib.import_module(f"hybridcascade.cli.{name}").parser().read(words)
    recipes = getattr(options, "recipe", None) or []
    for recipe in [recipes] if isinstance(recipes, str) else recipes:
        if recipe != "RECIPE":
            find_recipe(recipe.partition("@")[0])
