"""Learning from votes, labels and neither at once, from the command line to the tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hybridcascade import api
from hybridcascade.cli import main
from hybridcascade.compose import train
from hybridcascade.config import TrainConfig
from hybridcascade.config_targets import TARGETS
from hybridcascade.data.sources import open_source
from hybridcascade.data.targets import TARGET_SOURCES
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.supervision import choose_targets

CLASSES = ("awe", "fear", "calm joy")
QUICK = ["--text.epochs", "1", "--epochs", "1", "--batch_size", "4", "--set", "teacher_views=1",
         "--set", "predict_views=1"]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(photos: Path) -> Path:
    """Two pictures with votes, three with labels, three with neither; and the space of the classes."""
    rows = ["path,label,votes_awe,votes_fear,votes_calm joy"]
    rows += ["awe/00.png,,3,1,1", "awe/01.png,fear,0,2,2", "awe/02.png,awe,,,"]
    rows += ["fear/10.png,fear,,,", "fear/12.png,,,,"]
    rows += ["calm joy/20.png,calm joy,,,", "calm joy/21.png,,,,", "calm joy/22.png,,,,"]
    file = photos / "mixed.csv"
    file.write_text("\n".join(rows) + "\n")
    (photos / "moods.yaml").write_text(
        "classes: [calm joy, awe, fear]\nring: [calm joy, awe, '-', fear]\n"
        "polarity: {positive: [calm joy, awe], negative: [fear]}\n"
    )
    yield file
    file.unlink()  # the folder is shared, and a manifest in it would be read
    (photos / "moods.yaml").unlink()


def options(mixed: Path, **more: Any) -> dict[str, Any]:
    return {"data": str(mixed), "classes": list(CLASSES), "use_labels": True, **more}


def test_the_targets_of_a_configuration(mixed: Path) -> None:
    source = open_source(mixed, CLASSES)
    space = str(mixed.parent / "moods.yaml")
    kept, made = choose_targets(TrainConfig(**options(mixed, space=space)), source, CLASSES)
    assert kept is source
    assert made is not None
    assert made.counts() == {"votes": 2, "label": 3, "none": 3}
    torch.testing.assert_close(made.distribution[0], torch.tensor([0.6, 0.2, 0.2]))
    awe, fear, joy = made.distribution[2].tolist()
    assert awe > joy > fear > 0, "with a space the prior is wheel_polarity: fear opposes awe"
    bare = choose_targets(TrainConfig(**options(mixed)), source, CLASSES)[1]
    assert bare is not None
    assert bare.distribution[2].tolist() == [1, 0, 0], "without a space a label is all on its class"
    probe = TrainConfig(**options(mixed, method="linear_probe", use_labels=False))
    kept, made = choose_targets(probe, source, CLASSES)
    assert made is not None
    assert kept.ids == (*source.ids[:4], "calm joy/20.png"), "a method without a teacher gets what has a target"
    assert bool(made.known.all())
    free = TrainConfig(**options(mixed, use_labels=False))
    assert choose_targets(free, source, CLASSES) == (source, None)


def test_a_prior_that_nothing_goes_through_is_told(mixed: Path) -> None:
    source = open_source(mixed, CLASSES)
    told = [
        choose_targets(TrainConfig(**options(mixed, prior="smoothing", targets=kind)), source, CLASSES)[1].remarks  # type: ignore[union-attr]
        for kind in ("votes", "auto", "labels")
    ]
    assert "prior 'smoothing' is not used" in " ".join(told[0])
    assert not any("not used" in line for remarks in told[1:] for line in remarks)


def test_shots_depend_on_the_seed_of_the_run(mixed: Path) -> None:
    source = open_source(mixed.parent, CLASSES)
    rows = {
        seed: choose_targets(TrainConfig(**options(mixed, shots=1, seed=seed)), source, CLASSES)[1].rows  # type: ignore[union-attr]
        for seed in range(4)
    }
    assert {len(chosen) for chosen in rows.values()} == {3}
    assert len({tuple(chosen) for chosen in rows.values()}) > 1


def test_train_on_votes_labels_and_neither_then_measure_in_full(
    mixed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    line = ["train", "--data", str(mixed), "--classes", ",".join(CLASSES), "--out", str(out), "--use_labels"]
    line += ["--space", str(photos / "moods.yaml"), "--prior", "wheel", "--prior_sigma", "0.8"]
    assert main([*line, *QUICK]) == 0
    assert "targets: 2 from votes, 3 from labels, 3 pictures without" in capsys.readouterr().err
    labelled = tmp_path / "truth.csv"
    labelled.write_text(
        "path,votes_awe,votes_fear,votes_calm joy\nawe/00.png,3,1,1\nfear/10.png,0,2,2\ncalm joy/20.png,0,0,4\n"
    )
    (photos / "truth.csv").write_text(labelled.read_text())
    try:
        assert main(["evaluate", str(out), "--data", str(photos / "truth.csv"), "--full", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["pictures"] == 3
        assert set(told) >= {"run", "data", "metrics", "distribution", "per_class", "confusion", "reliability"}
        assert [row["class"] for row in told["per_class"]] == list(CLASSES)
        assert sum(map(sum, told["confusion"]["rows_true"])) == 3
        model = api.load(out)
        assert model.evaluate(photos / "truth.csv") == pytest.approx(told["metrics"])
        assert (
            main(["evaluate", str(out), "--data", str(photos / "truth.csv"), "--plots", str(tmp_path / "plots")]) == 0
        )
        shown = capsys.readouterr().out
    finally:
        (photos / "truth.csv").unlink()
    assert "3 pictures" in (tmp_path / "plots" / "confusion.svg").read_text()
    assert "ECE" in (tmp_path / "plots" / "reliability.svg").read_text()
    for expected in ("Canberra / K ↓", "macro F1 % ↑", "calm joy", "rows: true class, columns: predicted class"):
        assert expected in shown


def test_the_tuned_model_does_not_depend_on_the_order_of_rows(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets go by id: another order of the manifest gives every picture the same target in every batch."""
    seen: list[dict[str, list[float]]] = []

    def note(method: Any, phases: Any, texts: Any, source: Any, **given: Any) -> list[Any]:
        seen.append(dict(zip(source.ids, given["targets"].tolist(), strict=True)))
        return []

    monkeypatch.setattr("hybridcascade.compose.tune", note)
    lines = mixed.read_text().splitlines()
    turned = mixed.parent / "turned.csv"
    turned.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    try:
        for file in (mixed, turned):
            train(TrainConfig(**options(file, data=str(file), shots=1)))
    finally:
        turned.unlink()
    assert seen[0] == seen[1]
    assert list(seen[0]) != list(seen[1])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "without use_labels": ({"use_labels": False, "shots": 4, "prior": "wheel"}, r"--prior, --shots: .*--use_labels"),
    "unknown source": ({"targets": "vote"}, "Did you mean 'votes'"),
    "unknown prior": ({"prior": "wheels"}, "Did you mean 'wheel'"),
    "unknown space": ({"space": "mikels"}, "Did you mean 'mikels8'"),
    "prior without a space": ({"prior": "wheel"}, "--space mikels8"),
    "ring without a space": ({"ring": "mikels_induced"}, "--ring needs the emotion space"),
    "space without a ring": ({"space": "ekman6"}, "mikels_induced: joy, surprise"),
    "sigma": ({"prior_sigma": 0.0}, "prior_sigma must be above 0"),
    "epsilon": ({"prior_epsilon": -1.0}, "prior_epsilon"),
    "shots": ({"shots": 0}, "shots must be 1 or above"),
    "share": ({"label_share": 1.5}, "label_share"),
    "shots and share": ({"label_share": 0.5, "shots": 1}, "contradict each other"),
}


