"""`texts compare`: every method gets every set of texts, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridcascade.cli import main
from hybridcascade.data.texts import TEMPLATE_SETS
from hybridcascade.errors import SettingsError, TextError
from hybridcascade.experiments.arena import sandbox_arena
from hybridcascade.experiments.kinds import SandboxSpec
from hybridcascade.experiments.plans import plan_row, read_experiment
from hybridcascade.experiments.text_jobs import TextsConfig, text_jobs, text_sets
from hybridcascade.experiments.text_set import TextSet
from hybridcascade.sandbox.texts import CLASSES

SETS = ["names", "general", "evoked_emotion", "mikels8 + general", "mikels8 + evoked_emotion"]


def plans_of(recipe: Path, **options: Any) -> list[Any]:
    return list(text_jobs(TextsConfig(descriptions="mikels8", **options), [str(recipe)])[1][0].plans)


def test_the_rows_are_all_methods_with_all_sets(recipe: Path) -> None:
    plans = plans_of(recipe)
    methods = ("zero_shot", "text_only")
    assert [p.label for p in plans] == [*methods, *(f"{m}: {s}" for m in methods for s in SETS)]
    own = {p.label: p for p in plans[:2]}
    for plan in plans[2:]:
        as_own = own[plan.method].values() | {"texts": plan.texts}
        assert plan.values() == as_own, "only the texts differ"
    assert [p.values() for p in plans[:2]] == [plan_row(read_experiment(str(recipe)), m).values() for m in methods]
    assert len({p.texts for p in plans}) == len(SETS) + 2


def test_another_content_of_a_file_is_another_row(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("a view of {}.\n")
    first = plans_of(recipe, templates=str(file))[3:]
    file.write_text("a sight of {}.\n")
    second = plans_of(recipe, templates=str(file))[3:]
    assert [p.label for p in first] == [p.label for p in second]
    assert first[0].label == "zero_shot: mine"
    for a, b in zip(first, second, strict=True):
        assert (a.texts != b.texts) == ("mine" in a.label)


def test_sets_of_texts_hold_what_they_say() -> None:
    names, templates = TextSet(), TextSet("general")
    both = TextSet("general", "mikels8")
    assert [t.text for t in names.build(["awe", "fear"])] == ["awe", "fear"]
    count = len(TEMPLATE_SETS["general"])
    assert len(templates.build(["awe", "fear"])) == 2 * count
    kinds = [t.kind for t in both.build(["awe", "fear"])]
    assert (kinds.count("template"), kinds.count("description")) == (2 * count, 80)
    with pytest.raises(TextError, match="'sofa'"):
        both.build(["awe", "sofa"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": "general,general"}, "found twice: general"),
        ({"templates": ""}, "expected at least one name each"),
        ({"csv": True, "latex": True}, "choose one"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        text_sets(TextsConfig(**options))


def test_files_that_are_not_there_stop_before_anything_runs(recipe: Path) -> None:
    with pytest.raises(TextError, match="expected a text file or one of general, evoked_emotion"):
        plans_of(recipe, templates="generl")
    with pytest.raises(TextError, match="expected a JSON file or one of mikels8"):
        text_jobs(TextsConfig(descriptions="no.json"), [str(recipe)])


def test_an_arena_encodes_the_further_texts(offline_nano: Path) -> None:
    both = TextSet("general", "mikels8")
    arena = sandbox_arena(SandboxSpec(train_pictures=2, test_pictures=2), text_sets=[both])(0)
    assert set(arena.texts) == {"templates", "descriptions", both.key()}
    assert len(arena.texts[both.key()].texts) == len(CLASSES) * (40 + len(TEMPLATE_SETS["general"]))
    assert arena.texts[both.key()].truncated == 0


@pytest.mark.slow
def test_the_command_makes_the_table_and_goes_on_where_it_was(
    recipe: Path, offline_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "texts"
    words = ["texts", "compare", "--recipe", str(recipe), "--seeds", "2", "--out", str(out), "--templates", "general"]
    assert main([*words, "--descriptions", "mikels8", "--json"]) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out)["summary"]
    assert [row["method"] for row in summary][:3] == ["zero_shot", "text_only", "zero_shot: names"]
    assert len(summary) == 8
    assert all(row["half_width"]["accuracy"] is not None and row["kl"] >= 0 for row in summary)
    figures = {row["method"]: row["kl"] for row in summary}
    assert len({round(figures[f"zero_shot{s}"], 6) for s in ("", ": names", ": general", ": mikels8 + general")}) == 4
    table = (out / "table.md").read_text()
    assert "zero_shot: mikels8 + general" in table
    assert "hybridcascade texts compare --recipe" in table
    assert main([*words, "--descriptions", "mikels8", "--markdown"]) == 0
    again = capsys.readouterr()
    assert "16 rows: 16 are in" in again.err
    assert "| zero_shot: names |" in again.out
