"""Supervised calibration from the options of a run to what is told of a saved model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hybridcascade import api
from hybridcascade.calibration import Calibration
from hybridcascade.cli import main
from hybridcascade.config import TrainConfig
from hybridcascade.data.sources import open_source
from hybridcascade.errors import CheckpointError, DataError, ManifestError, SettingsError

CLASSES = ("awe", "fear", "calm joy")
ROWS = [
    "awe/00.png,train,,,,", "fear/10.png,train,,,,", "calm joy/20.png,train,,,,",
    "awe/01.png,val,awe,,,", "fear/12.png,val,,1,3,1", "calm joy/21.png,val,fear,,,", "awe/02.png,val,,,,",
    "calm joy/22.png,bare,,,,",
]  # fmt: skip
TRAIN = ["train", "--method", "zero_shot", "--classes", ",".join(CLASSES)]


@pytest.fixture(scope="module")
def labelled(photos: Path) -> Path:
    """Three training pictures without a label; four to calibrate on, of which one has no label; one bare split."""
    file = photos / "splits.csv"
    file.write_text("\n".join(["path,split,label,votes_awe,votes_fear,votes_calm joy", *ROWS]) + "\n")
    yield file
    file.unlink()


def zero_shot(**options: object) -> api.TunedModel:
    return api.fit(classes=list(CLASSES), method="zero_shot", **options)


def test_the_temperature_is_saved_and_used(labelled: Path, tmp_path: Path) -> None:
    plain = zero_shot()
    model = zero_shot(data=labelled, split="train", calibrate="val", out=tmp_path / "run")
    found = model.calibration
    assert found is not None
    assert (found.split, found.pictures) == ("val", 3)
    assert plain.calibration is None
    again = api.load(tmp_path / "run")
    assert again.calibration == found
    pictures = labelled.parent / "awe"
    before, after = plain.predict_proba(pictures), again.predict_proba(pictures)
    np.testing.assert_array_equal(model.predict_proba(pictures), after)
    wanted = torch.from_numpy(before).double().log().div(found.temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(after, wanted, atol=1e-6)
    assert not np.allclose(before, after, atol=1e-4)
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    streamed = np.concatenate([part.probabilities for part in again.stream(pictures, batch_size=1)])
    np.testing.assert_allclose(streamed, after, atol=1e-6)


def test_what_it_says_of_its_own_pictures_is_what_evaluate_says(
    labelled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is better on them than the fitted temperature, and both figures are those of `evaluate`."""
    model = zero_shot()
    rows = open_source(labelled, CLASSES, "val").take([0, 1, 2])
    before = model.evaluate(rows)
    assert "chose the temperature" not in caplog.text
    found = model.calibrate(labelled, "val")
    model.evaluate(rows.take([0, 1]))
    assert "chose the temperature" not in caplog.text, "other pictures"
    after = model.evaluate(rows)
    assert "these pictures chose the temperature; measure a calibrated model on others" in caplog.text
    for name in ("kl", "nll", "ece", "brier"):
        assert found.before[name] == pytest.approx(before[name], abs=1e-5), name
        assert found.after[name] == pytest.approx(after[name], abs=1e-5), name
    assert after["nll"] <= before["nll"]
    assert after["accuracy"] == before["accuracy"]
    assert model.calibrate(labelled, "val") == found, "a second fit begins from the scores as they are"
    model.uncalibrate()
    assert model.evaluate(rows) == before


def test_a_run_without_the_option_reads_no_label(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a label-free run calibrated itself")

    monkeypatch.setattr("hybridcascade.compose.calibrate", forbidden)
    assert zero_shot(data=labelled).calibration is None


def test_train_calibrate_evaluate_predict_and_info_say_it(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = str(tmp_path / "run"), str(labelled)
    assert main([*TRAIN, "--data", data, "--split", "train", "--calibrate", "val", "--out", out, "--json"]) == 0
    told = capsys.readouterr()
    assert "supervised calibration: temperature" in told.err
    made = json.loads(told.out)["calibration"]
    assert made["pictures"] == 3
    assert main(["evaluate", out, "--data", data, "--split", "val", "--json"]) == 1, "a picture there has no label"
    capsys.readouterr()
    (tmp_path / "truth.csv").write_text("path,label\n00.png,awe\n")
    (tmp_path / "00.png").write_bytes((labelled.parent / "awe" / "00.png").read_bytes())
    assert main(["evaluate", out, "--data", str(tmp_path / "truth.csv"), "--json"]) == 0
    told = capsys.readouterr()
    assert "fitted on the labels of 3 pictures (split 'val'" in told.err
    assert json.loads(told.out)["calibration"] == made
    assert main(["predict", out, str(tmp_path / "00.png")]) == 0
    assert "supervised calibration" in capsys.readouterr().err
    assert main(["info", out]) == 0
    assert "supervised: temperature" in capsys.readouterr().out
    assert main(["calibrate", out, "--remove"]) == 0
    assert "no temperature" in capsys.readouterr().out
    assert main(["evaluate", out, "--data", str(tmp_path / "truth.csv"), "--json"]) == 0
    told = capsys.readouterr()
    assert "calibration" not in json.loads(told.out)
    assert "supervised" not in told.err
    assert main(["calibrate", out, "--data", data, "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] == made
    assert api.load(out).calibration == Calibration.from_dict(made)


def test_refusals_before_the_work(labelled: Path, tmp_path: Path) -> None:
    data = str(labelled)
    with pytest.raises(DataError, match=r"split 'dev'.*the splits bare, train, val"):
        zero_shot(data=data, split="train", calibrate="dev")
    with pytest.raises(DataError, match="labels or votes to calibrate on, found none of 1"):
        zero_shot(data=data, split="train", calibrate="bare")
    for split in (None, "val"):
        with pytest.raises(SettingsError, match="does not learn from: name the training pictures"):
            TrainConfig(data=data, classes="a,b", split=split, calibrate="val")
    with pytest.raises(SettingsError, match="say where it is with --data"):
        TrainConfig(classes="a,b", method="text_only", split="train", calibrate="val")
    with pytest.raises(SettingsError, match=r"model\.calibrate\(labelled\)"):
        zero_shot(data=open_source(data, CLASSES), split="train", calibrate="val")
    with pytest.raises(ManifestError, match="a column for 'calm joy'"):
        api.fit(data=data, classes=["awe", "fear"], method="zero_shot", split="train", calibrate="val")
    with pytest.raises(SettingsError, match="no run folder yet"):
        zero_shot().keep()


def test_a_damaged_record_is_told() -> None:
    with pytest.raises(CheckpointError, match="calibration of the saved model cannot be read"):
        Calibration.from_dict({"temperature": 1.0})
    whole = Calibration(1.0, "x", None, 1, "", {"kl": 1, "ece": 1}, {"kl": 1, "ece": 1}).as_dict()
    with pytest.raises(CheckpointError, match="must be above 0, found 0"):
        Calibration.from_dict(whole | {"temperature": 0})


@pytest.mark.parametrize(("temperature", "words"), [(20.0, "better than guessing"), (0.05, "too few"), (2.0, None)])
def test_a_temperature_at_its_limit_is_told(temperature: float, words: str | None):
    scores = {"kl": 0.5, "nll": 1.0, "ece": 0.1, "brier": 0.2}
    told = Calibration(temperature, "photos", "val", 40, "0", scores, scores).words
    assert "temperature" in told
    assert ("on these pictures the model is" in told) == (words is not None)
    assert words is None or words in told