@pytest.mark.parametrize("name", WRONG)
def test_options_that_cannot_work_are_told_at_once(name: str) -> None:
    given, message = WRONG[name]
    with pytest.raises(SettingsError, match=message):
        TrainConfig(**{"data": "photos", "use_labels": True, **given})


def test_options_that_work() -> None:
    base = {"data": "photos", "use_labels": True}
    TrainConfig(**base, space="ekman6", ring="mikels_alias")
    TrainConfig(**base, space="ekman6", prior="smoothing")
    TrainConfig(**base, space="ekman6", targets="votes")
    TrainConfig(data="photos", space="mikels8")  # a space may serve other things than labels
    with pytest.raises(UnknownNameError, match="fun"):
        TrainConfig(**base, space="ekman6", ring="fun,joy")
    assert TARGETS.keys() == TARGET_SOURCES.keys()


def test_remarks_count_the_targets() -> None:
    from hybridcascade.compose import TunedRun
    from hybridcascade.data.targets import Targets

    targets = Targets(torch.eye(2), torch.tensor([True, True]), ("label", "votes"), ("fewer than 2",))
    parts = SimpleNamespace(classes=("a", "b"), texts=SimpleNamespace(texts=()), method_name="m", calibration=None)
    run = TunedRun(parts, (), 2, (), None, targets)  # type: ignore[arg-type]
    assert run.remarks[1:] == ["targets: 1 from votes, 1 from labels, 0 pictures without", "fewer than 2"]
    assert run.summary()["targets"] == {"votes": 1, "label": 1, "none": 0}
