"""Every shipped recipe is parsed against the real configuration, and `--config` obeys the usual order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hybridcascade.cli.demo import parser as demo_parser
from hybridcascade.cli.train import parser as train_parser
from hybridcascade.cli.train import with_own_recipe
from hybridcascade.config import TrainConfig
from hybridcascade.demo_config import DemoConfig, shipped_demo
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods.settings import default_phases, method_settings
from hybridcascade.recipes import build_config, find_recipe, read_recipe, shipped_recipes

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(p.name for p in FOLDER.glob("*.yaml"))


def train_config(*arguments: str) -> TrainConfig:
    reader = train_parser()
    return reader.config(TrainConfig, reader.read(list(arguments)))


def test_the_named_recipes_are_there() -> None:
    wanted = {"sandbox.yaml", "demo.yaml", "vit_b32.yaml", "vit_b16.yaml", "vit_l14.yaml", "own_pictures.yaml"}
    assert wanted <= set(RECIPES) == set(shipped_recipes())


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "demo.yaml"])
def test_each_training_recipe_is_parsed(name: str) -> None:
    config = train_config("--config", str(FOLDER / name), "--data", "photos", "--classes", "a,b")
    written = read_recipe(FOLDER / name)
    assert config.method == written["method"]
    expected = dataclasses.asdict(default_phases(config.method)["image"]) | written.get("image", {})
    assert dataclasses.asdict(config.phases()["image"]) == expected
    method_settings(config.method, config.settings)


def test_the_demo_recipe_has_the_rows_that_the_issue_names() -> None:
    reader = demo_parser()
    config = reader.config(DemoConfig, reader.read(["--config", str(FOLDER / "demo.yaml"), "--seed", "3"]))
    assert [row.method for row in config.rows] == [
        "zero_shot", "text_only", "lafter", "hybrid_cascade_seed", "hybrid_cascade", "linear_probe"
    ]  # fmt: skip
    assert (config.domain, config.seed, config.out) == ("shifted", 3, "runs/demo")
    for row in config.rows:
        row.train_config(config.seed, config.backbone).phases()
        method_settings(row.method, row.settings)
    lafter = next(row for row in config.rows if row.method == "lafter")
    assert method_settings("lafter", lafter.settings).preset == "faithful"


def test_shipped_demo_takes_changes_and_refuses_unknown_ones() -> None:
    assert shipped_demo(test_pictures=7).test_pictures == 7
    with pytest.raises(UnknownNameError, match="Did you mean 'test_pictures'"):
        shipped_demo(test_picturs=7)


def test_options_after_the_recipe_win_and_the_rest_stays(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: photos\nclasses: [awe, fear]\nmethod: hybrid_cascade\nseed: 5\nresume: false\nstrict: true\n"
        "image: {epochs: 7, schedule: multistep, milestones: [2, 4]}\nsettings: {prompts: 4, sigma: 2}\n"
    )
    config = train_config("--config", str(recipe), "--image.epochs", "9", "--set", "sigma=0.5", "--text-cache", "none")
    image = config.phases()["image"]
    assert (image.epochs, image.schedule, image.milestones) == (9, "multistep", (2.0, 4.0))
    assert config.settings == {"prompts": 4, "sigma": 0.5}
    assert (config.classes, config.seed, config.strict, config.text_cache) == (["awe", "fear"], 5, True, "none")


def test_a_wrong_type_in_a_recipe_is_told(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: many\n")
    with pytest.raises(SettingsError, match="--seed: expected a whole number, got 'many'"):
        train_config("--config", str(recipe))


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "just text"])
def test_a_recipe_that_is_no_mapping_is_told(tmp_path: Path, content: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    with pytest.raises(SettingsError, match=r"mine\.yaml"):
        train_config("--config", str(recipe))


def test_shipped_recipes_are_found_by_name() -> None:
    assert find_recipe("vit_b32.yaml").name == "vit_b32.yaml"
    assert train_config("--config", "vit_l14.yaml", "--data", "x").backbone == "ViT-L-14/openai"


def test_the_resolved_configuration_is_a_recipe(tmp_path: Path) -> None:
    import yaml

    config = train_config(
        "--data", "photos", "--classes", "a,b", "--method", "lafter", "--lr", "1e-3", "--epochs", "4",
        "--text.schedule", "cosine", "--out", "runs/x", "--seed", "2",
    )  # fmt: skip
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(config.resolved()))
    again = train_config("--config", str(saved))
    assert again.phases() == config.phases()
    assert again.resolved() == config.resolved()
    assert again.phases()["text"].lr == again.phases()["image"].lr == 1e-3


def test_resume_takes_the_runs_own_configuration(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert with_own_recipe(["--out", str(out), "--resume"]) == ["--out", str(out), "--resume"]
    out.mkdir()
    (out / "config.yaml").write_text("data: photos\nclasses: [a, b]\n")
    assert with_own_recipe(["--out", str(out), "--resume"])[:2] == ["--config", str(out / "config.yaml")]
    assert with_own_recipe([f"--out={out}", "--resume"])[:2] == ["--config", str(out / "config.yaml")]
    assert with_own_recipe(["--config", "x", "--out", str(out), "--resume"])[:2] == ["--config", "x"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": "abc"}, "expected seed to be a whole number, got 'abc'"),
        ({"seed": 1.5}, "expected seed to be a whole number"),
        ({"seed": True}, "expected seed to be a whole number"),
        ({"seed": None}, "expected seed to be a whole number"),
        ({"image": {"lr": "fast"}}, "expected lr to be a number, got 'fast'"),
        ({"use_labels": "yes please"}, "expected use_labels to be true or false"),
    ],
)
def test_numbers_of_a_recipe_are_checked(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_config(TrainConfig, {"data": "photos", **values}, "mine.yaml")


def test_what_yaml_takes_for_text_is_a_number() -> None:
    config = build_config(TrainConfig, {"data": "photos", "image": {"lr": "1e-4", "epochs": None}, "feature_gb": 2})
    assert (config.image.lr, config.image.epochs, config.feature_gb) == (1e-4, None, 2)
