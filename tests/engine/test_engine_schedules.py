import math

import pytest
from lightning.pytorch.callbacks import Callback
from toy_method import N, Toy, both, plain_loader, texts, train_loader

from hybridcascade.engine.run import run_phases
from hybridcascade.engine.schedules import SCHEDULES, lr_factor
from hybridcascade.errors import SettingsError, UnknownNameError

# Written out by hand for 8 epochs, warm-up 3, milestones 2 and 5, gamma 0.1: factor at whole epochs.
BY_HAND = {
    "none": [1, 1, 1, 1, 1, 1, 1, 1],
    "warmup": [0.1, 0.4, 0.7, 1, 1, 1, 1, 1],
    "cosine": [1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5, 0.3086582838174551,
               0.14644660940672627, 0.03806023374435663],
    "cosine_warmup": [0.1, 0.4, 0.7, 1, 0.9045084971874737, 0.6545084971874737, 0.34549150281252633,
                      0.09549150281252633],
    "multistep": [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
}  # fmt: skip


class Watch(Callback):
    """Reads the learning rates off the optimiser, right before each of its steps."""

    def __init__(self):
        self.lrs = {"text": [], "image": []}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.lrs[pl_module.phase].append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_factor_at_whole_epochs(schedule):
    found = [lr_factor(schedule, e, 8, 3.0, (2, 5), 0.1) for e in range(8)]
    assert found == pytest.approx(BY_HAND[schedule], abs=1e-12)


def _naive(schedule, t):
    """The same five schedules once more, for 4 epochs, warm-up 1.5, milestones 1 and 2.5, gamma 0.5."""
    ramp = 0.1 + 0.9 * t / 1.5
    return {
        "none": 1.0,
        "warmup": min(ramp, 1.0),
        "cosine": math.cos(math.pi * t / 8) ** 2,
        "cosine_warmup": ramp if t < 1.5 else math.cos(math.pi * (t - 1.5) / 5) ** 2,
        "multistep": {True: {True: 0.25, False: 0.5}[t >= 2.5], False: 1.0}[t >= 1],
    }[schedule]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_of_both_phases_has_the_schedules_rate(schedule):
    watch = Watch()
    phases = both(4, 4, lr=0.02, schedule=schedule, warmup_epochs=1.5, milestones=(1, 2.5), gamma=0.5)
    run_phases(Toy(), phases, texts(), train_loader(4), plain_loader(), seed=1, callbacks=[watch], accelerator="cpu")
    factors = [_naive(schedule, step) for step in range(4)]
    assert watch.lrs["text"] == [[pytest.approx(0.02 * f)] for f in factors]
    steps = N // 4
    factors = [_naive(schedule, step / steps) for step in range(4 * steps)]
    # groups: adapter at half the rate, head
    assert watch.lrs["image"] == [[pytest.approx(0.01 * f), pytest.approx(0.02 * f)] for f in factors]


def test_accumulation_counts_optimiser_steps():
    watch = Watch()
    run_phases(
        Toy(), both(1, 4, schedule="warmup", warmup_epochs=2), texts(), train_loader(4), plain_loader(),
        accumulate=4, callbacks=[watch], accelerator="cpu",
    )  # fmt: skip
    # 6 batches an epoch, 4 a step: 2 steps an epoch; the warm-up of 2 epochs takes 4 steps
    factors = [rates[1] / 0.01 for rates in watch.lrs["image"]]
    assert factors == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 1, 1, 1])
    assert len(watch.lrs["text"]) == 1


def test_warmup_longer_than_the_phase_and_time_after_the_end():
    assert lr_factor("cosine_warmup", 2, 2, warmup_epochs=4) == pytest.approx(0.55)
    assert lr_factor("cosine", 9, 8) == 0.0
    assert lr_factor("warmup", 0, 8, warmup_epochs=0) == 1.0


def test_unknown_schedule_lists_the_valid_ones_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'cosin'.*Did you mean 'cosine'.*none, warmup, cosine, cosine_warmup"):
        lr_factor("cosin", 0, 1)


def test_unknown_schedule_of_the_second_phase_stops_before_the_first():
    toy = Toy()
    phases = both(2, 2) | {"image": both(schedule="linear")["image"]}
    with pytest.raises(UnknownNameError, match="schedule 'linear'"):
        run_phases(toy, phases, texts(), train_loader(), plain_loader(), accelerator="cpu")
    assert toy.events == []


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"warmup_epochs": -1}, {"gamma": 0}, {"milestones": (5, 2)}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(SettingsError, match=r"needs epochs|must ascend"):
        lr_factor("multistep", 0, **{"epochs": 3, **wrong})
