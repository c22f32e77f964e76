"""Running rows: each once, resumed where it stopped, the same as undisturbed; the test truth comes last."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hybridcascade.data.sources import MemorySource
from hybridcascade.engine.feature_store import FeatureStore
from hybridcascade.errors import OutputExistsError, OutputPlaceError, SettingsError, UnknownNameError
from hybridcascade.evaluation.tables import METRICS
from hybridcascade.experiments import compare as compare_module
from hybridcascade.experiments import rows as rows_module
from hybridcascade.experiments.arena import class_shares, sandbox_arena
from hybridcascade.experiments.compare import run_experiment, run_rows
from hybridcascade.experiments.jobs import AblateConfig, CompareConfig, ablation_jobs, comparison_jobs
from hybridcascade.experiments.kinds import ArenaKind, SandboxSpec
from hybridcascade.experiments.plans import plan_row, read_experiment
from hybridcascade.experiments.rows import run_row
from hybridcascade.experiments.store import ResultStore
from hybridcascade.sandbox.texts import CLASSES


def silent(_: str) -> None:
    """Say nothing."""


class StubRuns:
    """Rows whose metrics depend on method, settings and seed; dies after `last` of them."""

    def __init__(self, last: int | None = None) -> None:
        self.ran: list[tuple[str, int]] = []
        self.arenas: list[int] = []
        self.last = last

    def __call__(self, arena: Any, plan: Any, seed: int) -> Any:
        if self.last is not None and len(self.ran) == self.last:
            raise KeyboardInterrupt
        assert arena.seed == seed
        self.ran.append((plan.label, seed))
        draw = np.random.default_rng((seed, len(str(sorted(plan.values().items()))))).random()
        metrics = {"accuracy": 0.4 + 0.1 * draw, "kl": 0.5 - 0.1 * draw}
        clean = {"accuracy": 0.9, "kl": 0.1} if plan.method == "zero_shot" else None
        values = {"metrics": metrics, "clean_metrics": clean, "trained_parameters": 3, "seconds": 0.1 * len(self.ran)}
        return SimpleNamespace(metrics=metrics, values=lambda: values)


@pytest.fixture
def stub_arena(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    targets = [torch.eye(8)]

    def make(seed: int) -> Any:
        made.append(seed)
        return SimpleNamespace(seed=seed, ceiling={"accuracy": 0.8}, words="stub", train_targets=targets[0])

    monkeypatch.setattr(ArenaKind, "open", lambda *_: make)
    return made


def jobs_of(recipe: Path, **options: Any) -> tuple[Any, list[Any]]:
    return comparison_jobs(CompareConfig(seeds="2", **options), [str(recipe)], silent)


def test_each_row_runs_once_seed_by_seed_and_is_told(recipe: Path, tmp_path: Path, stub_arena: list[int]) -> None:
    _, jobs = jobs_of(recipe, methods="lafter,text_only", only=True)
    run, said = StubRuns(), []
    found = run_rows(jobs, (0, 1), ResultStore(tmp_path / "r.jsonl"), run, said.append)
    names = ("zero_shot", "lafter", "text_only")
    assert run.ran == [(name, seed) for seed in (0, 1) for name in names]
    assert stub_arena == [0, 1]
    assert [(plan.label, row["seed"]) for _, plan, row in found] == [(name, seed) for name in names for seed in (0, 1)]
    assert "[1/6] tiny zero_shot seed 0: accuracy" in said[1]
    assert "left" in said[1]
    assert "all rows are there" in said[6]


def test_an_interrupted_comparison_goes_on_and_ends_the_same(
    recipe: Path, tmp_path: Path, stub_arena: list[int]
) -> None:
    _, jobs = jobs_of(recipe)
    undisturbed = run_rows(jobs, (0, 1), ResultStore(tmp_path / "one.jsonl"), StubRuns(), silent)
    stopped, rest = StubRuns(last=5), StubRuns()
    with pytest.raises(KeyboardInterrupt):
        run_rows(jobs, (0, 1), ResultStore(tmp_path / "two.jsonl"), stopped, silent)
    with (tmp_path / "two.jsonl").open("ab") as file:
        file.write(b'{"key": "ab')
    resumed = run_rows(jobs, (0, 1), ResultStore(tmp_path / "two.jsonl"), rest, silent)
    assert len(stopped.ran) == 5
    assert len(rest.ran) == len(undisturbed) - 5
    assert not set(stopped.ran) & set(rest.ran)
    assert [row["metrics"] for *_, row in resumed] == [row["metrics"] for *_, row in undisturbed]
    nothing = StubRuns(last=0)
    run_rows(jobs, (0, 1), ResultStore(tmp_path / "two.jsonl"), nothing, silent)
    assert nothing.ran == []


def test_an_edited_recipe_runs_again_and_never_mixes(recipe: Path, tmp_path: Path, stub_arena: list[int]) -> None:
    store = tmp_path / "r.jsonl"
    run_rows(jobs_of(recipe)[1], (0, 1), ResultStore(store), StubRuns(), silent)
    recipe.write_text(recipe.read_text().replace("lafter: {text: {epochs: 2}", "lafter: {text: {epochs: 3}"))
    again = StubRuns()
    run_rows(jobs_of(recipe)[1], (0, 1), ResultStore(store), again, silent)
    assert again.ran == [("lafter", 0), ("lafter", 1)]
    recipe.write_text(recipe.read_text().replace("test_pictures: 40", "test_pictures: 41"))
    everything = StubRuns()
    run_rows(jobs_of(recipe)[1], (0, 1), ResultStore(store), everything, silent)
    assert len(everything.ran) == 2 * len(jobs_of(recipe)[1][0].plans)


def test_an_ablation_takes_the_full_method_from_a_comparison_in_the_same_store(
    recipe: Path, tmp_path: Path, stub_arena: list[int]
) -> None:
    store = tmp_path / "r.jsonl"
    run_rows(jobs_of(recipe)[1], (0, 1), ResultStore(store), StubRuns(), silent)
    _, jobs = ablation_jobs(AblateConfig(seeds="2", components="plan_last,sigma_2"), [str(recipe)], silent)
    run = StubRuns()
    found = run_rows(jobs, (0, 1), ResultStore(store), run, silent)
    assert {label for label, _ in run.ran} == {"plan_last", "sigma_2"}
    assert [plan.label for _, plan, _ in found][::2] == ["full", "plan_last", "sigma_2", "zero_shot", "linear_probe"]


def test_a_folder_with_other_things_is_refused(recipe: Path, tmp_path: Path, stub_arena: list[int]) -> None:
    out = tmp_path / "diary"
    out.mkdir()
    (out / "monday.txt").write_text("mine")
    config, jobs = jobs_of(recipe, out=str(out))
    with pytest.raises(OutputExistsError, match="nothing was changed"):
        run_experiment(config, jobs, silent)
    assert [p.name for p in out.iterdir()] == ["monday.txt"]
    config, jobs = jobs_of(recipe, out=str(out / "monday.txt" / "below"))
    with pytest.raises(OutputPlaceError, match=r"a folder at '.*below'.*where you may write"):
        run_experiment(config, jobs, silent)
    with pytest.raises(OutputPlaceError, match="expected a folder"):
        ResultStore(out / "monday.txt" / "rows.jsonl").add("key", {})


def test_a_table_counts_the_rows_of_another_state_of_the_code(
    recipe: Path, tmp_path: Path, stub_arena: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"out": str(tmp_path / "out"), "methods": "lafter,text_only", "only": True}
    monkeypatch.setattr(compare_module, "run_row", lambda arena, plan, seed, *_, **__: StubRuns()(arena, plan, seed))
    monkeypatch.setattr(compare_module, "_code", lambda: "first")
    config, jobs = jobs_of(recipe, **options)
    assert "state of the code" not in run_experiment(config, jobs, silent).table.caption
    monkeypatch.setattr(compare_module, "_code", lambda: "second")
    config, jobs = jobs_of(recipe, **(options | {"methods": "lafter,text_only,hybrid_cascade"}))
    caption = run_experiment(config, jobs, silent).table.caption
    assert "6 of 8 rows: made by another state of the code." in caption
    assert caption in (tmp_path / "out" / "table.md").read_text()


def test_class_shares() -> None:
    assert class_shares(CLASSES) is None
    two = class_shares(CLASSES, ["awe", "fear"])
    assert two is not None
    assert two.sum() == pytest.approx(1)
    assert {CLASSES[k] for k in np.flatnonzero(two)} == {"awe", "fear"}
    ten = [class_shares(CLASSES, None, 10.0, seed) for seed in range(4)]
    for shares in ten:
        assert shares is not None
        assert (shares.max() / shares.min(), shares.sum()) == pytest.approx((10, 1))
        assert np.diff(np.log(np.sort(shares))) == pytest.approx(np.log(10) / 7)
    assert len({int(shares.argmax()) for shares in ten if shares is not None}) > 1
    with pytest.raises(UnknownNameError, match="Did you mean 'sadness'"):
        class_shares(CLASSES, ["sadnes"])


@pytest.fixture
def arena(offline_nano: Path) -> Callable[..., Any]:
    def make(seed: int = 0, **spec: Any) -> Any:
        return sandbox_arena(SandboxSpec(train_pictures=24, test_pictures=40, **spec), "nano", "fp32", "cpu")(seed)

    return make


def test_rows_on_stored_features_share_one_pass_over_the_test_pictures(
    arena: Callable[..., Any], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower need not see test pictures again that it has seen; the predictions are those of the tower."""
    made, read, store = arena(), read_experiment(str(recipe)), FeatureStore(tmp_path)
    plan = plan_row(read, "hybrid_cascade", "heads")
    first = run_row(made, plan, 0, "cpu", features=store)
    tower = rows_module.predict(first.method, made.test, "cpu")
    torch.testing.assert_close(first.probabilities, tower, atol=1e-5, rtol=1e-4)
    assert len(list(tmp_path.glob("*.npy"))) == 2, "the training and the test pictures"
    other = dataclasses.replace(plan, settings={**plan.settings, "class_bias": False})
    with monkeypatch.context() as patch:
        patch.setattr("hybridcascade.stored_features.features_of", lambda *_: pytest.fail("the tower ran again"))
        again = run_row(made, other, 0, "cpu", features=store)
    assert not torch.equal(again.probabilities, first.probabilities)
    whole = run_row(made, plan_row(read, "hybrid_cascade"), 0, "cpu", features=store)
    torch.testing.assert_close(whole.probabilities, rows_module.predict(whole.method, made.test, "cpu"))


