"""Plain and strong views of pictures.

The plain view is open_clip's evaluation transform, number for number. A strong view is a pipeline of
torchvision v2 transforms whose randomness is a pure function of a seed. Whole batches go through it
at once: each picture's parameters are drawn by torchvision's own transforms, and the arithmetic is
done for all pictures together (`augment`), which at 64 pixels is several times faster than one
picture after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from hybridcascade.data import augment
from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "VIEWS",
    "PlainView",
    "StrongView",
    "ViewRecipe",
    "pixels_of",
    "plain_view",
    "strong_view",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means of OpenAI's CLIP, of pictures in 0..1."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations of OpenAI's CLIP, of pictures in 0..1."""

# torchvision ships no types and exports nothing explicitly, so both are Any on purpose.
_T: Any = v2
_F: Any = v2.functional

_INTERPOLATIONS = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    # A training option in some model files; evaluation then uses bicubic.
    "random": InterpolationMode.BICUBIC,
}
_RESIZE_MODES = ("shortest", "longest", "squash")


class PlainView:
    """The view a CLIP model is evaluated with: resize, centre crop, scale to 0..1, normalise.

    Made by `plain_view`; picklable.
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
        resize_mode: str,
        fill: int,
    ) -> None:
        self.size, self.mean, self.std = size, mean, std
        self.interpolation, self.resize_mode, self.fill = interpolation, resize_mode, fill

    def __call__(self, image: Image.Image) -> Tensor:
        """Return a picture as float32 `[3, H, W]`, normalised."""
        fitted = self.fit(image).convert("RGB")
        return self.normalize(pixels_of(fitted))

    def keeps(self, height: int, width: int) -> bool:
        """Tell whether pictures of this size in pixels pass without being resized or cropped."""
        return (height, width) == self.size

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalise pixels uint8 `[..., 3, H, W]` to float32 of the same shape."""
        return normalized(pixels.to(torch.float32).div(255), self.mean, self.std)

    def fit(self, image: Image.Image) -> Image.Image:
        """Return a picture resized and cropped (or padded) to the view's size."""
        height, width = self.size
        if self.resize_mode == "squash":
            return self._resized(image, height, width)
        ratios = image.height / height, image.width / width
        if self.resize_mode == "longest":
            by = max(ratios)
            return _crop_or_pad(self._resized(image, round(image.height / by), round(image.width / by)), self)
        if height == width:
            fitted: Image.Image = _F.resize(image, [height], _INTERPOLATIONS[self.interpolation])
        else:
            # open_clip takes bicubic here whatever the model file says, so the weights saw bicubic.
            by = min(ratios)
            sides = [round(image.height / by), round(image.width / by)]
            fitted = _F.resize(image, sides, InterpolationMode.BICUBIC)
        return _cropped(fitted, height, width)

    def _resized(self, image: Image.Image, height: int, width: int) -> Image.Image:
        resized: Image.Image = _F.resize(image, [height, width], _INTERPOLATIONS[self.interpolation])
        return resized


def plain_view(
    image_size: int | Sequence[int],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
    fill_color: int = 0,
) -> PlainView:
    """Build the plain view, equal to `open_clip.image_transform(..., is_train=False)`.

    Args:
        image_size: of the model in pixels: one number, or (height, width).
        mean: three channel means, of pictures in 0..1.
        std: three channel standard deviations.
        interpolation: `bicubic` or `bilinear`.
        resize_mode: `shortest` (the shortest side fits, the rest is cropped), `longest` (the longest
            side fits, the rest is padded) or `squash` (both sides fit).
        fill_color: grey value 0..255 of the padding.

    Raises:
        UnknownNameError: no such interpolation or resize mode.
        SettingsError: sizes or statistics that cannot be used.
    """
    if interpolation not in _INTERPOLATIONS:
        raise UnknownNameError("interpolation", interpolation, _INTERPOLATIONS)
    if resize_mode not in _RESIZE_MODES:
        raise UnknownNameError("resize mode", resize_mode, _RESIZE_MODES)
    means, stds = _statistics(mean, std)
    return PlainView(_pair(image_size), means, stds, interpolation, resize_mode, fill_color)


