"""The commands on real files with a tiny CLIP: streams, exit codes, files, run folders."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from hybridcascade.cli import main

QUICK = ["--text.epochs", "2", "--image.epochs", "1", "--image.batch_size", "4", "--set", "prompts=2"]


@pytest.fixture(scope="module")
def run(photos_zip: Path, tiny_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tiny_nano)
        arguments = ["train", "--data", str(photos_zip), "--classes", "awe,fear,calm joy", "--out", str(out)]
        assert main([*arguments, "--text-cache", "none", *QUICK]) == 0
    return out


def test_train_prints_the_run_on_stdout_and_the_rest_on_stderr(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    line = ["train", "--data", str(photos), "--method", "lafter", "--out", str(out)]
    assert main([*line, "--text.epochs", "2", "--epochs", "1", "--schedule", "cosine"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out.as_posix()}\n"
    assert "8 pictures, 3 classes" in said.err
    assert "could not be read and were left out: 1" in said.err
    assert "  fear/11.png: " in said.err
    assert said.err.splitlines()[-1].startswith(f"next: hybridcascade predict {out.as_posix()}")
    for noise in ("TPU", "litlogger", "CUDA_HOME", "Trainer.fit", "Warning"):
        assert noise not in said.err
    assert main(line) == 1
    assert "--resume" in capsys.readouterr().err
    before = (out / "model" / "model.safetensors").read_bytes()
    assert main(["train", "--out", str(out), "--resume", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {phase["status"] for phase in summary["phases"]} == {"already finished"}
    assert summary["unreadable"][0]["id"] == "fear/11.png"
    assert (out / "model" / "model.safetensors").read_bytes() == before


def test_a_run_that_broke_off_goes_on_bit_for_bit(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybridcascade.methods.hybrid_cascade import HybridCascade

    line = ["train", "--data", str(photos), "--text.epochs", "2", "--image.epochs", "3", "--image.batch_size", "3"]
    line += ["--set", "prompts=2", "--set", "train_logit_scale=true"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*line, "--out", str(whole)]) == 0
    real = HybridCascade.training_loss

    def power_cut(self: HybridCascade, phase: str, batch: object, step: int) -> object:
        if phase == "image" and step == 4:  # three steps an epoch: in the middle of the second
            raise OSError("power cut")
        return real(self, phase, batch, step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(HybridCascade, "training_loss", power_cut)
        assert main([*line, "--out", str(broken)]) == 1
    assert "power cut" in capsys.readouterr().err
    assert not (broken / "model").exists()
    assert main(["predict", str(broken), str(photos)]) == 1
    assert "Was the training finished" in capsys.readouterr().err
    assert main(["train", "--out", str(broken), "--resume", "--json"]) == 0
    statuses = {p["phase"]: p["status"] for p in json.loads(capsys.readouterr().out)["phases"]}
    assert statuses == {"text": "already finished", "image": "resumed"}
    weights = "model/model.safetensors"
    assert (broken / weights).read_bytes() == (whole / weights).read_bytes()


def test_resume_refuses_other_pictures(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--out", str(run), "--resume", "--data", str(photos / "awe")]
    assert main(line) == 2
    assert "not those" in capsys.readouterr().err


def test_strict_stops_and_leaves_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    assert main(["train", "--data", str(photos), "--out", str(out), "--strict", *QUICK]) == 1
    said = capsys.readouterr()
    assert "fear/11.png" in said.err
    assert said.out == ""
    assert not out.exists()


def test_predict_writes_a_row_for_every_picture(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(photos)]) == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert len(rows) == 9
    assert [r["id"] for r in rows if r["error"]] == ["fear/11.png"]
    assert said.err.count("fear/11.png") == 1
    assert "1 of them could not be read" in said.err
    out = tmp_path / "p.parquet"
    assert main(["predict", str(run), str(photos), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{out}\n", "")
    frame = pd.read_parquet(out)
    assert frame["label"].fillna("").tolist() == [r["label"] for r in rows]


def test_predict_json_strict_and_hopeless(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), str(photos / "awe" / "00.png"), str(photos / "fear"), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4
    assert sum(rows[0][f"prob_{name}"] for name in ("awe", "fear", "calm joy")) == pytest.approx(1, abs=1e-4)
    assert main(["predict", str(run), str(photos), "--strict"]) == 1
    assert "fear/11.png" in capsys.readouterr().err
    assert main(["predict", str(run), str(photos / "fear" / "11.png")]) == 1
    assert main(["predict", str(run), "no/such/place"]) == 1
    assert main(["predict", "no/such/run", str(photos)]) == 1
    assert "no run folder" in capsys.readouterr().err


def test_evaluate_and_info(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--data", str(photos), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert set(metrics) >= {"accuracy", "macro_f1", "ece", "kl"}
    assert main(["evaluate", str(run), "--data", str(photos)]) == 0
    assert f"accuracy   {metrics['accuracy']:.4f}" in capsys.readouterr().out
    assert main(["info", str(run), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["model"]["classes"] == ["awe", "fear", "calm joy"]
    assert described["run"]["finished"] is True
    assert main(["info", str(run)]) == 0
    assert "hybrid_cascade" in capsys.readouterr().out


def test_a_manifest_made_of_predictions_is_read_again(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos / "predicted.csv"
    try:
        assert main(["predict", str(run), str(photos / "awe"), "--out", str(out)]) == 0
        frame = pd.read_csv(out).rename(columns={"id": "path"})
        frame["path"] = "awe/" + frame["path"]
        frame.to_csv(out, index=False)
        capsys.readouterr()
        assert main(["evaluate", str(run), "--data", str(out), "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
    finally:
        out.unlink()
    assert metrics["accuracy"] == 1.0
    assert metrics["kl"] < 1e-6


DEMO = """
train_pictures: 12
test_pictures: 16
rows:
  - method: zero_shot
  - {method: lafter, text: {epochs: 2}, image: {epochs: 1, batch_size: 6}}
  - {method: hybrid_cascade, text: {epochs: 2}, image: {epochs: 1, batch_size: 6}, settings: {prompts: 2}}
  - {method: linear_probe}
