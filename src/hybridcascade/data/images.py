"""Decoding one picture file to upright 8-bit RGB, or saying in one line why that cannot be done.

Every colour layout that Pillow reads comes out as what a viewer would show: EXIF orientation is
applied, transparency lies over white, 16-bit greys are scaled (not clipped) to 8 bits, CMYK is
converted. The header's size is checked before anything is decoded, so a decompression bomb costs
nothing.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from os import PathLike, fspath
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hybridcascade.data.messages import complaint
from hybridcascade.errors import PictureError

__all__ = ["MAX_PIXELS", "decode_picture", "to_rgb"]

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded, in pixels: where Pillow itself begins to refuse (half a GiB as RGB)."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged files of one format or another.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


_FILTERING = threading.Lock()


def decode_picture(
    source: str | PathLike[str] | IO[bytes], max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Decode a picture file completely.

    Args:
        source: path, or binary stream that can seek.
        max_pixels: refuse pictures with more pixels than this, before decoding. Pillow's own limit
            (178,956,970 pixels unless changed) holds beside it.
        name: what to call the picture in messages; the path when None.

    Returns:
        Upright RGB picture, 8 bits a channel. Of an animation, the first frame.

    Raises:
        PictureError: empty, not a picture, truncated, too large, or of a layout without a known range.
    """
    if name is None:
        name = fspath(source) if isinstance(source, str | PathLike) else "picture"
    try:
        # Pillow warns from 89 megapixels on; the limit that counts here is checked below. Warning
        # filters belong to the whole process, hence the lock (only headers are read under it).
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(source)
        with picture:
            _check_size(picture, max_pixels, name)
            picture.load()
            return _upright(to_rgb(picture), _orientation(picture))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(name, str(error), max_pixels)) from error
    except _DAMAGE as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its own text names a Python object
        reason = "no format that is known" if unknown else str(error) or type(error).__name__
        message = complaint(name, "a readable picture", reason, "Replace the file or leave it out")
        raise PictureError(message) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a decoded picture of any mode to 8-bit RGB, transparency over white.

    Args:
        picture: a loaded Pillow picture.

    Raises:
        PictureError: an integer or float picture whose range of values is not known.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy()
    if picture.mode.startswith("I") or picture.mode == "F":
        grey = _eight_bits(np.asarray(picture), picture.mode)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Scale wide greys to 0..255: 16-bit by 255 / 65535, floats by 255 when they lie in 0..1."""
    low, high = float(values.min()), float(values.max())
    top = 1.0 if mode == "F" and high <= 1.0 else 255.0 if mode == "F" else 65535.0
    if not (low >= 0.0 and high <= top):  # written so that NaN fails too
        raise PictureError(
            f"expected values in 0..{top:g} in a picture of mode {mode}, found {low:g}..{high:g}. "
            "Save it with 8 or 16 bits a channel."
        )
    scaled: NDArray[np.uint8] = np.floor(values.astype(np.float64) * (255.0 / top) + 0.5).astype(np.uint8)
    return scaled


def _orientation(picture: Image.Image) -> int:
    # Read after load(): Pillow turns TIFFs itself and then removes the tag. A damaged EXIF block
    # says nothing about the pixels, so it does not cost the picture.
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _check_size(picture: Image.Image, max_pixels: int, name: str) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureError(_too_large(name, f"{width} x {height} = {width * height:,} pixels", max_pixels))


def _too_large(name: str, found: str, max_pixels: int) -> str:
    remedy = "It was not decoded; save it smaller or leave it out"
    return complaint(name, f"at most {max_pixels:,} pixels", found, remedy)
