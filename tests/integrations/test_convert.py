"""Files of CoOp, Dassl and LaFTer become recipes and manifests; the fixtures are written in their true formats."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hybridcascade.cli import main
from hybridcascade.config import TrainConfig
from hybridcascade.data.sources import open_source
from hybridcascade.errors import ManifestError, SettingsError
from hybridcascade.integrations.convert_recipe import convert_recipe
from hybridcascade.integrations.convert_split import convert_split
from hybridcascade.recipes import build_config

COCOOP = """
DATALOADER:
  TRAIN_X:
    BATCH_SIZE: 4
  TEST:
    BATCH_SIZE: 100
  NUM_WORKERS: 8

INPUT:
  SIZE: (224, 224)
  INTERPOLATION: "bicubic"
  PIXEL_MEAN: [0.48145466, 0.4578275, 0.40821073]
  PIXEL_STD: [0.26862954, 0.26130258, 0.27577711]
  TRANSFORMS: ["random_resized_crop", "random_flip", "normalize"]

OPTIM:
  NAME: "sgd"
  LR: 0.002
  MAX_EPOCH: 10
  LR_SCHEDULER: "cosine"
  WARMUP_EPOCH: 1
  WARMUP_TYPE: "constant"
  WARMUP_CONS_LR: 1e-5

MODEL:
  BACKBONE:
    NAME: "ViT-B/16"

TRAINER:
  COCOOP:
    N_CTX: 16
    CTX_INIT: ""
    PREC: "fp16"
"""
HYBRID = """
DATASET:
  NAME: "Emotion6"
MODEL:
  BACKBONE:
    NAME: "ViT-B/32"
OPTIM:
  NAME: "adamw"
  LR: 5e-4
  WEIGHT_DECAY: 0.02
  MAX_EPOCH: 20
  LR_SCHEDULER: "multi_step"
  STEPSIZE: (10, 15)
  GAMMA: 0.5
HYBRID_CASCADE:
  STAGE_BOUNDARIES: [[5, 6, 7], [8, 9], [10, 11, 12]]
  EXTRACTION_INDICES: [5, 6, 7, 8, 9, 10, 11, 12]
  NGA_INIT_SIGMA: 1.5
  CONSISTENCY_LOSS_WEIGHT: 0.2
  DEPTH: 3
LABEL_FREE:
  SETTINGS: ["prompts=2"]