def test_the_sandbox_arena_has_what_it_says(arena: Callable[..., Any]) -> None:
    made, other, few = arena(), arena(1), arena(classes_present=["awe", "fear"], targets="votes", votes=4)
    assert (len(made.train), len(made.test), len(made.clean_test)) == (24, 40, 40)
    assert torch.equal(made.test_truth, made.clean_truth)
    assert not torch.equal(made.test.stack, made.clean_test.stack), "the same pictures, aged"
    assert not torch.equal(made.train.stack, other.train.stack)
    assert not torch.equal(made.test_truth, other.test_truth)
    assert torch.equal(few.test_truth, made.test_truth), "shares concern the training pictures"
    present = few.targets("labels").sum(dim=0)
    assert {CLASSES[k] for k in torch.nonzero(present).flatten()} == {"awe", "fear"}
    assert set(few.targets().flatten().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    for kind in ("labels", "votes", "posterior"):
        assert torch.allclose(made.targets(kind).sum(dim=1), torch.ones(24))
    assert "24 unlabelled" in made.words
    assert "only awe, fear" in few.words
    with pytest.raises(UnknownNameError, match="Did you mean 'votes'"):
        made.targets("vote")
    with pytest.raises(SettingsError, match="no targets"):
        dataclasses.replace(made, train_targets=None).targets()


def test_a_row_is_trained_and_only_then_measured(
    recipe: Path, arena: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, read = arena(), read_experiment(str(recipe))
    before = copy.deepcopy(made.backbone.state_dict())
    order: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(rows_module, name)
        return lambda *arguments, **options: (order.append(name), real(*arguments, **options))[1]

    for name in ("tune", "score"):
        monkeypatch.setattr(rows_module, name, noted(name))
    done = {name: run_row(made, plan_row(read, name), 0, "cpu") for name in ("zero_shot", "lafter", "on_votes")}
    assert order == ["tune", "score", "score", "tune", "score", "tune", "score"]
    after = made.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "a row changed the tower of the others"
    for result in done.values():
        assert set(result.metrics) == set(METRICS)
        assert result.probabilities.shape == (40, 8)
    assert done["zero_shot"].clean_metrics is not None
    assert done["zero_shot"].trained_parameters == 0
    assert done["lafter"].clean_metrics is None
    assert done["lafter"].trained_parameters > 1000
    stored = done["lafter"].values()
    assert [(p["phase"], p["epochs"], len(p["loss"])) for p in stored["phases"]] == [("text", 2, 2), ("image", 1, 1)]
    again = run_row(made, plan_row(read, "lafter"), 0, "cpu")
    assert torch.equal(again.probabilities, done["lafter"].probabilities)
    free = run_row(made, plan_row(read, "hybrid_cascade"), 0, "cpu")
    assert not torch.equal(free.probabilities, done["on_votes"].probabilities)


@pytest.mark.parametrize(
    ("few", "count"), [({"target_share": 0.25, "shots": None}, 5), ({"target_share": 1.0, "shots": 2}, 6)]
)
def test_some_of_the_targets_leave_the_others_unlabelled_or_out(few: dict, count: int):
    """The same quarter, or two a class, for both rows; nothing else about the arena changes."""
    images = torch.zeros(20, 4, 4, 3, dtype=torch.uint8).numpy()
    train = MemorySource(images, [f"p{row}" for row in range(20)])
    targets = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    arena = SimpleNamespace(train=train, targets=lambda kind: targets)
    both = [
        rows_module._supervision(arena, SimpleNamespace(targets="votes", target_rest=rest, **few), 3)
        for rest in ("unlabelled", "left_out")
    ]
    (whole, some), (part, only) = both
    known = some.sum(dim=1) > 0
    assert len(whole) == 20
    assert int(known.sum()) == len(part) == count
    if few["shots"]:
        assert only.argmax(dim=1).bincount().tolist() == [2, 2, 2]
    assert torch.equal(some[known], only)
    assert torch.equal(some[known], targets[known])
    assert list(part.ids) == [f"p{row}" for row in known.nonzero().flatten().tolist()]
