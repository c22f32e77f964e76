"""Stored features answer a forward pass as the tower did, and say what they lack."""

import pytest
import torch

from hybridcascade.backbone.prompts import PromptSpec, VisualPrompts
from hybridcascade.backbone.stored import FeatureLayout, is_stored
from hybridcascade.errors import SettingsError
from hybridcascade.types import Taps

TAPS = (2, 3, 5)


def random_taps(patches=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    return Taps(rand(6, 3, 8), rand(6, 5), rand(6, 3, 8), rand(6, 3, patches, 8))


def layout(**changes):
    return FeatureLayout(**{"taps": TAPS, "width": 8, "embed_dim": 5, "patch_mean": True, "patches": 4} | changes)


@pytest.mark.parametrize(("patch_mean", "patches"), [(False, 0), (True, 0), (False, 4), (True, 4)])
def test_what_is_packed_is_unpacked(patch_mean, patches):
    taps, own = random_taps(), layout(patch_mean=patch_mean, patches=patches)
    rows = own.pack(taps)
    assert rows.shape == (6, own.size) == (6, 5 + 3 * 8 * (1 + patch_mean + patches))
    assert rows.dtype == torch.float32
    back = own.unpack(rows, TAPS, patch_mean, bool(patches))
    assert torch.equal(back.cls, taps.cls)
    assert torch.equal(back.image, taps.image)
    assert (back.patch_mean is None) if not patch_mean else torch.equal(back.patch_mean, taps.patch_mean)
    assert (back.patches is None) if not patches else torch.equal(back.patches, taps.patches)


def test_some_of_the_blocks_in_their_order():
    taps, own = random_taps(), layout()
    back = own.unpack(own.pack(taps), (2, 5), patch_mean=True, patches=True)
    assert torch.equal(back.cls, taps.cls[:, [0, 2]])
    assert torch.equal(back.patch_mean, taps.patch_mean[:, [0, 2]])
    assert torch.equal(back.patches, taps.patches[:, [0, 2]])
    image_only = own.unpack(own.pack(taps))
    assert image_only.cls.shape == (6, 0, 8)
    assert image_only.patch_mean is None


def test_half_precision_rows_come_back_as_float32():
    own = layout()
    back = own.unpack(own.pack(random_taps()).half(), TAPS)
    assert back.cls.dtype == back.image.dtype == torch.float32


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (((2, 4), False, False), r"lack block 4.*CLS tokens of blocks \[2, 3, 5\]"),
        (((2,), True, False), "lack mean patch tokens"),
        (((2,), False, True), r"lack patch tokens.*feature_needs"),
    ],
)
def test_what_is_not_stored_is_named(wanted, message):
    own = layout(patch_mean=False, patches=0)
    with pytest.raises(SettingsError, match=message):
        own.unpack(torch.zeros(2, own.size), *wanted)


def test_rows_of_another_layout_and_passes_that_lack_something():
    own = layout()
    with pytest.raises(SettingsError, match=f"of {own.size} numbers a view, got"):
        own.unpack(torch.zeros(2, own.size + 1))
    taps = random_taps()
    with pytest.raises(SettingsError, match="stores patch_mean, but"):
        own.pack(Taps(taps.cls, taps.image))
    with pytest.raises(SettingsError, match="expected taps of the 3 blocks"):
        own.pack(Taps(taps.cls[:, :2], taps.image))
    with pytest.raises(SettingsError, match=r"expected 149 numbers a picture, found 173"):
        own.pack(random_taps(patches=5))


def test_the_tower_is_answered_for_in_the_first_view(tiny, pictures):
    backbone = tiny
    own = FeatureLayout((2, 3), backbone.width, backbone.embed_dim, patch_mean=True)
    with torch.no_grad():
        real = backbone.forward_taps(pictures, (2, 3), patch_mean=True)
    stored = torch.stack([own.pack(real), torch.full((len(pictures), own.size), 7.0)], dim=1)
    assert is_stored(stored)
    assert not is_stored(pictures)
    with pytest.raises(SettingsError, match="stored_layout"):
        backbone.forward_taps(stored, (2, 3))
    backbone.stored_layout = own
    back = backbone.forward_taps(stored, (2, 3), patch_mean=True)
    for name in ("cls", "image", "patch_mean"):
        assert torch.equal(getattr(back, name), getattr(real, name)), name
    with torch.no_grad():  # pictures still go through the tower
        assert torch.equal(backbone.forward_taps(pictures, (2, 3)).cls, real.cls)
    assert "stored_layout" not in backbone.state_dict()
    assert "stored_layout" not in backbone.describe()


def test_stored_features_take_no_prompts(tiny):
    backbone = tiny
    prompts = VisualPrompts(PromptSpec.shallow(2), tiny.width, tiny.depth, tiny.heads)
    backbone.stored_layout = FeatureLayout((), backbone.width, backbone.embed_dim)
    with pytest.raises(SettingsError, match="prompts change what the tower computes"):
        backbone.forward_taps(torch.zeros(2, 1, backbone.embed_dim), prompts=prompts)