SEED: 7
USE_CUDA: False
"""


@pytest.fixture
def write(tmp_path: Path):
    def save(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return save


def account(found) -> dict[str, str]:
    return {key.key: key.became or ("left out" if key.known else "unknown") for key in found.keys}


def runs(recipe: dict) -> TrainConfig:
    return build_config(TrainConfig, {**recipe, "data": "photos", "classes": "a,b"})


def test_a_coop_configuration_flag_by_flag(write):
    found = convert_recipe([write("a.yaml", COCOOP)], ["--trainer", "LaFTer"])
    assert account(found) == {
        "DATALOADER.TRAIN_X.BATCH_SIZE": "image.batch_size: 4",
        "DATALOADER.TEST.BATCH_SIZE": "left out",
        "DATALOADER.NUM_WORKERS": "workers: 8",
        "INPUT.SIZE": "left out",
        "INPUT.INTERPOLATION": "left out",
        "INPUT.PIXEL_MEAN": "left out",
        "INPUT.PIXEL_STD": "left out",
        "INPUT.TRANSFORMS": "left out",
        "OPTIM.NAME": "left out",
        "OPTIM.LR": "left out",
        "OPTIM.MAX_EPOCH": "image.epochs: 10",
        "OPTIM.LR_SCHEDULER": "left out",
        "OPTIM.WARMUP_EPOCH": "left out",
        "OPTIM.WARMUP_TYPE": "left out",
        "OPTIM.WARMUP_CONS_LR": "left out",
        "MODEL.BACKBONE.NAME": "backbone: ViT-B-16/openai",
        "TRAINER.COCOOP.N_CTX": "left out",
        "TRAINER.COCOOP.CTX_INIT": "left out",
        "TRAINER.COCOOP.PREC": "precision: auto",
        "TRAINER.NAME": "method: lafter",
    }
    assert next(key.value for key in found.keys if key.key == "OPTIM.WARMUP_CONS_LR") == 1e-5, "as yacs reads it"
    phase = runs(found.recipe).phases()["image"]
    assert (phase.epochs, phase.batch_size, phase.schedule) == (10, 4, "none")
    assert phase.lr == 5e-4, "a rate of SGD does not carry over"
    assert "INPUT.TRANSFORMS: ['random_resized_crop', 'random_flip', 'normalize']  (LaFTer's code" in found.text()
    assert "OPTIM.LR_SCHEDULER: 'cosine'  (LaFTer's training does not follow it" in found.text()


def test_schedule_and_view_of_other_trainers_are_carried_over(write):
    for flags in (["--trainer", "HybridCascadeLaFTer"], ["--trainer", "LaFTer", "LABEL_FREE.PRECISION", "fp32"]):
        found = convert_recipe([write("a.yaml", COCOOP)], flags)
        told = account(found)
        assert told["INPUT.TRANSFORMS"] == "view: affect_safe"
        assert told["OPTIM.LR_SCHEDULER"] == "image.schedule: cosine_warmup"
        assert told["OPTIM.WARMUP_EPOCH"] == "image.warmup_epochs: 1.0"
        phase = runs(found.recipe).phases()["image"]
        assert (phase.schedule, phase.warmup_epochs) == ("cosine_warmup", 1.0)


def test_coop_itself_learns_from_labels_so_its_epochs_have_no_counterpart(write):
    found = convert_recipe([write("a.yaml", COCOOP)])
    assert found.recipe["method"] == "linear_probe"
    assert account(found)["OPTIM.MAX_EPOCH"] == "left out"
    assert "No trainer was named" in found.text()
    runs(found.recipe)


def test_the_documents_keys_become_settings(write):
    found = convert_recipe([write("a.yaml", HYBRID)], ["TRAINER.NAME", "HybridCascadeLaFTer", "OPTIM.MAX_EPOCH", "30"])
    assert found.recipe == {
        "method": "hybrid_cascade",
        "settings": {
            "sigma": 1.5, "consistency": 0.2, "plan": [[5, 6, 7], [8, 9], [10, 11, 12]], "prompts": 2,
        },
        "image": {
            "epochs": 30, "lr": 5e-4, "weight_decay": 0.02, "schedule": "multistep", "milestones": [10.0, 15.0],
            "gamma": 0.5,
        },
        "backbone": "ViT-B-32/openai", "seed": 7, "device": "cpu",
    }  # fmt: skip
    assert [key.key for key in found.unknown] == ["HYBRID_CASCADE.DEPTH"]
    assert "HYBRID_CASCADE.DEPTH: 3" in found.text()
    assert runs(yaml.safe_load(found.text())).settings["sigma"] == 1.5


def test_a_command_line_of_lafter(write):
    words = shlex.split(
        "--root data --trainer LaFTer --lr 0.0005 --txt_cls cls_only --txt_epochs 300 --batch_size=25 --zero_hot "
        "--scheduler cosine --weight-decay 0.0001 --output-dir out/x"
    )
    found = convert_recipe([write("b32.yaml", 'MODEL:\n  BACKBONE:\n    NAME: "ViT-B/32"')], words)
    assert found.recipe == {
        "method": "lafter", "text_mode": "names", "text": {"epochs": 300}, "image": {"batch_size": 25},
        "out": "out/x", "backbone": "ViT-B-32/openai", "lr": 0.0005,
    }  # fmt: skip
    assert [(key.key, "Did you mean '--zero_shot'" in key.note) for key in found.unknown] == [("--zero_hot", True)]
    assert {"--scheduler", "--weight-decay", "DATASET.ROOT"} == {key.key for key in found.left_out}
    phases = runs(found.recipe).phases()
    assert (phases["text"].lr, phases["image"].lr, phases["image"].schedule) == (5e-4, 5e-4, "none")


def test_zero_shot_and_unknown_trainers(write):
    config = write("a.yaml", "SEED: 1")
    assert convert_recipe([config], ["--trainer", "LaFTer", "--txt_cls", "zero_shot"]).recipe["method"] == "zero_shot"
    assert convert_recipe([config], ["--trainer", "ZeroshotCLIP"]).recipe["method"] == "zero_shot"
    found = convert_recipe([config], ["--trainer", "LaFTr"])
    assert [key.key for key in found.unknown] == ["TRAINER.NAME"]
    assert "Did you mean 'LaFTer'" in found.unknown[0].note


STEPS = {
    "every third": (
        {"STEPSIZE": [3], "GAMMA": 0.2},
        {"schedule": "multistep", "milestones": [3.0, 6.0, 9.0], "gamma": 0.2},
    ),
    "never": ({"STEPSIZE": [-1]}, {"schedule": "none"}),
}


@pytest.mark.parametrize("name", STEPS)
def test_single_step_schedules(name: str, write):
    keys, wanted = STEPS[name]
    optim = {"NAME": "adam", "MAX_EPOCH": 10, "LR_SCHEDULER": "single_step", **keys}
    found = convert_recipe([write("a.yaml", yaml.safe_dump({"OPTIM": optim}))])
    assert found.recipe["image"] == {"epochs": 10, **wanted}


def test_contradicting_keys_and_missing_files_are_errors(write, tmp_path: Path):
    wrong = write("a.yaml", "NGA: {INIT_SIGMA: 2.0}\nHYBRID_CASCADE: {NGA_INIT_SIGMA: 1.0}")
    with pytest.raises(SettingsError, match="contradict each other"):
        convert_recipe([wrong])
    with pytest.raises(SettingsError, match="found nothing"):
        convert_recipe([tmp_path / "no.yaml"])
    with pytest.raises(SettingsError, match=r"value after 'OPTIM\.LR'"):
        convert_recipe([wrong], ["OPTIM.LR"])


NAMES = ["polar_bear", "Abyssinian cat", "2-door car"]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data set as CoOp keeps it: `images/` and a split file beside it; its numbers are not alphabetical."""
    home = tmp_path / "pets"
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(NAMES):
        for number, part in enumerate(split):
            path = f"{name}/{number}, first.png"
            (home / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (label * 40, number * 40, 0)).save(home / "images" / path)
            split[part].append([path, label, name])
    (home / "split_zhou_Pets.json").write_text(json.dumps(split, indent=4))
    return home


