"""Progressive training: which parameters move in which epoch, exactly; and a resume in the middle."""

import logging
import os

import pytest
import torch
from toy_method import Numbers, Toy, plain_loader, texts, train_loader

from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases
from hybridcascade.errors import HybridCascadeError, SettingsError
from hybridcascade.methods.base import ParameterGroup, UnfreezeStep

STEPS = (
    UnfreezeStep("warm-up", 0, ("head",)),
    UnfreezeStep("bias", 0.3, ("bias",)),
    UnfreezeStep("all", 0.6, ("adapter",)),
)
HEAD, BIAS, ADAPTER = {"head.weight", "gain"}, {"head.bias"}, {"adapter"}
STRATEGIES = ["auto", pytest.param("ddp", marks=pytest.mark.slow)]


class Slow(Toy):
    """The toy, its groups opened one after the other; it remembers every parameter at each epoch's start."""

    def __init__(self, steps=STEPS, **options):
        super().__init__(**options)
        self.steps, self.seen = steps, []

    def parameter_groups(self, phase):
        if phase == "text":
            return super().parameter_groups(phase)
        return (
            ParameterGroup("adapter", ("adapter",), lr_scale=0.5, weight_decay=0.3),
            ParameterGroup("bias", ("head.bias",), weight_decay=0.3),
            ParameterGroup("head", ("head.weight", "gain"), weight_decay=0.3),
        )

    def unfreezing(self, phase):
        return self.steps if phase == "image" else ()

    def begin_epoch(self, phase, epoch, plain):
        super().begin_epoch(phase, epoch, plain)
        if phase == "image":
            self.remember()

    def remember(self):
        self.seen.append({name: value.detach().clone() for name, value in self.named_parameters()})

    def moved(self):
        """Names of the parameters that another value than at its start had, for each epoch."""
        pairs = zip(self.seen, self.seen[1:], strict=False)
        return [{name for name in one if not torch.equal(one[name], two[name])} for one, two in pairs]


def ready(strategy, monkeypatch):
    if strategy == "ddp":
        if os.name == "nt" or not torch.distributed.is_available():
            pytest.skip("needs gloo")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def train(method, folder=None, epochs=5, **options):
    with torch.no_grad():
        method.adapter.fill_(0.5)  # weight decay would be seen
    records = run_phases(
        method, {"text": Numbers(3), "image": Numbers(epochs, weight_decay=0.3)}, texts(), train_loader(),
        plain_loader(), folder=folder, accelerator="cpu", progress=False, **options,
    )  # fmt: skip
    method.remember()
    return records


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_what_the_schedule_opens_moves(strategy, caplog, monkeypatch):
    ready(strategy, monkeypatch)
    method = Slow()
    with caplog.at_level(logging.INFO, "hybridcascade"):
        records = train(method, strategy=strategy, gradient_clip=0.01)
    assert method.moved() == [HEAD, HEAD, HEAD | BIAS, HEAD | BIAS | ADAPTER, HEAD | BIAS | ADAPTER]
    rates = [record.lr for record in records[1].history]
    assert [{name for name, rate in row.items() if rate} for row in rates] == [
        {"head"}, {"head"}, {"head", "bias"}, {"head", "bias", "adapter"}, {"head", "bias", "adapter"},
    ]  # fmt: skip
    told = [r.getMessage() for r in caplog.records if getattr(r, "remark", False)]
    assert told == [
        "phase image: from epoch 1, warm-up: head (lr 0.01)",
        "phase image: from epoch 3, bias: bias (lr 0.01)",
        "phase image: from epoch 4, all: adapter (lr 0.005)",
    ]
    assert "phase image, epoch 4: trains ['adapter', 'bias', 'head']" in caplog.text


