"""Arenas of real pictures: who sees which pictures, what is shifted, and what the tables say of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybridcascade.backbone import loading
from hybridcascade.data.priors import prior_matrix
from hybridcascade.data.shares import position_of
from hybridcascade.data.shifts import SHIFTS, apply_shift
from hybridcascade.data.sources import open_source
from hybridcascade.errors import DataError, SettingsError, UnknownNameError
from hybridcascade.experiments.kinds import arena_kind, read_arena, spec_values
from hybridcascade.experiments.picture_arena import pictures_arena
from hybridcascade.experiments.picture_kinds import SHIFT_NAMES, PicturesSpec, ShiftedPicturesSpec
from hybridcascade.experiments.plans import plan_row, read_experiment
from hybridcascade.experiments.rows import run_row

pytestmark = pytest.mark.usefixtures("offline_nano")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty training and eight test pictures of 16 x 16, with votes for one of them, as a manifest."""
    root = tmp_path_factory.mktemp("pictures")
    lines = ["path,split,label"]
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for n in range(count):
            name = f"{split}-{n}.png"
            Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name)
            lines.append(f"{name},{split},{('cat', 'ship')[n % 2]}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def same(a: Image.Image, b: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def test_the_recipe_knows_the_shifts_of_the_data_room():
    assert set(SHIFT_NAMES) == set(SHIFTS)


def test_train_and_test_are_shifted_and_the_clean_test_is_not(folder):
    spec = ShiftedPicturesSpec(data=str(folder), shift="noise", severity=2.0)
    arena = pictures_arena(spec, precision="fp32", device="cpu")(3)
    plain = open_source(folder)
    test = plain.subset("test")
    assert arena.classes == ("cat", "ship")
    assert arena.test.ids == arena.clean_test.ids == test.ids
    assert arena.train.ids == plain.subset("train").ids
    for row, name in enumerate(test.ids):
        assert same(arena.clean_test.open(row), test.open(row))
        assert same(arena.test.open(row), apply_shift(test.open(row), "noise", 2.0, 3, name))
    assert same(arena.train.open(0), apply_shift(plain.subset("train").open(0), "noise", 2.0, 3, arena.train.ids[0]))
    assert torch.equal(arena.test_labels, test.labels(arena.classes))
    assert torch.equal(arena.test_truth.argmax(1), arena.clean_labels)
    assert "(shifted: noise, severity 2)" in arena.words
    assert "20 unlabelled training and 8 test pictures" in arena.words


def test_no_label_of_the_training_pictures_goes_with_them(folder):
    arena = pictures_arena(PicturesSpec(data=str(folder)), precision="fp32", device="cpu")(0)
    for source in (arena.train, arena.test):
        assert source.classes is None
        assert all(sample.label is None and sample.votes is None for sample in source.samples)
    assert torch.equal(arena.targets(), arena.targets("labels"))
    assert arena.targets().argmax(1).tolist() == [n % 2 for n in range(20)]
    assert arena.clean_test is None


def test_labels_through_a_prior_and_votes_are_two_kinds_of_targets(tmp_path):
    lines = ["path,label,votes_joy,votes_fear"]
    for n in range(40):
        Image.new("RGB", (16, 16), (6 * n, 255 - 6 * n, 90)).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,joy,3,1")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    spec = PicturesSpec(data=str(tmp_path), make_split="hash:0.7", space="ekman6", prior="smoothing")
    arena = pictures_arena(spec, precision="fp32", device="cpu")(0)
    assert len(arena.train) + len(arena.test) == 40
    assert {position_of(name) < 0.7 for name in arena.train.ids} == {True}
    assert arena.targets("votes")[0].tolist() == [0.75, 0.25]
    assert arena.targets("labels")[0].tolist() == pytest.approx([0.95, 0.05], abs=1e-6)
    assert torch.equal(arena.targets(), arena.targets("votes"))
    assert arena.space is not None  # what `wheel` and `polarity_gate` of a method read
    assert arena.space.name == "ekman6"
    with pytest.raises(SettingsError, match="needs an emotion space"):
        PicturesSpec(data="x", prior="wheel")
    with pytest.raises(SettingsError, match="mikels_induced"):
        PicturesSpec(data="x", prior="wheel", space="ekman6")
    with pytest.raises(SettingsError, match=r"hash:0\.8"):
        PicturesSpec(data="x", make_split="random")


def test_the_numbers_of_a_prior_shape_the_targets(tmp_path):
    lines = ["path,split,label"]
    for n, (split, label) in enumerate((s, c) for s in ("train", "test") for c in ("joy", "fear")):
        Image.new("RGB", (16, 16), (60 * n, 255 - 60 * n, 90)).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,{split},{label}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    given = {"data": str(tmp_path), "classes": ["joy", "fear"], "space": "ekman6", "ring": "mikels_induced"}

    def target(**more):
        return pictures_arena(PicturesSpec(**given, **more), precision="fp32", device="cpu")(0).targets("labels")[0]

    assert target(prior="smoothing", prior_epsilon=0.4).tolist() == pytest.approx([0.8, 0.2], abs=1e-6)
    space = PicturesSpec(**given).emotion_space()
    wanted = prior_matrix("wheel", ("joy", "fear"), space, 2.5, 0.02)[0]
    assert target(prior="wheel", prior_sigma=2.5, prior_epsilon=0.02).tolist() == pytest.approx(wanted, abs=1e-6)
    assert wanted != pytest.approx(prior_matrix("wheel", ("joy", "fear"), space)[0], abs=1e-3)
    for wrong in ({"prior_sigma": 0.0}, {"prior_epsilon": -0.1}, {"prior": "smoothing", "prior_epsilon": 1.0}):
        with pytest.raises(SettingsError, match=r"epsilon|sigma"):
            PicturesSpec(**given, **wrong)


def test_the_numbers_of_a_prior_are_in_the_key_only_where_they_differ(folder):
    kind = arena_kind("pictures")
    bare = spec_values(kind, PicturesSpec(data=str(folder)))
    assert not {"prior_sigma", "prior_epsilon"} & set(bare), "keys of rows that are stored already"
    given = {"kind": "pictures", "data": str(folder), "prior_sigma": 1.0, "prior_epsilon": 0.3}
    assert spec_values(*read_arena(given)) == bare | {"prior_epsilon": 0.3}


def test_the_share_that_a_model_was_trained_on_is_left_out(folder):
    make = pictures_arena(
        PicturesSpec(data=str(folder), train_from=0.5, train_pictures=4, test_pictures=6),
        precision="fp32",
        device="cpu",
    )
    arenas = [make(seed) for seed in (0, 1, 0)]
    for arena in arenas:
        assert len(arena.train) == 4
        assert len(arena.test) == 6
        assert all(position_of(name) >= 0.5 for name in arena.train.ids)
    assert arenas[0].train.ids == arenas[2].train.ids != arenas[1].train.ids
    assert arenas[0].test.ids == arenas[1].test.ids


def test_weights_come_from_a_file_and_its_card_is_quoted(folder, tmp_path):
    file = tmp_path / "own.safetensors"
    spec = PicturesSpec(data=str(folder), weights=str(file))
    with pytest.raises(SettingsError, match=r"scripts/train_lab\.py"):
        pictures_arena(spec)
    file.write_bytes((loading.nano_folder() / "nano.safetensors").read_bytes())
    arena = pictures_arena(spec, precision="fp32", device="cpu")(0)
    assert arena.backbone.name == f"nano@{file}"
    assert "weights of the file own.safetensors" in arena.words
    (tmp_path / "own.json").write_text(json.dumps({"what": "small, ours", "command": "python scripts/train_lab.py"}))
    arena = pictures_arena(spec, precision="fp32", device="cpu")(0)
    assert arena.words.endswith("Model: small, ours; made by `python scripts/train_lab.py`.")


def test_rows_are_filed_under_pictures_and_weights(folder, tmp_path):
    kind = arena_kind("pictures")
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    spec = PicturesSpec(data=str(folder), weights=str(file))
    first = spec_values(kind, spec)
    assert first == spec_values(kind, spec)
    file.write_bytes(b"two")
    assert spec_values(kind, spec) != first


def test_rows_are_filed_under_texts_and_space(folder, tmp_path):
    kind = arena_kind("pictures")
    files = {"templates": "t.txt", "descriptions": "d.json", "space": "moods.yaml"}
    for key, name in files.items():
        (tmp_path / name).write_text("classes: [cat, ship]" if key == "space" else '{"cat": ["a {}"]}')
    spec = PicturesSpec(data=str(folder), **{key: str(tmp_path / name) for key, name in files.items()})
    found = [spec_values(kind, spec)]
    for key, name in files.items():
        (tmp_path / name).write_text("classes: [ship, cat]" if key == "space" else '{"cat": ["my {}"]}')
        found.append(spec_values(kind, spec))
        assert found[-1] not in found[:-1], key
    with pytest.raises(SettingsError, match="mikels8"):
        PicturesSpec(data=str(folder), descriptions="nowhere.json").fingerprint()


def test_wrong_sections_are_told_before_anything_is_opened():
    with pytest.raises(UnknownNameError, match=r"blurr.*blur"):
        read_arena({"kind": "shifted_pictures", "data": "x", "shift": "blurr"})
    with pytest.raises(SettingsError, match="data:"):
        read_arena({"kind": "pictures"})
    with pytest.raises(SettingsError, match="train_from"):
        read_arena({"kind": "pictures", "data": "x", "train_from": 1.0})
    with pytest.raises(UnknownNameError, match="severity"):
        read_arena({"kind": "pictures", "data": "x", "severity": 1.0})


def test_test_pictures_need_labels(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "manifest.csv").write_text("path,split,label\na.png,test,\n")
    with pytest.raises(DataError):
        pictures_arena(PicturesSpec(data=str(tmp_path), train_split="test", classes=["cat"]))


def test_a_row_runs_and_is_measured_without_the_shift_too(folder, tmp_path):
    recipe_file = tmp_path / "lab.yaml"
    recipe_file.write_text(
        "method: zero_shot\narena:\n  kind: shifted_pictures\n"
        f"  data: {folder}\n  shift: fading\n  severity: 50\nmethods: {{zero_shot: }}\n"
    )
    recipe = read_experiment(str(recipe_file))
    arena = recipe.kind.open(recipe.spec, recipe.backbone, "fp32", "cpu")(0)
    result = run_row(arena, plan_row(recipe, "zero_shot"), 0, "cpu")
    # At this severity all pictures are the same flat grey: every prediction is equal, and half of them right.
    assert result.metrics["accuracy"] == 0.5
    assert torch.allclose(result.probabilities, result.probabilities[:1].expand(8, -1), atol=1e-6)
    assert result.clean_metrics is not None
    assert result.clean_metrics["kl"] != result.metrics["kl"]


def test_the_shipped_lab_recipe_is_read():
    recipe = read_experiment("lab_cifar.yaml")
    assert isinstance(recipe.spec, ShiftedPicturesSpec)
    assert recipe.spec.train_from == 0.7
    assert list(recipe.methods)[0] == "zero_shot"
