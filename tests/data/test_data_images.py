"""Every colour layout reads right; what cannot be read says why."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from hybridcascade.data.images import MAX_PIXELS, decode_picture, to_rgb
from hybridcascade.errors import PictureError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 150, 100], [255, 255, 255]]], np.uint8)


def through(image, ending, **options):
    stream = io.BytesIO()
    image.save(stream, ending, **options)
    stream.seek(0)
    return decode_picture(stream)


def png(width, height, depth=8, colour=2, rows=b""):
    """A PNG by hand, so that its header can promise what its body does not hold."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb_is_read_as_it_is():
    decoded = through(Image.fromarray(RGB), "PNG")
    assert decoded.mode == "RGB"
    assert np.array_equal(decoded, RGB)


def test_grey_and_black_and_white():
    grey = np.array([[0, 77, 255]], np.uint8)
    assert np.array_equal(through(Image.fromarray(grey), "PNG"), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    assert bits.mode == "1"
    assert np.asarray(through(bits, "PNG"))[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("ending", ["TIFF", "JPEG"])
def test_cmyk(ending):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 0] = 255  # full cyan: no red, full green and blue
    options = {"quality": 100} if ending == "JPEG" else {}
    decoded = np.asarray(through(Image.fromarray(cmyk, "CMYK"), ending, **options)).astype(int)
    assert np.abs(decoded - [0, 255, 255]).max() <= 3


def test_inverted_cmyk_of_adobe_is_not_a_negative():
    # Adobe stores CMYK inverted and says so in its marker; Pillow writes that marker too.
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    stream = io.BytesIO()
    white.save(stream, "JPEG")
    assert b"Adobe" in stream.getvalue()
    stream.seek(0)
    assert np.asarray(decode_picture(stream)).min() >= 252


def test_transparency_lies_over_white():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    decoded = np.asarray(through(Image.fromarray(rgba), "PNG")).astype(int)
    assert decoded[0, 0].tolist() == [255, 0, 0]
    assert decoded[0, 1].tolist() == [255, 255, 255]
    assert np.abs(decoded[0, 2] - 127).max() <= 1
    grey = np.array([[[0, 255], [0, 0]]], np.uint8)
    assert np.asarray(through(Image.fromarray(grey, "LA"), "PNG"))[0, :, 0].tolist() == [0, 255]


def test_palette_with_and_without_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert np.asarray(through(image, "PNG"))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert np.asarray(through(image, "PNG", transparency=1))[0].tolist() == [[255, 0, 0], [255] * 3, [0, 0, 255]]
    assert np.asarray(through(image, "GIF", transparency=2))[0, 2].tolist() == [255] * 3
    # Several half transparent entries.
    partly = np.asarray(through(image, "PNG", transparency=bytes([0, 255, 128]))).astype(int)[0]
    assert partly[0].tolist() == [255] * 3
    assert np.abs(partly[2] - [127, 127, 255]).max() <= 1


def test_rgb_with_a_transparent_colour():
    decoded = through(Image.fromarray(RGB), "PNG", transparency=(255, 0, 0))
    expected = RGB.copy()
    expected[0, 0] = 255
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("ending", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(ending):
    values = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    decoded = np.asarray(through(Image.fromarray(values), ending))[0, :, 0]
    assert decoded.tolist() == [0, 0, 1, 1, 128, 255, 255]


def test_sixteen_bit_big_endian_tiff_and_colour_png():
    big = Image.fromarray(np.array([[0, 257 * 9, 65535]], ">u2"))
    assert np.asarray(to_rgb(big))[0, :, 0].tolist() == [0, 9, 255]
    rows = b"\0" + struct.pack(">6H", 0xFFFF, 0x8080, 0, 0x0101, 0, 0xFFFF)
    decoded = decode_picture(io.BytesIO(png(2, 1, depth=16, rows=rows)))
    assert np.asarray(decoded)[0].tolist() == [[255, 128, 0], [1, 0, 255]]


def test_float_pictures_with_a_known_range():
    unit = np.asarray(through(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
    assert unit[0, :, 0].tolist() == [0, 128, 255]
    eight = np.asarray(through(Image.fromarray(np.array([[0.0, 100.4, 255.0]], np.float32)), "TIFF"))
    assert eight[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("values", [np.array([[-1.0, 0.5]], np.float32), np.array([[np.nan, 1.0]], np.float32)])
def test_float_pictures_without_a_known_range_are_refused(values):
    with pytest.raises(PictureError, match=r"expected values in 0\.\."):
        through(Image.fromarray(values), "TIFF")


def test_integers_beyond_sixteen_bits_are_refused():
    with pytest.raises(PictureError, match=r"expected values in 0\.\.65535 .* found 0\.\.70000"):
        through(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation, ending):
    # What a viewer does to the stored pixels for each orientation, by the EXIF standard.
    show = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if ending == "WEBP" else {}
    decoded = through(Image.fromarray(RGB), ending, exif=exif, **options)
    assert np.array_equal(np.asarray(decoded), show(RGB))


def test_exif_rotated_jpeg():
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise
    decoded = np.asarray(through(Image.fromarray(pixels), "JPEG", exif=exif, quality=95))
    assert decoded.shape == (64, 32, 3)
    assert decoded[:24].min() > 240
    assert decoded[40:].max() < 15


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture():
    decoded = through(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert np.array_equal(decoded, RGB)


def test_lab_is_refused_or_converted_but_never_wrong():
    lab = ImageCms.applyTransform(
        Image.new("RGB", (4, 4), (255, 0, 0)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    try:
        decoded = np.asarray(through(lab, "TIFF")).astype(int)
    except PictureError:
        return
    assert np.abs(decoded - [255, 0, 0]).max() < 10


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    decoded = through(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decoded)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no format that is known"),
        (b"this is text", "no format that is known"),
        (png(64, 64, rows=b"\0" * 100)[:60], ""),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, ""),
    ],
)
def test_unreadable_files_say_why(content, reason, tmp_path):
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(PictureError, match=f"bad.png: expected a readable picture, found .*{reason}") as caught:
        decode_picture(file)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("ending", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(ending):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, ending)
    with pytest.raises(PictureError, match="expected a readable picture"):
        decode_picture(io.BytesIO(stream.getvalue()[: len(stream.getvalue()) // 2]), name="cut")


def test_a_bomb_of_200_megapixels_is_refused_by_its_header(monkeypatch):
    # The header promises 20000 x 10000 pixels; decoding must never begin.
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PictureError, match=r"bomb: expected at most 178,956,970 pixels, found .*200,?000,?000"):
        decode_picture(io.BytesIO(png(20_000, 10_000)), name="bomb")


@pytest.mark.filterwarnings("error")
def test_the_limit_is_a_setting_and_pillows_warning_is_not_ours():
    assert MAX_PIXELS < 200_000_000
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "PNG")
    with pytest.raises(PictureError, match="at most 399 pixels, found 20 x 20 = 400 pixels"):
        decode_picture(stream, max_pixels=399)
    assert decode_picture(stream, max_pixels=400).size == (20, 20)
    with pytest.raises(PictureError, match="at most 50,000,000 pixels"):  # Pillow would warn at 90 megapixels
        decode_picture(io.BytesIO(png(10_000, 10_000)), max_pixels=50_000_000)
