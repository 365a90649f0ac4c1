"""Type and size of images, read from the first bytes of their files."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.vision_models import draw_png

from palaver.images import MAX_JPEG_SEGMENTS, ImageHeader, read_image_header


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def frame(width: int, height: int, marker: int = 0xC0) -> bytes:
    return segment(marker, struct.pack(">BHHB", 8, height, width, 3) + bytes(9))


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


EXIF = segment(0xE1, b"Exif\0\0" + bytes(40_000))
FILES = {
    "png": (draw_png(1, 70, 40), ImageHeader("image/png", 70, 40)),
    "gif": (b"GIF89a" + struct.pack("<HH", 70, 40), ImageHeader("image/gif", 70, 40)),
    "old gif": (b"GIF87a" + struct.pack("<HH", 1, 1), ImageHeader("image/gif", 1, 1)),
    "jpeg": (jpeg(frame(70, 40)), ImageHeader("image/jpeg", 70, 40)),
    "progressive jpeg behind metadata and fill bytes": (
        jpeg(EXIF, segment(0xC4, bytes(30)), b"\xff\xff", frame(4000, 3000, 0xC2)),
        ImageHeader("image/jpeg", 4000, 3000),
    ),
    "lossy webp": (
        webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 70 | 0x4000, 40)),
        ImageHeader("image/webp", 70, 40),
    ),
    "lossless webp": (
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 69 | 39 << 14)),
        ImageHeader("image/webp", 70, 40),
    ),
    "extended webp": (
        webp(b"VP8X", bytes(4) + (69).to_bytes(3, "little") + (99_999).to_bytes(3, "little")),
        ImageHeader("image/webp", 70, 100_000),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_header_tells_type_and_size(kind: str) -> None:
    data, header = FILES[kind]
    assert read_image_header(data) == header


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_ends_too_early_has_no_header_or_the_same(kind: str) -> None:
    data, header = FILES[kind]
    for length in (*range(min(len(data), 64)), len(data) - 1):
        assert read_image_header(data[:length]) in (None, header)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),  # TIFF
        b"GIF89a" + struct.pack("<HH", 0, 40),
        jpeg(segment(0xE0, b"JFIF"), b"\xff\xda"),  # pixels without a frame
        jpeg(segment(0xE0, b"JFIF"), b"\x00\x00\x00"),
        webp(b"ALPH", bytes(20)),
    ],
    ids=["empty", "pdf", "svg", "bmp", "tiff", "no width", "no frame", "no marker", "no picture"],
)
def test_other_files_are_no_images(data: bytes) -> None:
    assert read_image_header(data) is None


@given(st.sampled_from([data for data, _ in FILES.values()]), st.binary(max_size=60))
def test_any_bytes_have_a_header_or_none(beginning: bytes, rest: bytes) -> None:
    for cut in (3, 8, 12, 20, 26):
        header = read_image_header(beginning[:cut] + rest)
        assert header is None or (header.width > 0 and header.height > 0)


@pytest.mark.parametrize("filling", [b"\xff\xe0\x00\x02", b"\xff", b"\xff\x01"])
def test_a_frame_behind_very_many_segments_is_not_searched(filling: bytes) -> None:
    def read(segments: int) -> ImageHeader | None:
        return read_image_header(jpeg(filling * segments, frame(70, 40)))

    assert read(MAX_JPEG_SEGMENTS - 1) == ImageHeader("image/jpeg", 70, 40)
    assert read(MAX_JPEG_SEGMENTS) is None
