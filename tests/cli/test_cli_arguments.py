"""Help, wrong options, recipes: answered at once, without torch.

One process runs all command lines (a start of Python costs more than all of them) and tells what it loaded.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridcascade.cli import doctor, main

HEAVY = ("torch", "torchvision", "open_clip", "lightning", "pandas", "matplotlib", "torchmetrics", "PIL", "pyarrow")

COMMANDS = (
    "demo", "train", "evaluate", "predict", "compare", "ablate", "select", "texts", "info", "describe", "convert",
    "doctor",
)  # fmt: skip
DATA = ["--data", "photos", "--classes", "a,b"]
DESCRIBE = ["describe", "--classes", "awe,fear", "--model", "m"]
ARENA = ["--recipe", "sandbox.yaml", "--out", "no/such"]
LINES: dict[str, list[str]] = {
    "help": ["--help"],
    "nothing": [],
    "version": ["--version"],
    **{f"help {c}": [c, "--help"] for c in COMMANDS},
    "wrong command": ["trian"],
    "wrong option": ["train", "--dta", "photos"],
    "wrong phase option": ["train", *DATA, "--image.epoch", "3"],
    "wrong method": ["train", *DATA, "--method", "laftr"],
    "wrong backbone": ["train", *DATA, "--backbone", "ViT-B-32"],
    "missing backbone file": ["train", *DATA, "--backbone", "ViT-B-32@no/such.pt"],
    "wrong schedule": ["train", *DATA, "--schedule", "cosin"],
    "wrong phase schedule": ["train", *DATA, "--text.schedule", "warmupp"],
    "wrong view": ["train", *DATA, "--view", "afect_safe"],
    "wrong setting": ["train", *DATA, "--out", "no/such", "--set", "promts=3"],
    "wrong setting value": ["train", *DATA, "--out", "no/such", "--set", "prompts=many"],
    "setting without value": ["train", *DATA, "--set", "prompts"],
    "not a number": ["train", *DATA, "--epochs", "ten"],
    "not a list": ["train", *DATA, "--image.milestones", "x"],
    "no data": ["train", "--classes", "a,b", "--out", "no/such"],
    "no out": ["train", *DATA],
    "no run": ["predict"],
    "no evaluation data": ["evaluate", "runs/mine"],
    "wrong ending": ["predict", "runs/mine", "a.jpg", "--out", "predictions.xlsx"],
    "resume and overwrite": ["train", *DATA, "--out", "no/such", "--resume", "--overwrite"],
    "resume nothing": ["train", *DATA, "--out", "no/such", "--resume"],
    "wrong recipe": ["train", "--config", "vit_b23.yaml"],
    "recipe with a wrong key": ["train", "--config", "RECIPE"],
    "full folder": ["train", *DATA, "--out", "FULL"],
    "demo into a full folder": ["demo", "--out", "FULL"],
    "no experiment recipe": ["compare", "--seeds", "2"],
    "recipe without an arena": ["compare", "--recipe", "vit_b32.yaml"],
    "wrong compared method": ["compare", *ARENA, "--methods", "lafter,hybrid_cascad"],
    "wrong baseline": ["compare", *ARENA, "--baseline", "zeroshot"],
    "wrong seeds": ["compare", *ARENA, "--seeds", "many"],
    "two forms": ["compare", *ARENA, "--csv", "--latex"],
    "wrong component": ["ablate", *ARENA, "--components", "plan_first"],
    "compare into a full folder": ["compare", *ARENA[:2], "--out", "FULL"],
    "components": ["ablate", "--recipe", "sandbox.yaml", "--list"],
    "components json": ["ablate", "--recipe", "sandbox.yaml", "--list", "--json"],
    "convert nothing": ["convert", "no/such.yaml"],
    "convert split and flags": ["convert", "split.json", "--flags", "--lr 1"],
    "convert below a file": ["convert", "CONFIG", "--out", "BELOW"],
    "describe nothing": ["describe", "--model", "m"],
    "describe at a wrong address": [*DESCRIBE, "--out", "x", "--base_url", "ftp:x"],
    "describe dry": [*DESCRIBE, "--out", "no/such", "--dry_run"],
    "texts nothing": ["texts"],
    "texts something else": ["texts", "compar"],
    "texts of a wrong file": ["texts", "compare", *ARENA, "--descriptions", "mikels9"],
    "info": ["info"],
    "info json": ["info", "methods", "--json"],
    "info method": ["info", "hybrid_cascade"],
    "info wrong": ["info", "hybrid_cascad"],
    "info no run": ["info", "FULL"],
}

_SCRIPT = """
import contextlib, io, json, sys
import hybridcascade, hybridcascade.config, hybridcascade.methods.registry
from hybridcascade.cli import main
answers = {}
for name, line in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line)
    answers[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
answers["loaded"] = [m for m in sys.argv[1].split(",") if m in sys.modules]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "full").mkdir()
    (folder / "full" / "diary.txt").write_text("mine")
    (folder / "wrong.yaml").write_text("method: lafter\nimage: {epoch: 3}\n")
    (folder / "dassl.yaml").write_text("SEED: 1\n")
    places = {"FULL": str(folder / "full"), "RECIPE": str(folder / "wrong.yaml")}
    places |= {"CONFIG": str(folder / "dassl.yaml"), "BELOW": str(folder / "dassl.yaml" / "recipe.yaml")}
    lines = {name: [places.get(word, word) for word in line] for name, line in LINES.items()}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, ",".join(HEAVY)],
        input=json.dumps(lines), capture_output=True, text=True, timeout=120, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.rglob("*")) == ["dassl.yaml", "diary.txt", "full", "wrong.yaml"], (
        "a refusal changed files"
    )
    return json.loads(done.stdout)


