"""`fit`, `load` and the model they give, on real files with a tiny CLIP."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hybridcascade as hc
from hybridcascade.errors import (
    CheckpointError,
    ClassListError,
    DataError,
    OutputExistsError,
    PictureError,
    SettingsError,
    UnknownNameError,
)

CLASSES = ["awe", "fear", "calm joy"]
QUICK: dict[str, Any] = {"text": {"epochs": 2}, "image": {"epochs": 1, "batch_size": 4}, "settings": {"prompts": 2}}


@pytest.fixture(scope="module")
def tuned(photos: Path, tiny_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> hc.TunedModel:
    out = tmp_path_factory.mktemp("runs") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tiny_nano)
        return hc.fit(photos, classes=CLASSES, out=out, text_cache="none", **QUICK)


def picture(seed: int, height: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, 64, 3), dtype=np.uint8)


def test_a_run_folder_alone_is_enough(
    tuned: hc.TunedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridcascade.backbone.loading.nano_folder", lambda: tmp_path / "gone")
    again = hc.load(str(tuned.folder))
    before, after = tuned.predict(photos), again.predict(photos)
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.stage_probabilities, after.stage_probabilities)
    assert again.classes == tuple(CLASSES)
    assert again.evaluate(photos) == tuned.evaluate(photos)
    info = again.info()
    assert (info["method"], info["backbone"], info["settings"]["prompts"]) == ("hybrid_cascade", "nano", 2)
    assert any("calm joy" in text for text in info["texts"])
    assert info["learned"]["stage_weights"]


def test_the_run_folder_tells_where_it_came_from(tuned: hc.TunedModel) -> None:
    folder = tuned.folder
    assert folder is not None
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["backbone"] == "nano"
    assert len(provenance["weights_hash"]) == len(provenance["dataset"]) == 64
    assert "image" in (folder / "config.yaml").read_text()
    assert (folder / "logs" / "run.log").is_file()
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3


def test_predict_takes_paths_pictures_arrays_and_folders_at_once(tuned: hc.TunedModel, photos: Path) -> None:
    one = photos / "awe" / "00.png"
    array = picture(1)
    p = tuned.predict([str(one), Image.fromarray(array), array, photos / "calm joy"])
    assert len(p.ids) == len(set(p.ids)) == 6
    assert p.ids[0] == one.as_posix()
    assert p.ids[3:] == tuple(f"{(photos / 'calm joy').as_posix()}/2{i}.png" for i in range(3))
    # The same picture at two places of a batch: vectorised sums may differ in the last digit.
    np.testing.assert_allclose(p.probabilities[1], p.probabilities[2], rtol=1e-6)
    np.testing.assert_allclose(p.probabilities.sum(axis=1), 1, atol=1e-5)
    assert p.classes == tuple(CLASSES)
    assert set(p.labels) <= set(CLASSES)
    assert p.seconds > 0


def test_predict_takes_single_things(tuned: hc.TunedModel, photos: Path, photos_zip: Path) -> None:
    stack = np.stack([picture(1), picture(2)])
    assert tuned.predict(stack).probabilities.shape == (2, 3)
    assert tuned.predict(stack[0]).probabilities.shape == (1, 3)
    assert tuned.predict(photos / "awe" / "00.png").ids == ("00.png",)
    assert tuned.predict(x for x in [stack[0], stack[1]]).probabilities.shape == (2, 3)
    np.testing.assert_array_equal(tuned.predict_proba(stack), tuned.predict(stack).probabilities)
    whole, zipped = tuned.predict(photos), tuned.predict(photos_zip)
    assert whole.ids == zipped.ids == tuple(sorted(f.relative_to(photos).as_posix() for f in photos.rglob("*.png")))
    np.testing.assert_array_equal(whole.probabilities, zipped.probabilities)


def test_an_unreadable_picture_is_one_row_and_one_remark(
    tuned: hc.TunedModel, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hybridcascade"):
        p = tuned.predict(photos, batch_size=1)
    bad = p.ids.index("fear/11.png")
    assert [name for name, _ in p.failed] == ["fear/11.png"]
    assert np.isnan(p.probabilities[bad]).all()
    assert (p.labels[bad], p[bad].probabilities) == (None, {})
    assert p.stage_probabilities is not None
    assert np.isnan(p.stage_probabilities).any(axis=(1, 2)).nonzero()[0].tolist() == [bad]
    assert len([r for r in caplog.records if "fear/11.png" in r.getMessage()]) == 1
    with pytest.raises(PictureError, match=r"11\.png"):
        tuned.predict(photos, strict=True)
    assert tuned.predict([photos / "fear" / "11.png"]).stage_probabilities is None


def test_stream_gives_the_same_in_parts(tuned: hc.TunedModel, photos: Path) -> None:
    parts = list(tuned.stream(photos, batch_size=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    whole = tuned.predict(photos, batch_size=4)
    np.testing.assert_array_equal(np.concatenate([part.probabilities for part in parts]), whole.probabilities)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("no/such/folder", "no/such/folder"),
        ([], "empty"),
        (np.zeros((4, 4), np.uint8), "uint8"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        ([np.zeros((4, 4, 3), np.uint8), "no.jpg"], r"no\.jpg"),
    ],
)
def test_what_cannot_be_predicted_is_told(tuned: hc.TunedModel, inputs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tuned.predict(inputs)


def write_manifest(photos: Path, name: str, header: str, rows: list[str]) -> Path:
    path = photos / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_evaluate_matches_classes_by_name_not_by_order(tuned: hc.TunedModel, photos: Path) -> None:
    names = ["awe/00.png", "fear/12.png", "calm joy/21.png"]
    p = tuned.predict([photos / name for name in names]).probabilities
    truth = np.array([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.3, 0.3, 0.4]])
    rows = [f"{n},{t[2]},{t[0]},{t[1]}" for n, t in zip(names, truth, strict=True)]
    manifest = write_manifest(photos, "votes.csv", "path,prob_calm joy,prob_awe,prob_fear", rows)
    try:
        found = tuned.evaluate(manifest)
    finally:
        manifest.unlink()
    kl = np.where(truth > 0, truth * (np.log(np.where(truth > 0, truth, 1)) - np.log(p)), 0).sum(axis=1).mean()
    assert found["kl"] == pytest.approx(kl, abs=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(p.argmax(axis=1) == truth.argmax(axis=1)))
    assert set(found) >= {"accuracy", "macro_f1", "ece", "kl"}


def test_evaluate_names_both_class_lists(tuned: hc.TunedModel, tmp_path: Path) -> None:
    for name in ("awe", "dread"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(3)).save(tmp_path / name / "x.png")
    with pytest.raises(ClassListError, match=r"awe, dread.*awe, fear, calm joy.*Not in the model: dread"):
        tuned.evaluate(tmp_path)


def test_evaluate_needs_labels(tuned: hc.TunedModel, tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="label"):
        tuned.evaluate(tmp_path)


def test_evaluate_leaves_unreadable_pictures_out_or_stops(tuned: hc.TunedModel, photos: Path) -> None:
    assert 0 <= tuned.evaluate(photos)["accuracy"] <= 1
    with pytest.raises(PictureError, match=r"11\.png"):
        tuned.evaluate(photos, strict=True)


def test_save_and_load_what_was_only_in_memory(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = hc.fit(photos, method="linear_probe", text_cache="none", feature_cache="none")
    assert model.folder is None
    assert list(tmp_path.iterdir()) == []
    assert model.classes == ("awe", "calm joy", "fear")
    saved = model.save("kept")
    np.testing.assert_array_equal(hc.load(saved).predict(photos).probabilities, model.predict(photos).probabilities)
    with pytest.raises(OutputExistsError, match="nothing was changed"):
        model.save("kept")
    model.save("kept", overwrite=True)


def test_texts_alone_are_enough_for_methods_that_learn_from_texts(tmp_path: Path) -> None:
    sentences = tmp_path / "d.json"
    sentences.write_text(json.dumps({name: [f"{name} {i}" for i in range(2)] for name in CLASSES}))
    model = hc.fit(classes=CLASSES, method="text_only", descriptions=str(sentences), text={"epochs": 2})
    assert "awe 1" in model.info()["texts"]
    assert "awe 1" not in hc.fit(classes=CLASSES, method="zero_shot", descriptions=str(sentences)).info()["texts"]
    assert model.predict(picture(0)).probabilities.shape == (1, 3)


def test_pictures_in_memory_and_labels_train_too(photos: Path) -> None:
    arrays = [picture(i) for i in range(4)]
    free = hc.fit(arrays, classes=CLASSES, **QUICK)
    assert free.predict(arrays).probabilities.shape == (4, 3)
    with_labels = hc.fit(photos, classes=CLASSES, use_labels=True, **QUICK)
    without = hc.fit(photos, classes=CLASSES, **QUICK)
    differs = with_labels.predict_proba(arrays) != without.predict_proba(arrays)
    assert differs.any()


def test_fit_is_repeatable(tuned: hc.TunedModel, photos: Path) -> None:
    again = hc.fit(photos, classes=CLASSES, **QUICK)
    np.testing.assert_array_equal(again.predict(photos).probabilities, tuned.predict(photos).probabilities)


def test_fit_tells_what_is_wrong_before_it_works(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'batch_size'"):
        hc.fit(photos, classes=CLASSES, batchsize=3)
    with pytest.raises(ClassListError, match="--classes"):
        hc.fit(photos / "awe")
    with pytest.raises(SettingsError, match="no/such"):
        hc.fit(photos, classes=CLASSES, backbone="ViT-B-32@no/such.pt")
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="Nothing was changed"):
        hc.fit(photos, classes=CLASSES, out=tmp_path, **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]


def test_load_tells_what_is_wrong(tuned: hc.TunedModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder"):
        hc.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        hc.load(tmp_path / "file")
    saved = tuned._parts
    from hybridcascade.compose import save_parts

    save_parts(tmp_path / "model", saved)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5] + b"wrong")
    with pytest.raises(CheckpointError, match="damaged"):
        hc.load(tmp_path)
