"""The watch of a phase: figures in the records, the warning, the chosen epoch, and all of it through a resume."""

import logging

import pytest
import torch
from toy_method import Numbers, Toy, plain_loader, texts, train_loader

from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases
from hybridcascade.engine.watching import EpochWatch, evaluating
from hybridcascade.errors import SettingsError


class Scripted:
    """Measures what a list says, and remembers the adapter at each call."""

    def __init__(self, values):
        self.values, self.adapters, self.befores, self.modes = list(values), [], [], []

    def __call__(self, method, before):
        self.adapters.append(method.adapter.detach().clone())
        self.befores.append(None if before is None else int(before[0]))
        self.modes.append(method.training)
        return {"criterion": self.values[len(self.adapters) - 1]}, torch.tensor([len(self.adapters)])


def run(watch, folder=None, epochs=3, resume=False, method=None):
    method = method or Toy()
    phases = {"text": Numbers(2), "image": Numbers(epochs)}
    records = run_phases(
        method, phases, texts(), train_loader(), plain_loader(), folder=folder, resume=resume, progress=False,
        accelerator="cpu", callbacks=(watch,),
    )  # fmt: skip
    return method, records


def test_figures_stand_in_the_records_of_the_picture_phase(tmp_path):
    measure = Scripted([0.5, 0.6, 0.7, 0.8])
    _, records = run(EpochWatch(measure), tmp_path / "run")
    text, image = records
    assert all("criterion" not in epoch.scalars for epoch in text.history)
    assert [epoch.scalars["criterion"] for epoch in image.history] == [0.6, 0.7, 0.8]
    assert {epoch.scalars["criterion_start"] for epoch in image.history} == {0.5}
    written = [r for r in RunFolder(tmp_path / "run").read_metrics() if r.phase == "image"]
    assert [r.scalars["criterion"] for r in written] == [0.6, 0.7, 0.8]
    assert measure.befores == [None, 1, 2, 3]  # each epoch sees the labels of the one before
    assert measure.modes == [False] * 4


def test_watching_changes_nothing(tmp_path):
    one, _ = run(EpochWatch(Scripted([0.5] * 4)))
    phases = {"text": Numbers(2), "image": Numbers(3)}
    other = Toy()
    run_phases(other, phases, texts(), train_loader(), plain_loader(), progress=False, accelerator="cpu")
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_best_epoch_is_kept_where_it_is_asked_for():
    last, _ = run(EpochWatch(Scripted([0.5, 0.6, 0.9, 0.7])))
    measure = Scripted([0.5, 0.6, 0.9, 0.7])
    watch = EpochWatch(measure, choose=True)
    best, _ = run(watch)
    assert watch.chosen == {"image": 1}
    assert watch.values == {"image": [0.6, 0.9, 0.7]}
    assert torch.equal(best.adapter, measure.adapters[2])
    assert torch.equal(last.adapter, measure.adapters[3])
    assert not torch.equal(best.adapter, last.adapter)


def test_drift_is_told_once_against_the_start_and_against_the_best(caplog):
    with caplog.at_level(logging.WARNING, "hybridcascade"):
        run(EpochWatch(Scripted([0.8, 0.7, 0.6, 0.5])))
    assert [r.message for r in caplog.records if "tuning drifts" in r.message and "before training" in r.message]
    assert len([r for r in caplog.records if "tuning drifts" in r.message]) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hybridcascade"):
        run(EpochWatch(Scripted([0.2, 0.6, 0.5, 0.5])))
    assert [r.message for r in caplog.records if "at its best it was 0.600" in r.message]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hybridcascade"):
        run(EpochWatch(Scripted([0.5, 0.46, 0.6, 0.56])))
    assert not [r for r in caplog.records if "tuning drifts" in r.message]


def test_a_finished_run_gives_its_chosen_epoch_again(tmp_path):
    first, _ = run(EpochWatch(Scripted([0.5, 0.6, 0.9, 0.7]), choose=True), tmp_path / "run")
    watch = EpochWatch(Scripted([]), choose=True)
    again, records = run(watch, tmp_path / "run", resume=True)
    assert records[1].status == "already finished"
    assert watch.chosen == {"image": 1}
    assert torch.equal(again.adapter, first.adapter)
    last, _ = run(EpochWatch(Scripted([])), tmp_path / "run", resume=True)
    assert not torch.equal(last.adapter, first.adapter)


def test_a_resume_goes_on_from_the_best_so_far(tmp_path):
    class Stop(Exception):
        pass

    class Dies(Scripted):
        def __call__(self, method, before):
            if len(self.adapters) == 3:
                raise Stop
            return super().__call__(method, before)

    whole = Scripted([0.5, 0.9, 0.6, 0.7])
    undisturbed, _ = run(EpochWatch(whole, choose=True))
    with pytest.raises(Stop):
        run(EpochWatch(Dies([0.5, 0.9, 0.6]), choose=True), tmp_path / "run")
    rest = Scripted([0.7])
    watch = EpochWatch(rest, choose=True)
    resumed, records = run(watch, tmp_path / "run", resume=True)
    assert records[1].status == "resumed"
    assert rest.befores == [3]
    assert watch.values == {"image": [0.9, 0.6, 0.7]}
    assert watch.chosen == {"image": 0}
    assert torch.equal(resumed.adapter, undisturbed.adapter)
    assert {r.scalars["criterion_start"] for r in records[1].history} == {0.5}


def test_a_run_without_the_choice_cannot_choose_afterwards(tmp_path):
    run(EpochWatch(Scripted([0.5, 0.6, 0.9, 0.7])), tmp_path / "run")
    with pytest.raises(SettingsError, match="only its last one is kept"):
        run(EpochWatch(Scripted([]), choose=True), tmp_path / "run", resume=True)


def test_evaluating_puts_every_part_back():
    method = Toy()
    method.train()
    method.backbone.eval()
    with evaluating(method):
        assert not any(part.training for part in method.modules())
        assert not torch.is_grad_enabled()
    assert method.training
    assert method.head.training
    assert not method.backbone.training
