import pickle

import numpy as np
import pytest
from PIL import Image

from hybridcascade.data.pictures import MemorySource, PictureSource
from hybridcascade.data.shares import position_of, take_share
from hybridcascade.data.shifts import SHIFTS, apply_shift, hold_pictures, shift_source
from hybridcascade.errors import DataError, UnknownNameError


def picture(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Smooth shapes with edges: like a photograph, neither flat nor noise."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def source(count: int = 6) -> MemorySource:
    images = np.stack([np.asarray(picture(n)) for n in range(count)])
    return MemorySource(images, [f"a/{n}.png" for n in range(count)], None, ("x", "y"), [n % 2 for n in range(count)])


def distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.mark.parametrize("name", SHIFTS)
def test_severity_zero_is_the_picture_itself_and_more_is_further_away(name):
    for seed in range(3):
        clean = picture(seed)
        steps = [distance(clean, apply_shift(clean, name, s, 0, "a")) for s in (0.0, 0.5, 1.0, 2.0)]
        assert steps[0] == 0.0
        assert steps[1] > 0.5
        assert steps == sorted(steps), steps
        assert len(set(steps)) == 4


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_depends_on_seed_and_id_alone(name):
    first = source()
    shifted, again = shift_source(first, name, 1.0, seed=3), shift_source(first.take([4, 1]), name, 1.0, seed=3)
    assert shifted.open(4).size == (40, 32)
    assert shifted.open(4).mode == "RGB"
    for row, other in ((4, 0), (1, 1)):  # whatever else is in the source, and however often it is opened
        assert distance(shifted.open(row), again.open(other)) == 0.0
        assert distance(shifted.open(row), shifted.open(row)) == 0.0


@pytest.mark.parametrize("name", ["noise", "colour_cast"])
def test_another_seed_or_id_draws_anew(name):
    clean = picture()
    one = apply_shift(clean, name, 1.0, 0, "a")
    assert distance(one, apply_shift(clean, name, 1.0, 1, "a")) > 0.0
    assert distance(one, apply_shift(clean, name, 1.0, 0, "b")) > 0.0


def test_noise_has_the_spread_it_states():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    values = np.asarray(apply_shift(grey, "noise", 1.0, 0, "a"), dtype=float)
    assert values.std() == pytest.approx(25.5, rel=0.02)
    assert values.mean() == pytest.approx(128, abs=0.5)


def test_fading_goes_half_of_the_way():
    black = apply_shift(Image.new("RGB", (8, 8)), "fading", 1.0, 0, "a")
    assert black.getpixel((0, 0)) == (99, 94, 84)  # 0.39, 0.37, 0.33 of 255


def test_unknown_names_and_severities_are_told():
    with pytest.raises(UnknownNameError, match=r"blur.*noise.*fading"):
        shift_source(source(), "blurr", 1.0)
    for severity in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="severity of 0 or above"):
            apply_shift(picture(), "blur", severity, 0, "a")


def test_a_shifted_source_keeps_what_is_known_and_pickles():
    plain = source()
    shifted = shift_source(plain, "blur", 1.0)
    assert shifted.samples == plain.samples
    assert shifted.classes == plain.classes
    assert shifted.fingerprint() != shift_source(plain, "blur", 2.0).fingerprint()
    assert distance(pickle.loads(pickle.dumps(shifted)).open(2), shifted.open(2)) == 0.0


def test_held_pictures_are_the_same_pictures():
    shifted = shift_source(source(), "jpeg", 1.0)
    held = hold_pictures(shifted)
    assert isinstance(held, MemorySource)
    assert held.samples == shifted.samples
    assert held.classes == ("x", "y")
    assert all(distance(held.open(row), shifted.open(row)) == 0.0 for row in range(6))
    assert held.take([3, 0]).labels(("x", "y")).tolist() == [1, 0]
    assert hold_pictures(shifted, most_bytes=100) is shifted


def test_pictures_of_several_sizes_stay_where_they_are():
    from hybridcascade.data.pictures import HeldPicture, Sample

    mixed = [HeldPicture(picture(0)), HeldPicture(picture(1, (16, 16)))]
    several = PictureSource([Sample("a"), Sample("b")], mixed, None, "mixed")
    assert hold_pictures(several) is several


def test_shares_divide_a_source_by_id_alone():
    plain = source(6)
    places = {name: position_of(name) for name in plain.ids}
    cut = sorted(places.values())[3]
    low, high = take_share(plain, 0.0, cut), take_share(plain, cut, 1.0)
    assert set(low.ids).isdisjoint(high.ids)
    assert {*low.ids, *high.ids} == set(plain.ids)
    assert take_share(plain.take([5, 2, 0]), 0.0, cut).ids == tuple(
        name for name in ("a/5.png", "a/2.png", "a/0.png") if name in low.ids
    )
    with pytest.raises(DataError, match="0 <= start < end <= 1"):
        take_share(plain, 0.5, 0.5)
    with pytest.raises(DataError, match="none of 6"):
        take_share(plain, max(places.values()) + 1e-9, 1.0)


def test_positions_are_spread_evenly():
    places = np.array([position_of(f"train/cat/{n:04d}.jpg") for n in range(4000)])
    assert places.min() >= 0.0
    assert places.max() < 1.0
    assert np.histogram(places, 10, (0, 1))[0].min() > 330
