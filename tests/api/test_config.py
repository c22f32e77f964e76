"""Values that contradict each other are told when the configuration is made."""

from __future__ import annotations

from typing import Any

import pytest

from hybridcascade.config import VIEWS, PhaseSettings, PredictConfig, TrainConfig
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.recipes import build_config

DATA: dict[str, Any] = {"data": "photos", "classes": "a,b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0 or above, got -1"),
        ({"workers": -1}, "workers"),
        ({"batch_size": 0}, "batch_size must be 1 or above"),
        ({"image": {"lr": -0.1}}, "lr must be 0 or above"),
        ({"image": {"lr": float("nan")}}, "lr must be 0 or above"),
        ({"gradient_clip": 0.0}, "gradient_clip must be above 0"),
        ({"image": {"gamma": 1.5}}, "gamma"),
        ({"image": {"milestones": [4, 2]}}, "ascending"),
        ({"schedule": "multistep"}, "needs --text.milestones"),
        ({"image": {"milestones": [2]}}, "belong to schedule 'multistep'"),
        ({"image": {"schedule": "warmup", "epochs": 3}}, "all of them inside its warm-up"),
        ({"method": "zero_shot", "epochs": 3}, "has no image phase"),
        ({"method": "linear_probe", "text": {"epochs": 3}}, "has no text phase .*drop --text.epochs"),
        ({"method": "lafter", "data": None}, "--data"),
        ({"method": "zero_shot", "data": None, "classes": None}, "--classes"),
        ({"text_mode": "descriptions"}, "--descriptions"),
        ({"text_mode": "names", "descriptions": "d.json"}, "does not read it"),
        ({"resume": True, "overwrite": True, "out": "x"}, "contradict"),
        ({"resume": True}, "--out"),
        ({"method": "lafter", "use_labels": True}, "cannot learn from labels"),
    ],
)
def test_contradictions_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_config(TrainConfig, DATA | options)


@pytest.mark.parametrize("key", ["method", "backbone", "view", "precision", "device", "text_mode", "schedule"])
def test_unknown_names_raise(key: str) -> None:
    with pytest.raises(UnknownNameError, match="'zzz'"):
        build_config(TrainConfig, DATA | {key: "zzz"})


def test_phase_numbers_come_from_the_nearest_source() -> None:
    config = build_config(
        TrainConfig, DATA | {"method": "lafter", "lr": 1e-2, "epochs": 5, "image": {"epochs": 6, "batch_size": 8}}
    )
    phases = config.phases()
    assert (phases["image"].epochs, phases["image"].batch_size, phases["image"].lr) == (6, 8, 1e-2)
    assert (phases["text"].epochs, phases["text"].lr) == (400, 1e-2)


def test_nested_values_must_be_mappings() -> None:
    with pytest.raises(SettingsError, match="image must hold"):
        build_config(TrainConfig, DATA | {"image": 3})
    assert build_config(TrainConfig, DATA | {"image": PhaseSettings(epochs=3)}).phases()["image"].epochs == 3


def test_predict_config_checks_its_numbers() -> None:
    with pytest.raises(SettingsError, match="batch_size"):
        PredictConfig(batch_size=0)


def test_views_are_those_of_the_data_room() -> None:
    from hybridcascade.data.views import VIEWS as real

    assert set(VIEWS) == set(real)


def test_every_schedule_is_explained() -> None:
    from hybridcascade.cli.info import LISTS

    assert all(LISTS["schedules"]().values())