"""


def test_demo_twice_and_never_over_a_training_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "demo.yaml", tmp_path / "demo"
    recipe.write_text(DEMO)
    line = ["demo", "--config", str(recipe), "--out", str(out), "--json"]
    assert main(line) == 0
    said = capsys.readouterr()
    results = json.loads((out / "results.json").read_text())
    assert json.loads(said.out) == results
    assert [row["method"] for row in results["rows"]] == ["zero_shot", "lafter", "hybrid_cascade", "linear_probe"]
    for row in results["rows"]:
        assert set(row) == {"method", "seed", "metrics"}
        assert set(row["metrics"]) == {"accuracy", "macro_f1", "ece", "kl"}
    assert results["ceiling"]["kl"] == 0.0
    page = (out / "report.html").read_text()
    assert "hybrid_cascade" in page
    assert page.count("<svg") > 5
    assert main(line) == 0, capsys.readouterr().err
    assert json.loads((out / "results.json").read_text()) == results
    capsys.readouterr()
    assert main(["demo", "--config", str(recipe), "--out", str(run)]) == 1
    assert "holds a training run" in capsys.readouterr().err


def test_doctor_tells_ok_and_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main(["doctor", "--json"])
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    for name in ("python", "torch", "open_clip", "lightning", "bf16", "disk", "text cache"):
        assert checks[name]["status"] in ("ok", "note"), checks[name]
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("LOCALAPPDATA", str(blocked))
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "broken  text cache" in said.out
    assert "text cache" in said.err


def test_what_libraries_print_lands_on_stderr(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hybridcascade.api as api

    real = api.load

    def chatty(*args: object, **kwargs: object) -> object:
        print("a library says hello")  # noqa: T201
        return real(*args, **kwargs)

    monkeypatch.setattr(api, "load", chatty)
    assert main(["predict", str(run), str(photos / "awe" / "00.png"), "--json"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "a library says hello" in said.err