def test_a_split_becomes_a_manifest_that_reads_back(pets: Path):
    found = convert_split(pets / "split_zhou_Pets.json", pets / "images", pets / "manifest.csv")
    found.save(pets / "manifest.csv", pets / "classes.txt")
    assert found.classes == tuple(NAMES), "underscores are kept, in the order of the numbers"
    assert (pets / "classes.txt").read_text().splitlines() == NAMES
    assert found.counts == {"train": 3, "val": 3, "test": 3}
    source = open_source(pets / "manifest.csv", classes=NAMES)
    original = json.loads((pets / "split_zhou_Pets.json").read_text())
    wanted = {f"images/{path}": (label, split) for split, rows in original.items() for path, label, _ in rows}
    assert {s.id: (s.label, s.split) for s in source.samples} == wanted
    assert source.open(0).size == (8, 8)


def test_what_is_wrong_in_a_split_is_named(pets: Path, tmp_path: Path):
    file = pets / "split_zhou_Pets.json"
    good = json.loads(file.read_text())

    def refused(change, message: str, manifest: Path = pets / "manifest.csv") -> None:
        content = json.loads(json.dumps(good))
        change(content)
        file.write_text(json.dumps(content))
        with pytest.raises(ManifestError, match=message):
            convert_split(file, pets / "images", manifest)

    refused(lambda c: c["val"][1].__setitem__(0, "gone.png"), r"1 of 9 missing, first 'gone.png'")
    refused(lambda c: c["val"][1].__setitem__(2, "polar bear"), r"'val', entry 2: .*'polar bear' for number 1")
    refused(lambda c: c["test"].append(c["train"][0]), r"'test', entry 4: .*already in 'train'")
    refused(lambda c: c["train"].__setitem__(0, ["x.png", "one", "a"]), r"'train', entry 1: expected \[path, number")
    refused(lambda c: c.__setitem__("extra", []), "the keys 'train', 'val', 'test', 'extra'")
    refused(lambda c: c["train"].append(["../../secret.png", 0, NAMES[0]]), "expected a path below")
    refused(lambda c: [row.__setitem__(2, "one") for part in c.values() for row in part], "numbers \\[0, 1, 2\\]")
    refused(lambda c: None, "above the pictures", tmp_path / "elsewhere" / "manifest.csv")
    file.write_text("{")
    with pytest.raises(ManifestError, match="valid JSON"):
        convert_split(file, pets / "images", pets / "manifest.csv")
    with pytest.raises(ManifestError, match="--images"):
        convert_split(file, pets / "pictures", pets / "manifest.csv") if file.write_text(json.dumps(good)) else None


def test_the_command(pets: Path, write, tmp_path: Path, capsys):
    split = str(pets / "split_zhou_Pets.json")
    manifest = str(pets / "manifest.csv")
    assert main(["convert", split, "--out", manifest, "--classes-out", str(pets / "classes.txt")]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == manifest
    assert "3 train, 3 val, 3 test; 3 classes" in err
    assert main(["convert", split, "--out", manifest]) == 1
    assert "exists already; nothing was changed" in capsys.readouterr().err

    recipe = str(tmp_path / "recipe.yaml")
    assert main(["convert", write("a.yaml", HYBRID), "--flags", "--trainer HybridCascadeLaFTer", "--out", recipe]) == 0
    err = capsys.readouterr().err
    assert "HYBRID_CASCADE.DEPTH: 3 unknown" in err
    assert "1 keys are unknown" in err
    assert runs(yaml.safe_load(Path(recipe).read_text())).method == "hybrid_cascade"

    assert main(["convert", write("b.yaml", HYBRID), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["settings"]["consistency"] == 0.2
    assert [key["key"] for key in told["unknown"]] == ["HYBRID_CASCADE.DEPTH"]
    assert main(["convert", split, write("c.yaml", HYBRID)]) == 2
    assert main(["convert", write("d.yaml", HYBRID), "--images", "x"]) == 2