def test_nothing_heavy_is_loaded(answers: dict) -> None:
    assert answers["loaded"] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_runnable_examples(answers: dict, command: str) -> None:
    answer = answers[f"help {command}"]
    assert answer["code"] == 0
    assert answer["err"] == ""
    summary, _, rest = answer["out"].partition("\n\nexamples:\n")
    assert len(summary.splitlines()) <= 4
    assert rest.splitlines()[0].startswith(f"  hybridcascade {command}")
    assert rest.index("hybridcascade") < rest.index("options:")


def test_first_help_names_every_command(answers: dict) -> None:
    assert answers["help"]["code"] == 0
    assert answers["nothing"]["code"] == 2
    for command in COMMANDS:
        assert f"\n  {command} " in answers["help"]["out"]
    assert answers["version"]["out"].startswith("hybridcascade ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong command", ["'trian'", "Did you mean 'train'", "doctor"]),
        ("wrong option", ["'--dta'", "Did you mean '--data'", "--backbone"]),
        ("wrong phase option", ["'--image.epoch'", "Did you mean '--image.epochs'"]),
        ("wrong method", ["'laftr'", "Did you mean 'lafter'", "hybrid_cascade_seed", "linear_probe"]),
        ("wrong backbone", ["'ViT-B-32'", "Did you mean 'ViT-B-32/openai'", "nano", "MODEL@FILE"]),
        ("missing backbone file", ["no/such.pt", "no file"]),
        ("wrong schedule", ["'cosin'", "Did you mean 'cosine'", "multistep"]),
        ("wrong phase schedule", ["'warmupp'", "Did you mean 'warmup'"]),
        ("wrong view", ["'afect_safe'", "Did you mean 'affect_safe'", "lafter", "none"]),
        ("wrong setting", ["'promts'", "Did you mean 'prompts'", "hybrid_cascade"]),
        ("wrong setting value", ["prompts", "int", "'many'"]),
        ("setting without value", ["--set", "KEY=VALUE", "'prompts'"]),
        ("not a number", ["--epochs", "whole number", "'ten'"]),
        ("not a list", ["--image.milestones", "list of numbers"]),
        ("no data", ["hybrid_cascade", "--data"]),
        ("no out", ["--out"]),
        ("no run", ["run, inputs", "predict --help"]),
        ("no evaluation data", ["--data"]),
        ("wrong ending", ["predictions.xlsx", ".csv, .jsonl, .parquet"]),
        ("resume and overwrite", ["--resume", "--overwrite", "contradict"]),
        ("resume nothing", ["no run", "no/such"]),
        ("wrong recipe", ["'vit_b23.yaml'", "Did you mean 'vit_b32.yaml'"]),
        ("recipe with a wrong key", ["wrong.yaml", "'epoch'", "Did you mean 'epochs'"]),
        ("no experiment recipe", ["--recipe", "sandbox.yaml"]),
        ("convert nothing", ["no/such.yaml", "expected a YAML file"]),
        ("convert split and flags", ["converted alone"]),
        ("recipe without an arena", ["vit_b32.yaml", "arena:", "sandbox.yaml"]),
        ("wrong compared method", ["'hybrid_cascad'", "Did you mean 'hybrid_cascade'"]),
        ("wrong baseline", ["'zeroshot'", "Did you mean 'zero_shot'"]),
        ("wrong seeds", ["seeds", "count such as 5", "'many'"]),
        ("two forms", ["--csv", "--latex", "choose one"]),
        ("wrong component", ["'plan_first'", "Did you mean 'plan_last'", "teacher_frozen"]),
        ("describe nothing", ["--classes, --out", "describe --help"]),
        ("describe at a wrong address", ["base_url", "'ftp:x'", "https://"]),
        ("texts nothing", ["texts compare --recipe"]),
        ("texts something else", ["'compar'", "Did you mean 'compare'"]),
        ("info wrong", ["'hybrid_cascad'", "Did you mean 'hybrid_cascade'"]),
    ],
)
def test_wrong_use_is_told_on_stderr_with_exit_2(answers: dict, name: str, words: list[str]) -> None:
    answer = answers[name]
    assert answer["code"] == 2
    assert answer["out"] == ""
    assert len(answer["err"].splitlines()) == 1, answer["err"]
    for word in words:
        assert word in answer["err"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("full folder", ["nothing was changed", "--overwrite", "--resume", "--out"]),
        ("demo into a full folder", ["nothing was changed", "--out"]),
        ("compare into a full folder", ["nothing was changed", "--out"]),
        ("info no run", ["no run folder"]),
        ("convert below a file", ["expected a folder at", "dassl.yaml'", "found: ", "where you may write"]),
        ("texts of a wrong file", ["mikels9", "mikels8, ekman6_neutral"]),
    ],
)
def test_what_is_in_the_way_is_told_with_exit_1(answers: dict, name: str, words: list[str]) -> None:
    answer = answers[name]
    assert (answer["code"], answer["out"]) == (1, "")
    for word in words:
        assert word in answer["err"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
def test_an_error_of_the_system_is_told_in_words(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: list[str]) -> int:
        raise OSError(code, os.strerror(code), "/some/where")

    monkeypatch.setattr(doctor, "run", refused)
    assert main(["doctor"]) == 1
    remedy = "make room there" if code == errno.ENOSPC else "check it and its permissions"
    assert capsys.readouterr().err == (
        "hybridcascade doctor: error: expected '/some/where' to be a place to read from or write to, found: "
        f"{os.strerror(code)}. Name another one, or {remedy}\n"
    )


def test_describe_shows_its_prompts_without_network(answers: dict) -> None:
    answer = answers["describe dry"]
    assert (answer["code"], answer["err"]) == (0, "")
    assert answer["out"].count("pictures that evoke fear in the person who looks at them") == 4
    assert "\n8 calls of m at https://api.openai.com/v1" in answer["out"]


def test_ablate_lists_its_components(answers: dict) -> None:
    answer = answers["components"]
    assert answer["code"] == 0
    assert "plan_last  " in answer["out"]
    assert "what the cascade is worth" in answer["out"]
    listed = json.loads(answers["components json"]["out"])
    assert "last stage alone" in listed["plan_last"]


def test_info_lists_what_there_is(answers: dict) -> None:
    shown = answers["info"]["out"]
    for name in ("lafter", "ViT-L-14/openai", "affect_safe", "cosine_warmup", "vit_b16.yaml"):
        assert name in shown
    assert answers["info"]["err"].startswith("next: hybridcascade ")


def test_info_json_is_json_alone(answers: dict) -> None:
    listed = json.loads(answers["info json"]["out"])
    assert {"zero_shot", "text_only", "lafter", "hybrid_cascade_seed", "hybrid_cascade", "linear_probe"} <= set(
        listed["methods"]
    )


def test_info_explains_the_numbers_of_a_method(answers: dict) -> None:
    shown = answers["info method"]["out"]
    assert "sigma " in shown
    assert "in blocks" in shown
    assert "image  epochs " in shown


def test_package_import_alone_is_light_and_knows_its_names() -> None:
    names = "fit,load,TunedModel,Predictions,__version__"
    code = f"import sys, hybridcascade as hc; assert set('{names}'.split(',')) <= set(dir(hc)); print(hc.__version__)"
    code += f"; assert not [m for m in {HEAVY!r} if m in sys.modules]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(__file__).parents[2].joinpath("pyproject.toml").read_text().count(done.stdout.strip()) >= 1