def test_without_steps_nothing_waits_and_nothing_is_told(caplog):
    method = Slow(steps=())
    with caplog.at_level(logging.INFO, "hybridcascade"):
        train(method, epochs=2)
    assert method.moved() == [HEAD | BIAS | ADAPTER] * 2
    assert not [r for r in caplog.records if getattr(r, "remark", False)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_waiting_parameters_are_no_part_of_clipping(strategy, monkeypatch):
    """Gradients of what waits must not count in the norm: the head moves as if there were nothing else."""
    ready(strategy, monkeypatch)

    class Alone(Slow):
        def parameter_groups(self, phase):
            return super().parameter_groups(phase)[-1:]

    alone, beside = Alone(steps=()), Slow()
    for method in (alone, beside):
        train(method, epochs=2, gradient_clip=0.01, strategy=strategy)
    assert torch.equal(alone.seen[1]["head.weight"], beside.seen[1]["head.weight"])


@pytest.mark.parametrize(
    ("epochs", "starts"),
    [(1, [0, 0, 0]), (2, [0, 1, 1]), (3, [0, 1, 2]), (5, [0, 2, 3]), (10, [0, 3, 6]), (50, [0, 15, 30])],
)
def test_epochs_scale_the_schedule(epochs, starts):
    assert [step.first_epoch(epochs) for step in STEPS] == starts


class Stop(Exception):
    pass


@pytest.mark.parametrize("step", [7, 13, 20])  # 6 steps an epoch: in epochs 2 (before), 3 (bias) and 4 (adapter)
def test_a_resume_in_the_middle_is_bit_equal(tmp_path, step):
    whole = Slow()
    train(whole, RunFolder.create(tmp_path / "whole"))
    cut = Slow()
    loss = cut.training_loss

    def stop(phase, batch, at):
        if phase == "image" and at == step:
            raise Stop
        return loss(phase, batch, at)

    cut.training_loss = stop
    with pytest.raises(Stop):
        train(cut, RunFolder.create(tmp_path / "cut"))
    resumed = Slow()
    train(resumed, RunFolder.open(tmp_path / "cut"), resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert resumed.moved() == whole.moved()[step // 6 :]


def test_another_schedule_is_no_resume(tmp_path):
    train(Slow(), RunFolder.create(tmp_path / "r"), epochs=2)
    with pytest.raises(SettingsError, match="unfreezing was"):
        train(Slow(steps=()), RunFolder.open(tmp_path / "r"), epochs=2, resume=True)


def test_the_check_sees_what_moves_before_its_step():
    class Early(Slow):
        def after_step(self, phase):
            super().after_step(phase)
            if phase == "image":
                self.adapter.data.mul_(0.9)

    with pytest.raises(HybridCascadeError, match="Changed but not declared: adapter"):
        train(Early())


def test_the_check_runs_again_at_each_step_of_the_schedule():
    method = Slow(poison="no_grad_gain")
    late = (UnfreezeStep("a", 0, ("bias", "adapter")), UnfreezeStep("b", 0.5, ("head",)))
    method.steps = late
    with pytest.raises(HybridCascadeError, match=r"Declared but unchanged: gain \(no gradient"):
        train(method, epochs=2)
    assert len(method.seen) == 2  # found in the second epoch, not in the first


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((UnfreezeStep("a", 0.1, ("head", "bias", "adapter")),), "start at 0"),
        ((UnfreezeStep("a", 0, ("head", "bias")), UnfreezeStep("b", 1.0, ("adapter",))), "below 1"),
        ((UnfreezeStep("a", 0, ("head", "bais")),), "Did you mean 'bias'"),
        ((UnfreezeStep("a", 0, ("head", "bias")), UnfreezeStep("b", 0.5, ("adapter", "bias"))), "unfrozen twice"),
        ((UnfreezeStep("a", 0, ("head", "bias")),), r"groups \['adapter'\] are in no step"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_an_error(steps, message):
    with pytest.raises(HybridCascadeError, match=message):
        train(Slow(steps=steps), epochs=2)
