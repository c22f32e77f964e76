"""Named shifts of real pictures: how a target domain differs from the one a model knows, as one number.

A shift turns a picture into a worse one of the same size. Severity 0 is the picture itself, 1 is what our
tables use, and more is more; there is no upper end. What is drawn at random depends on (seed, sample id)
alone, so a picture looks the same in every epoch, process and order. Sizes are shares of the shorter side:
a shift means the same for 32 pixels as for 320. The kinds follow ImageNet-C (Hendrycks and Dietterich,
ICLR 2019); the numbers are our own.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hybridcascade.data.messages import complaint
from hybridcascade.data.pictures import MemorySource, Picture, PictureSource
from hybridcascade.errors import DataError, UnknownNameError

__all__ = ["SHIFTS", "Shift", "ShiftedPicture", "apply_shift", "find_shift", "hold_pictures", "shift_source"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Shift:
    """A kind of shift.

    Attributes:
        name: as recipes write it.
        summary: one line.
        change: from an RGB picture, a severity above 0 and a generator of its own to the shifted picture.
    """

    name: str
    summary: str
    change: Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _pixels(picture: Image.Image) -> Pixels:
    """Values 0..1, `[H, W, 3]`."""
    return np.asarray(picture, dtype=np.float32) / 255.0


def _picture(values: Pixels) -> Image.Image:
    return Image.fromarray((values.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def _blur(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(0.03 * severity * min(picture.size)))


def _noise(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    values = _pixels(picture)
    return _picture(values + 0.1 * severity * draw.standard_normal(values.shape, dtype=np.float32))


def _fading(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    kept = 0.5**severity
    return _picture(kept * _pixels(picture) + (1.0 - kept) * np.array([0.78, 0.74, 0.66], dtype=np.float32))


def _jpeg(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=max(1, round(95 * 0.1**severity)))
    return Image.open(stream).convert("RGB")


def _colour_cast(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    # One lamp for all pictures (warm, a little green), a little stronger or weaker from one to the next.
    strength = severity * draw.uniform(0.8, 1.2)
    return _picture(_pixels(picture) * np.exp(strength * np.array([0.15, -0.1, -0.8], dtype=np.float32)))


def _contrast(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    return _picture(0.5 + (1.0 + 1.5 * severity) * (_pixels(picture) - 0.5))


def _pixelate(picture: Image.Image, severity: float, draw: np.random.Generator) -> Image.Image:
    small = [max(1, round(side / (1.0 + severity))) for side in picture.size]
    return picture.resize((small[0], small[1]), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)


SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        Shift("blur", "out of focus: a Gaussian of 3% of the shorter side", _blur),
        Shift("noise", "sensor noise: normal with a spread of 10% of the range, for each pixel and channel", _noise),
        Shift("fading", "an old print: half of the way to a pale yellowish grey", _fading),
        Shift("jpeg", "compressed: JPEG of quality 95 x 0.1^severity", _jpeg),
        Shift("colour_cast", "wrong white balance: red up, blue much down", _colour_cast),
        Shift("contrast", "harsh light: 2.5 times the contrast around the middle", _contrast),
        Shift("pixelate", "enlarged from half of its pixels a side", _pixelate),
    )
}
"""The shifts by name; their numbers are those of severity 1."""


def find_shift(name: str) -> Shift:
    """Return a shift by name.

    Raises:
        UnknownNameError: no such shift; the message lists the valid ones.
    """
    if name not in SHIFTS:
        raise UnknownNameError("shift", name, SHIFTS)
    return SHIFTS[name]


def apply_shift(picture: Image.Image, name: str, severity: float, seed: int, sample_id: str) -> Image.Image:
    """Return a shifted picture of the same size.

    Args:
        picture: RGB, 8 bits a channel.
        name: one of `SHIFTS`.
        severity: 0 (the picture itself) or above.
        seed: of what is drawn; the same noise grows with the severity.
        sample_id: of the picture.

    Raises:
        UnknownNameError: no such shift.
        DataError: the severity is negative or not finite.
    """
    shift = find_shift(name)
    if not (severity >= 0.0 and math.isfinite(severity)):
        raise DataError(complaint(f"shift {name!r}", "a severity of 0 or above", f"{severity}", "Correct it"))
    if severity == 0.0:
        return picture.copy()
    digest = hashlib.sha256(f"{seed}/{name}/{sample_id}".encode()).digest()
    return shift.change(picture, severity, np.random.default_rng(int.from_bytes(digest[:8])))


@dataclass(frozen=True, slots=True)
class ShiftedPicture:
    """A picture that is shifted when it is opened."""

    picture: Picture
    name: str
    severity: float
    seed: int
    sample_id: str

    def open(self) -> Image.Image:
        """Decode and shift the picture; raises PictureError."""
        return apply_shift(self.picture.open(), self.name, self.severity, self.seed, self.sample_id)

    def stamp(self) -> str:
        """Return the picture's own stamp and the shift."""
        return f"{self.picture.stamp()}/{self.name}/{self.severity!r}/{self.seed}"

    def modified(self) -> str:
        """Return when the file behind it was last written, where its stamp does not see the content."""
        modified: Callable[[], str] | None = getattr(self.picture, "modified", None)
        return modified() if modified else ""


def shift_source(source: PictureSource, name: str, severity: float, seed: int = 0) -> PictureSource:
    """Return a source whose pictures are shifted as they are opened; ids, labels and votes stay.

    Args:
        source: N pictures.
        name: one of `SHIFTS`.
        severity: 0 or above.
        seed: of what is drawn.

    Raises:
        UnknownNameError: no such shift.
    """
    find_shift(name)
    pictures = [
        ShiftedPicture(picture, name, severity, seed, sample.id)
        for picture, sample in zip(source.pictures, source.samples, strict=True)
    ]
    return PictureSource(source.samples, pictures, source.classes, f"{source.name} ({name} {severity:g})")


def hold_pictures(source: PictureSource, most_bytes: int = 2**28) -> PictureSource:
    """Return the source with its pictures decoded once and held in memory, where they are of one size and fit.

    Args:
        source: N pictures.
        most_bytes: what they may take as 8-bit RGB.

    Returns:
        A `MemorySource` with the same samples, else `source` itself.

    Raises:
        PictureError: a picture cannot be decoded.
    """
    size = source.open(0).size
    if len(source) * size[0] * size[1] * 3 > most_bytes:
        return source
    arrays = []
    for row in range(len(source)):
        picture = source.open(row)
        if picture.size != size:
            return source
        arrays.append(np.asarray(picture))
    held = MemorySource(np.stack(arrays), source.ids, name=source.name)
    held.samples, held.classes = source.samples, source.classes
    return held