@dataclass(frozen=True)
class ViewRecipe:
    """What a strong view does, in this order; every number as torchvision's transform of that name has it.

    Attributes:
        scale: share of the area that a random crop keeps, (least, most).
        ratio: width over height of the crop, (least, most).
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue, or None.
        jitter_probability: of the colour jitter.
        grey: probability of losing all colour.
        blur: standard deviation in pixels of a Gaussian blur, (least, most), or None.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] | None = None
    jitter_probability: float = 0.8
    grey: float = 0.0
    blur: tuple[float, float] | None = None


VIEWS: dict[str, ViewRecipe | None] = {
    # LaFTer's student view (facts: crop 0.2-1, flip, jitter with p 0.8, grey with p 0.2, blur always).
    "lafter": ViewRecipe(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2, blur=(0.1, 2.0)),
    # Colour, brightness and sharpness carry the emotion of a picture, so only its geometry changes,
    # and half of the area always stays, because composition speaks too.
    "affect_safe": ViewRecipe(scale=(0.5, 1.0)),
    # The plain view once more.
    "none": None,
}
"""Named strong views; None is the plain view itself."""


class StrongView:
    """A random view of pictures that depends on their pixels and a seed each, and on nothing else.

    Made by `strong_view`; picklable. The global random state is neither used nor changed.

    Attributes:
        recipe: what it does.
        size: height and width of its output in pixels.
        blur_taps: width of the blur's kernel in pixels, 0 without blur.
    """

    def __init__(
        self,
        recipe: ViewRecipe,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
    ) -> None:
        self.recipe, self.size, self.mean, self.std = recipe, size, mean, std
        self.interpolation = _INTERPOLATIONS[interpolation]
        self._crop = _T.RandomResizedCrop(
            list(size), recipe.scale, recipe.ratio, interpolation=self.interpolation, antialias=True
        )
        self._jitter = None if recipe.jitter is None else _T.ColorJitter(*recipe.jitter)
        # Three standard deviations to each side: what lies beyond weighs less than one grey level.
        self.blur_taps = 0 if recipe.blur is None else 2 * math.ceil(3 * recipe.blur[1]) + 1
        self._blur = None if recipe.blur is None else _T.GaussianBlur(self.blur_taps, recipe.blur)

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
        """View a batch of pictures.

        Args:
            images: B pictures, uint8 `[3, H, W]` each, of any sizes.
            seeds: B seeds in 0..2**63-1, one a picture.

        Returns:
            float32 `[B, 3, height, width]`, normalised.
        """
        with _own_random_state():
            draws = [self._draw(image, seed) for image, seed in zip(images, seeds, strict=True)]
        pixels = torch.stack([self._cropped(image, draw) for image, draw in zip(images, draws, strict=True)])
        batch = pixels.to(torch.float32).div_(255)
        recipe = self.recipe
        if recipe.jitter is not None:
            batch = augment.jitter(batch, [draw.jitter for draw in draws])
        if recipe.grey > 0.0:
            batch = augment.grey(batch, [draw.grey for draw in draws])
        if self.blur_taps:
            batch = augment.blur(batch, [draw.sigma for draw in draws], self.blur_taps)
        return normalized(batch, self.mean, self.std)

    def _draw(self, image: Tensor, seed: int) -> _Draw:
        """Draw one picture's parameters, in the order in which torchvision's pipeline would."""
        torch.default_generator.manual_seed(seed)
        recipe = self.recipe
        crop = self._crop.make_params([image])
        flip = _chance(recipe.flip)
        jitter = None
        if self._jitter is not None and _chance(recipe.jitter_probability):
            params = self._jitter.make_params([image])
            jitter = augment.Jitter(
                tuple(params["fn_idx"].tolist()),
                (
                    params["brightness_factor"],
                    params["contrast_factor"],
                    params["saturation_factor"],
                    params["hue_factor"],
                ),
            )
        grey = recipe.grey > 0.0 and _chance(recipe.grey)
        sigma = 0.0 if self._blur is None else float(self._blur.make_params([image])["sigma"][0])
        return _Draw((crop["top"], crop["left"], crop["height"], crop["width"]), flip, jitter, grey, sigma)

    def _cropped(self, image: Tensor, draw: _Draw) -> Tensor:
        cropped: Tensor = _F.resized_crop(image, *draw.box, list(self.size), self.interpolation, antialias=True)
        return cropped.flip(-1) if draw.flip else cropped


@dataclass(frozen=True, slots=True)
class _Draw:
    """The drawn parameters of one picture: crop (top, left, height, width) in pixels, and the rest."""

    box: tuple[int, int, int, int]
    flip: bool
    jitter: augment.Jitter | None
    grey: bool
    sigma: float


def strong_view(
    name: str,
    image_size: int | Sequence[int],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    interpolation: str = "bicubic",
) -> StrongView | None:
    """Build a strong view.

    Args:
        name: a key of `VIEWS`.
        image_size: of the model in pixels: one number, or (height, width).
        mean: three channel means, of pictures in 0..1.
        std: three channel standard deviations.
        interpolation: of the crop, `bicubic` or `bilinear`.

    Returns:
        The view; None for `none`, where loaders give the plain view instead.

    Raises:
        UnknownNameError: no such view or interpolation.
        SettingsError: sizes or statistics that cannot be used.
    """
    if name not in VIEWS:
        raise UnknownNameError("view", name, VIEWS)
    if interpolation not in _INTERPOLATIONS:
        raise UnknownNameError("interpolation", interpolation, _INTERPOLATIONS)
    size = _pair(image_size)
    means, stds = _statistics(mean, std)
    recipe = VIEWS[name]
    return None if recipe is None else StrongView(recipe, size, means, stds, interpolation)


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of a Pillow picture, uint8 `[3, H, W]`."""
    pixels: Tensor = _F.pil_to_tensor(image)
    return pixels


def normalized(batch: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return pictures in 0..1, float32 `[..., 3, H, W]`, minus the channel means, over the deviations."""
    means = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
    stds = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
    return batch.sub(means).div_(stds)


@contextmanager
def _own_random_state() -> Iterator[None]:
    # torchvision draws from the global generator: it is lent out and put back as it was.
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _chance(probability: float) -> bool:
    return bool(torch.rand(1) < probability)


def _crop_or_pad(image: Image.Image, view: PlainView) -> Image.Image:
    height, width = view.size
    tall, wide = max(0, height - image.height), max(0, width - image.width)
    # The odd pixel goes to the right and the bottom, as open_clip has it.
    padded = _F.pad(image, [wide // 2, tall // 2, (wide + 1) // 2, (tall + 1) // 2], fill=view.fill)
    return _cropped(padded, height, width)


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    cropped: Image.Image = _F.center_crop(image, [height, width])
    return cropped


def _pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise SettingsError(f"image size: expected one number > 0 or (height, width), found {image_size!r}")
    return sides[0], sides[1]


def _statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0.0:
        found = f"mean {tuple(mean)}, std {tuple(std)}"
        raise SettingsError(f"normalisation: expected three means and three standard deviations > 0, found {found}")
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
