"""The decoder of images that the engines on this machine share."""

import io
from typing import Any

import pytest
from tests.plugins.engines.vision_models import draw_png, png_header

from palaver.images import IMAGE_TYPES, read_image_header
from palaver_plugins.engines.image_decoding import FORMATS, decode_image

pytestmark = [pytest.mark.transformers, pytest.mark.live]

RED, WHITE = (255, 0, 0), (255, 255, 255)
MAX_PIXELS = 10_000


def pillow() -> Any:  # Any: a module that may be absent
    return pytest.importorskip("PIL.Image")


def draw(mode: str = "RGB", colour: object = RED, size: tuple[int, int] = (40, 20)) -> Any:
    return pillow().new(mode, size, colour)


def encode(image: Any, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def is_near(pixel: tuple[int, int, int], expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(pixel, expected, strict=True))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_every_format_becomes_rgb(kind: str, mode: str) -> None:
    image = draw().convert(mode)
    data = encode(image.convert("L") if kind == "JPEG" and mode == "P" else image, kind)
    decoded = decode_image(data, max_pixels=MAX_PIXELS)
    assert (decoded.mode, decoded.size) == ("RGB", (40, 20))
    header = read_image_header(data)
    assert header is not None
    assert header.media_type in IMAGE_TYPES
    assert (header.width, header.height) == decoded.size


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_is_white(kind: str) -> None:
    image = draw("RGBA", (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    decoded = decode_image(encode(image, kind), max_pixels=MAX_PIXELS)
    assert is_near(decoded.getpixel((5, 10)), WHITE)
    assert is_near(decoded.getpixel((35, 10)), RED)


def test_a_photo_is_turned_upright() -> None:
    image = draw(colour=WHITE)
    image.paste(RED, (0, 0, 20, 20))  # the left half
    exif = pillow().Exif()
    exif[0x0112] = 6  # turn it to the right: left becomes top
    decoded = decode_image(encode(image, "JPEG", exif=exif), max_pixels=MAX_PIXELS)
    assert decoded.size == (20, 40)
    assert is_near(decoded.getpixel((10, 5)), RED)
    assert is_near(decoded.getpixel((10, 35)), WHITE)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [draw(colour=colour) for colour in (RED, WHITE)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_near(decode_image(data, max_pixels=MAX_PIXELS).getpixel((5, 5)), RED)


def test_a_frame_that_is_larger_than_the_header_says_is_refused() -> None:
    data = bytearray(encode(draw(size=(300, 300)), "GIF"))
    data[6:10] = bytes([1, 0, 1, 0])
    header = read_image_header(bytes(data))
    assert header is not None
    assert header.pixels == 1
    with pytest.raises(ValueError, match="300"):
        decode_image(bytes(data), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", draw_png(1)[:-100], png_header(5, 5), draw_png(1)[:60] + bytes(500)],
    ids=["empty", "other", "truncated", "header only", "overwritten"],
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    pillow()
    with pytest.raises(ValueError, match="decoded"):
        decode_image(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="decoded"):
        decode_image(encode(draw(), kind), max_pixels=MAX_PIXELS)
