"""From recipes to rows: what is filled in, what decides a key, and which words are refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from hybridcascade.cli.parsing import CommandParser, field_texts
from hybridcascade.config import split_names
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.experiments.components import COMPONENTS, component_changes
from hybridcascade.experiments.jobs import AblateConfig, CompareConfig, ablation_jobs, comparison_jobs, list_components
from hybridcascade.experiments.kinds import ARENAS, ArenaKind, SandboxSpec, read_arena, register_arena
from hybridcascade.experiments.options import ExperimentOptions
from hybridcascade.experiments.plans import RowChanges, parse_seeds, plan_row, read_experiment
from hybridcascade.experiments.text_jobs import TextsConfig
from hybridcascade.methods.settings import SETTINGS, default_phases, default_view, method_settings
from hybridcascade.recipes import shipped_recipes


def silent(_: str) -> None:
    """Say nothing."""


def test_the_recipes_own_method_has_its_training_keys_and_others_do_not(recipe: Path) -> None:
    read = read_experiment(str(recipe))
    ours, lafter = plan_row(read, "hybrid_cascade"), plan_row(read, "lafter")
    assert (ours.phases["image"].epochs, ours.phases["image"].batch_size) == (1, 20)
    expected = method_settings("hybrid_cascade", {"teacher_views": 1, "predict_views": 1})
    assert ours.settings == dataclasses.asdict(expected)
    assert (lafter.phases["text"].epochs, lafter.phases["image"].epochs) == (2, 1)
    assert lafter.phases["image"].lr == default_phases("lafter")["image"].lr
    assert lafter.view == default_view("lafter")
    assert [plan_row(read, n).texts for n in ("zero_shot", "text_only", "linear_probe")] == [
        "templates", "descriptions", "descriptions"
    ]  # fmt: skip
    assert [plan_row(read, n).targets for n in ("lafter", "hybrid_cascade", "on_votes", "linear_probe")] == [
        None, None, "votes", "default"
    ]  # fmt: skip
    named = plan_row(read, "on_votes")
    assert (named.label, named.method, named.phases) == ("on_votes", "hybrid_cascade", ours.phases)


def test_keys_of_the_arena_are_changed_after_the_name(recipe: Path) -> None:
    plain, changed = read_experiment(str(recipe)), read_experiment(f"{recipe}@domain=clean,severity=2,votes=3")
    assert (plain.name, changed.name) == ("tiny", "tiny@domain=clean,severity=2,votes=3")
    assert changed.spec == dataclasses.replace(plain.spec, domain="clean", severity=2, votes=3)
    assert changed.arena_values() != plain.arena_values()
    _, jobs = comparison_jobs(CompareConfig(only=True), [str(recipe), f"{recipe}@votes=3"], silent)
    assert [job.recipe.spec.votes for job in jobs] == [10, 3]
    for wrong, words in (("@vots=3", "Did you mean 'votes'"), ("@votes=3,4", "'4'"), ("@votes=0", "votes must be 1")):
        with pytest.raises(SettingsError, match=words):
            read_experiment(f"{recipe}{wrong}")
    with pytest.raises(SettingsError, match="different file names"):
        comparison_jobs(CompareConfig(), [str(recipe), str(recipe)], silent)


def test_another_backbone_for_all_rows(recipe: Path) -> None:
    _, jobs = comparison_jobs(CompareConfig(only=True), [str(recipe)], silent)
    made, others = comparison_jobs(CompareConfig(only=True, backbone="ViT-B-32/openai"), [str(recipe)], silent)
    assert (jobs[0].recipe.backbone, others[0].recipe.backbone) == ("nano", "ViT-B-32/openai")
    assert jobs[0].recipe.arena_values() != others[0].recipe.arena_values()
    assert "--backbone ViT-B-32/openai" in made.command
    assert [plan.values() for plan in jobs[0].plans] == [plan.values() for plan in others[0].plans]
    with pytest.raises(SettingsError, match="MODEL/TAG"):
        read_experiment(str(recipe), "ViT-B-32")


def test_changes_are_laid_over_the_row(recipe: Path) -> None:
    read = read_experiment(str(recipe))
    changed = plan_row(read, "hybrid_cascade", changes=RowChanges(settings={"plan": "last"}, view="none"))
    assert (changed.settings["plan"], changed.settings["teacher_views"], changed.view) == ("last", 1, "none")
    assert changed.phases == plan_row(read, "hybrid_cascade").phases


def test_a_key_changes_with_whatever_decides_the_result_and_with_nothing_else(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(text: str = "", row: str = "hybrid_cascade", seed: int = 0) -> str:
        path = recipe.parent / f"{text.strip('{: }') or 'same'}.yaml".replace(" ", "_")
        path.write_text(recipe.read_text().replace("teacher_views: 1", text or "teacher_views: 1"))
        read = read_experiment(str(path))
        return plan_row(read, row).key(read.arena_values(), seed)

    first = key()
    different = [
        key(seed=1), key("teacher_views: 2"), key(row="lafter"), key(row="on_votes"),
        plan_row(read_experiment(str(recipe)), "hybrid_cascade").key({"kind": "other"}, 0),
    ]  # fmt: skip
    recipe.write_text(recipe.read_text().replace("train_pictures: 24", "train_pictures: 25"))
    different.append(key())
    recipe.write_text(recipe.read_text().replace("25", "24").replace("batch_size: 20", "batch_size: 21"))
    different.append(key())
    recipe.write_text(recipe.read_text().replace("batch_size: 21", "batch_size: 20"))
    assert key() == first
    monkeypatch.setattr("hybridcascade.experiments.plans.version", lambda _: "99.0")
    different.append(key())
    monkeypatch.undo()
    assert len({first, *different}) == len(different) + 1
    relabelled = dataclasses.replace(plan_row(read_experiment(str(recipe)), "hybrid_cascade"), label="x", why="y")
    assert relabelled.key(read_experiment(str(recipe)).arena_values(), 0) == key()


def test_shots_are_a_row_of_their_own_and_go_with_it_into_an_ablation(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("targets: votes}", "targets: votes, shots: 4}"))
    read = read_experiment(str(recipe))
    few = plan_row(read, "on_votes")
    assert few.shots == 4
    assert few.values() == {**dataclasses.replace(few, shots=None).values(), "shots": [4, "unlabelled"]}
    other = dataclasses.replace(few, shots=8)
    assert len({plan.key({}, 0) for plan in (few, other, dataclasses.replace(few, shots=None))}) == 3
    _, jobs = ablation_jobs(AblateConfig(method="on_votes", only=True), [str(recipe)], silent)
    assert len(jobs[0].plans) > 3
    assert {plan.shots for plan in jobs[0].plans} == {4}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: sandbox", "kind: sandbx", ["kind of arena 'sandbx'", "Did you mean 'sandbox'"]),
        ("train_pictures: 24", "train_picturs: 24", ["arena of", "'train_picturs'", "train_pictures"]),
        ("train_pictures: 24", "train_pictures: 0", ["train_pictures"]),
        ("kind: sandbox", "kind: sandbox, domain: aged", ["domain", "shifted"]),
        ("kind: sandbox", "kind: sandbox, targets: vots", ["targets", "Did you mean 'votes'"]),
        ("teacher_views: 1", "teacher_vews: 1", ["'teacher_vews'", "teacher_views"]),
        ("  lafter: {", "  laftr: {", ["'laftr'", "Did you mean 'lafter'"]),
        ("targets: votes}", "target: votes}", ["methods.on_votes", "'target'", "Did you mean 'targets'"]),
        ("backbone: nano", "backbon: nano", ["'backbon'", "Did you mean 'backbone'"]),
        ("text_only: {text", "text_only: {image: {epochs: 1}, text", ["text_only", "image"]),
        ("{text: {epochs: 2}}", "{targets: votes}", ["text_only", "cannot learn from targets"]),
        ("targets: votes}", "shots: 4}", ["on_votes", "shots are of targets", "targets: labels"]),
        ("targets: votes}", "targets: votes, shots: 0}", ["shots must be 1"]),
        ("targets: votes}", "targets: votes, shots: 4, target_share: 0.5}", ["contradict"]),
        ("arena: {", "other_arena: {", ["arena"]),
        ("  sigma_2: {settings", "  sigma_2: [settings", ["YAML"]),
    ],
)
def test_wrong_recipes_are_told(recipe: Path, old: str, new: str, words: list[str]) -> None:
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    with pytest.raises(SettingsError) as told:
        read_experiment(str(recipe))
    for word in words:
        assert word in str(told.value)


def test_seeds_are_a_count_or_a_list() -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("3,") == (3,)
    assert parse_seeds("4,0") == parse_seeds("[4, 0]") == parse_seeds([4, 0]) == (4, 0)
    assert parse_seeds(2) == (0, 1)
    for wrong in ("", "0", "many", "1,1", "-1,2", []):
        with pytest.raises(SettingsError, match="seeds"):
            parse_seeds(wrong)


@pytest.mark.parametrize(
    ("config", "own", "out"),
    [
        (CompareConfig, ["methods", "baseline", "tune", "only"], "runs/compare"),
        (AblateConfig, ["components", "method", "targets", "tune", "only", "list"], "runs/ablate"),
        (TextsConfig, ["descriptions", "templates", "methods"], "runs/texts"),
    ],
)
def test_the_commands_share_their_options_and_show_their_own_first(config: type, own: list[str], out: str) -> None:
    shared = [field.name for field in dataclasses.fields(ExperimentOptions)]
    assert {field.name for field in dataclasses.fields(config)} == {*own, *shared}
    help_text = CommandParser("x", "what", "hybridcascade x", config, experiments=True).format_help()
    assert re.findall(r"^  --([a-z]+)\b", help_text, re.MULTILINE)[: len(own) + len(shared)] == [*own, *shared]
    assert config().out == out
    assert f"(default: {out})" in " ".join(help_text.split())
    base = field_texts(ExperimentOptions)
    assert base["out"].startswith("Folder for tables")
    assert {name: field_texts(config)[name] for name in shared} == base
    for wrong in ({"seeds": "many"}, {"device": "tpu"}, {"metrics": "cosin"}, {"csv": True, "latex": True}):
        with pytest.raises(SettingsError):
            config(**wrong)


def test_names_are_divided_by_commas() -> None:
    assert split_names(" zero_shot, lafter,,") == ["zero_shot", "lafter"]
    assert split_names(None) == split_names(" ,") == []


def test_references_and_baseline_are_added_and_said(recipe: Path) -> None:
    said: list[str] = []
    options = CompareConfig(methods="lafter,lafter", baseline="text_only")
    config, jobs = comparison_jobs(options, [str(recipe)], said.append)
    assert [plan.label for plan in jobs[0].plans] == ["text_only", "lafter", "zero_shot", "linear_probe"]
    assert [line.split(": ")[1].split()[0] for line in said] == ["text_only", "zero_shot", "linear_probe"]
    assert (config.seeds, config.baseline) == ((0, 1, 2, 3, 4), "text_only")
    _, bare = comparison_jobs(CompareConfig(methods="lafter", baseline="lafter", only=True), [str(recipe)], silent)
    assert [plan.label for plan in bare[0].plans] == ["lafter"]
    _, usual = comparison_jobs(CompareConfig(), [str(recipe)], silent)
    assert [plan.label for plan in usual[0].plans] == [
        "zero_shot", "hybrid_cascade", "text_only", "lafter", "on_votes", "linear_probe"
    ]  # fmt: skip


def test_heads_are_tuned_where_the_method_can(recipe: Path) -> None:
    said: list[str] = []
    _, jobs = comparison_jobs(CompareConfig(tune="heads", only=True), [str(recipe)], said.append)
    plans = {plan.label: plan for plan in jobs[0].plans}
    assert list(plans["hybrid_cascade"].phases) == ["text", "heads"]
    assert list(plans["lafter"].phases) == ["text", "image"]
    assert [line for line in said if "lafter" in line and "zero_shot" not in line]


def test_an_ablation_is_the_full_method_and_one_variant_a_component(recipe: Path) -> None:
    said: list[str] = []
    names = "plan_last,view_none,sigma_2,aggregation_nga"
    config, jobs = ablation_jobs(AblateConfig(components=names, targets="votes"), [str(recipe)], said.append)
    plans = {plan.label: plan for plan in jobs[0].plans}
    assert list(plans) == ["full", "plan_last", "view_none", "sigma_2", "zero_shot", "linear_probe"]
    assert any("aggregation_nga" in line and "so already" in line for line in said)
    assert config.baseline == "full"
    full = plans["full"]
    assert {plan.targets for label, plan in plans.items() if label not in ("zero_shot", "linear_probe")} == {"votes"}
    for label, (key, value) in {"plan_last": ("plan", "last"), "sigma_2": ("sigma", 2.0)}.items():
        assert {**full.settings, key: value} == plans[label].settings
        assert plans[label].settings != full.settings
        assert (plans[label].view, plans[label].phases) == (full.view, full.phases)
    assert plans["view_none"].view == "none"
    assert plans["view_none"].settings == full.settings
    assert "Gaussian" in plans["sigma_2"].why
    with pytest.raises(UnknownNameError, match="Did you mean 'plan_last'"):
        ablation_jobs(AblateConfig(components="plan_lst"), [str(recipe)], silent)
    with pytest.raises(SettingsError, match="components"):
        component_changes("zero_shot", {})
    assert list_components(AblateConfig(), [str(recipe)])["sigma_2"] == "a wider Gaussian"


@pytest.mark.parametrize("method", COMPONENTS)
def test_every_component_is_one_the_method_knows_and_says_why(method: str) -> None:
    components = COMPONENTS[method]
    assert len({component.name for component in components}) == len(components)
    default = method_settings(method)
    for component in components:
        changed = method_settings(method, component.settings)
        before, after = dataclasses.asdict(default), dataclasses.asdict(changed)
        assert {name for name in before if before[name] != after[name]} <= set(component.settings)
        assert component.why
        assert component.settings or component.view
    assert method in SETTINGS


def test_a_kind_of_arena_is_registered_once_and_rightly() -> None:
    good = ArenaKind("elsewhere", SandboxSpec, "a.b:c", "")
    for wrong in (
        dataclasses.replace(good, name="sandbox"), dataclasses.replace(good, name="Else"),
        dataclasses.replace(good, target="a.b.c"), dataclasses.replace(good, spec=dict),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="arena"):
            register_arena(wrong)
    assert "elsewhere" not in ARENAS
    kind, spec = read_arena({"kind": "sandbox", "classes_present": ["awe"]})
    assert (kind.name, spec.classes_present) == ("sandbox", ["awe"])
    for section in (None, {"train_pictures": 3}, {"kind": "sandbox", "classes_present": "awe"}):
        with pytest.raises(SettingsError):
            read_arena(section)


def test_the_recipe_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "documented.yaml"
    path.write_text(block)
    read = read_experiment(str(path))
    assert (read.spec.imbalance, read.spec.classes_present) == (10, ["awe", "fear"])
    assert plan_row(read, "ours_on_votes").targets == "votes"
    assert list(read.components) == ["wide"]


def test_shipped_recipes_with_an_arena_can_be_compared() -> None:
    shipped = {name: path for name, path in shipped_recipes().items() if "\narena:" in path.read_text(encoding="utf-8")}
    assert "sandbox.yaml" in shipped
    _, jobs = comparison_jobs(CompareConfig(), ["sandbox.yaml"], silent)
    labels = [plan.label for plan in jobs[0].plans]
    assert {"zero_shot", "text_only", "lafter", "hybrid_cascade_seed", "hybrid_cascade", "linear_probe"} <= set(labels)
    lafter = next(plan for plan in jobs[0].plans if plan.label == "lafter")
    assert method_settings("lafter", lafter.settings).preset == "faithful"
