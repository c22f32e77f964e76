import dataclasses
import subprocess
import sys

import pytest

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods import catalogue
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import METHODS, method_entry, register_method
from hybridcascade.methods.settings import (
    HEADS,
    SETTINGS,
    default_phases,
    default_view,
    method_settings,
)


def test_listing_methods_and_settings_imports_no_torch():
    code = (
        "import sys; import hybridcascade.methods.catalogue, hybridcascade.methods.settings as s;"
        "s.method_settings('lafter', {}); s.default_phases('hybrid_cascade');"
        "assert not {'torch', 'open_clip', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_catalogue_and_settings_name_the_same_methods():
    assert {entry.name for entry in catalogue.CATALOGUE} <= set(METHODS)
    assert {entry.name for entry in catalogue.CATALOGUE} == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_entry_loads_and_agrees_with_its_class(name):
    entry = method_entry(name)
    kind = entry.load()
    assert issubclass(kind, Method)
    assert kind.name == name
    assert tuple(default_phases(name)) == tuple(phase for phase in kind.phases if phase not in kind.solves)
    assert kind.tunes == entry.tunes
    assert ("heads" in kind.tunes and "image" in kind.phases) == (name in HEADS)
    assert (kind.needs if kind.needs != "none" else "none") == entry.images


def test_registering_twice_or_badly_fails():
    with pytest.raises(ValueError, match="already registered"):
        register_method(METHODS["lafter"])
    with pytest.raises(ValueError, match="snake_case"):
        register_method(dataclasses.replace(METHODS["lafter"], name="LaFTer"))
    with pytest.raises(UnknownNameError, match="Did you mean 'lafter'"):
        method_entry("laftr")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_round_trip_and_every_field_is_read(name):
    settings = method_settings(name)
    assert method_settings(name, dataclasses.asdict(settings)) == settings


def test_values_are_checked():
    assert method_settings("hybrid_cascade", {"consistency": 1}).consistency == 1.0
    assert method_settings("hybrid_cascade", {"plan": [[5, 6], [12]]}).plan == ((5, 6), (12,))
    with pytest.raises(UnknownNameError, match="Did you mean 'prompts'"):
        method_settings("lafter", {"promts": 4})
    with pytest.raises(UnknownNameError, match="Valid: cls, patch, both"):
        method_settings("hybrid_cascade", {"pool": "max"})
    with pytest.raises(SettingsError, match="sinkhorn_epsilon in \\[0, infinity\\)"):
        method_settings("hybrid_cascade", {"sinkhorn_epsilon": -1.0})
    with pytest.raises(SettingsError, match="prompts to be a int, got '4'"):
        method_settings("hybrid_cascade", {"prompts": "4"})
    with pytest.raises(SettingsError, match="train_head to be a bool"):
        method_settings("hybrid_cascade", {"train_head": 1})
    with pytest.raises(SettingsError, match="plan"):
        method_settings("hybrid_cascade", {"plan": [5, 6]})
    with pytest.raises(UnknownNameError, match="method"):
        method_settings("nothing")


def test_faithful_pins_laftes_numbers():
    settings = method_settings("lafter")
    assert (settings.preset, settings.prompts, settings.noise_std, settings.label_smoothing) == (
        "faithful",
        50,
        0.1,
        0.1,
    )
    phases = default_phases("lafter")
    assert (phases["text"].epochs, phases["text"].lr, phases["text"].weight_decay) == (400, 5e-4, 0.01)
    assert (phases["image"].epochs, phases["image"].lr, phases["image"].batch_size) == (50, 5e-4, 50)
    assert phases["image"].schedule == "none"
    assert default_view("lafter") == "lafter"
    with pytest.raises(SettingsError, match="set preset=custom"):
        method_settings("lafter", {"prompts": 10})
    assert method_settings("lafter", {"preset": "custom", "prompts": 10}).prompts == 10
