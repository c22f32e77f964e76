"""The plain view against open_clip's own transform, the strong views against torchvision's own pipelines."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from hybridcascade.data import augment
from hybridcascade.data.views import CLIP_MEAN, CLIP_STD, VIEWS, plain_view, strong_view
from hybridcascade.errors import SettingsError, UnknownNameError


def picture(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    # Smooth and noisy parts, so that resampling and rounding both matter.
    x = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    noise = rng.integers(-60, 60, (height, width, 3))
    return Image.fromarray(np.clip(x + noise, 0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("image_size", [64, 224, (48, 80), (80, 48)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_plain_view_equals_open_clip(image_size, resize_mode, interpolation):
    import open_clip

    theirs = open_clip.image_transform(
        image_size,
        is_train=False,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=7,
    )
    ours = plain_view(image_size, CLIP_MEAN, CLIP_STD, interpolation, resize_mode, fill_color=7)
    for size in [(64, 64), (65, 64), (301, 199), (199, 301), (31, 7), (1, 1), (640, 31), (224, 225), (80, 48)]:
        image = picture(*size)
        assert torch.equal(ours(image), theirs(image)), size


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_plain_view_equals_open_clip_in_other_modes(mode):
    import open_clip

    image = picture(90, 70, mode)
    assert torch.equal(plain_view(64)(image), open_clip.image_transform(64, is_train=False)(image))


def test_plain_view_of_stacked_pixels_is_the_same():
    view = plain_view(64)
    images = [picture(64, 64, seed=i) for i in range(3)]
    assert view.keeps(64, 64)
    assert not view.keeps(64, 65)
    stack = torch.stack([F.pil_to_tensor(i) for i in images])
    assert torch.equal(view.normalize(stack), torch.stack([view(i) for i in images]))


def reference_pipeline(name, size):
    """The strong view as one would write it with torchvision, one picture at a time."""
    parts = [
        v2.RandomResizedCrop(size, VIEWS[name].scale, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.ToDtype(torch.float32, scale=True),
    ]
    if name == "lafter":
        parts += [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.GaussianBlur(13, (0.1, 2.0)),
        ]
    return v2.Compose([*parts, v2.Normalize(CLIP_MEAN, CLIP_STD)])


@pytest.mark.parametrize("name", ["lafter", "affect_safe"])
@pytest.mark.parametrize("size", [32, (40, 56)])
def test_strong_view_equals_torchvisions_pipeline(name, size):
    images = [F.pil_to_tensor(picture(50 + i, 90 - i, seed=i)) for i in range(40)]
    seeds = [1000 + i for i in range(40)]
    ours = strong_view(name, size)(images, seeds)
    reference = reference_pipeline(name, size)
    for image, seed, view in zip(images, seeds, ours, strict=True):
        torch.manual_seed(seed)
        torch.testing.assert_close(view, reference(image), rtol=0, atol=2e-5)


def test_jitter_equals_torchvision_operation_by_operation():
    batch = torch.rand(6, 3, 17, 19, generator=torch.Generator().manual_seed(0))
    batch[0] = 0.5  # no chroma: the hue is undefined there
    batch[1, :, :5] = 0.0
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for kind, function in enumerate(functions):
        factors = [-0.5, -0.3, 0.0, 0.1, 0.27, 0.5] if kind == 3 else [0.0, 0.3, 0.6, 1.0, 1.4, 2.0]
        order = (kind, *(k for k in range(4) if k != kind))
        neutral = [1.0, 1.0, 1.0, 0.0]
        draws = [augment.Jitter(order, (*neutral[:kind], f, *neutral[kind + 1 :])) for f in factors]
        ours = augment.jitter(batch, draws)
        theirs = torch.stack([function(image, f) for image, f in zip(batch, factors, strict=True)])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(20, 30), (7, 8)])
def test_blur_equals_torchvision(shape):
    batch = torch.rand(4, 3, *shape, generator=torch.Generator().manual_seed(0))
    sigmas = [0.1, 0.5, 1.3, 2.0]
    ours = augment.blur(batch, sigmas, 13)
    theirs = torch.stack([F.gaussian_blur(image, [13, 13], [s, s]) for image, s in zip(batch, sigmas, strict=True)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_blur_of_pictures_smaller_than_the_kernel_keeps_constants():
    batch = torch.full((2, 3, 1, 4), 0.25)
    torch.testing.assert_close(augment.blur(batch, [0.5, 2.0], 13), batch)


def test_lafter_always_blurs_and_mostly_jitters_and_sometimes_greys():
    view = strong_view("lafter", 24)
    image = F.pil_to_tensor(picture(24, 24))
    with torch.random.fork_rng():
        draws = [view._draw(image, seed) for seed in range(400)]
    assert all(0.1 <= draw.sigma <= 2.0 for draw in draws)
    assert 0.72 < np.mean([draw.jitter is not None for draw in draws]) < 0.88
    assert 0.12 < np.mean([draw.grey for draw in draws]) < 0.28
    assert 0.4 < np.mean([draw.flip for draw in draws]) < 0.6
    areas = [draw.box[2] * draw.box[3] / 24**2 for draw in draws]
    assert 0.15 < min(areas) < 0.3
    assert max(areas) > 0.9


def test_affect_safe_changes_no_colour():
    # Of a picture of one colour, geometry leaves that colour.
    image = torch.tensor([200, 30, 90], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 40).contiguous()
    views = strong_view("affect_safe", 32)([image] * 20, range(20))
    expected = plain_view(32).normalize(image[:, :32, :32])
    torch.testing.assert_close(views, expected.expand_as(views))
    changed = strong_view("lafter", 32)([image] * 20, range(20))
    assert (changed - expected).abs().amax(dim=(1, 2, 3)).gt(0.05).float().mean() > 0.6


def test_strong_view_depends_on_its_seed_only_and_leaves_the_global_state_alone():
    view = pickle.loads(pickle.dumps(strong_view("lafter", 32)))
    image = F.pil_to_tensor(picture(60, 60))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = view([image, image], [3, 4])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    torch.testing.assert_close(view([image, image], [4, 3]), first.flip(0), rtol=0, atol=1e-6)
    assert not torch.equal(first[0], first[1])


def test_none_is_the_plain_view():
    assert strong_view("none", 32) is None


def test_unknown_names_list_the_valid_ones_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown view 'laffter'.* Did you mean 'lafter'\? Valid: lafter, aff"):
        strong_view("laffter", 32)
    with pytest.raises(UnknownNameError, match=r"unknown resize mode 'short'.*'shortest'"):
        plain_view(32, resize_mode="short")
    with pytest.raises(UnknownNameError, match="unknown interpolation 'nearest'"):
        plain_view(32, interpolation="nearest")


@pytest.mark.parametrize("bad", [{"image_size": 0}, {"image_size": (3, 4, 5)}, {"image_size": 8, "std": (1, 0, 1)}])
def test_unusable_numbers_are_refused(bad):
    with pytest.raises(SettingsError, match="expected"):
        plain_view(**bad)
