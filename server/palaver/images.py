"""Images: type and size of a picture, read from the first bytes of its file.

Nothing is decoded here: that belongs to the engine that sees the picture.
"""

import dataclasses
import struct

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Media types of images that an engine with the capability ``vision`` gets."""
MAX_JPEG_SEGMENTS = 2_000
"""Segments of a JPEG file that are searched for its size; cameras write some hundred at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageHeader:
    """Media type and size of an image, in pixels."""

    media_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_image_header(data: bytes) -> ImageHeader | None:
    """Return what the file says about itself; None when it is no image of `IMAGE_TYPES`."""
    for media_type, read_size in (
        ("image/png", _png_size),
        ("image/jpeg", _jpeg_size),
        ("image/gif", _gif_size),
        ("image/webp", _webp_size),
    ):
        try:
            size = read_size(data)
        except (struct.error, IndexError):  # the file ends too early
            continue
        if size is not None and min(size) > 0:
            return ImageHeader(media_type, *size)
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif_size(data: bytes) -> tuple[int, int] | None:
    if not data.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    match data[12:16]:
        case b"VP8X":
            low, high = data[24:27], data[27:30]
            if len(high) < 3:
                return None
            return int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1
        case b"VP8L" if data[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame header: a JPEG file is a list of segments, each with a
    marker and its length."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    place = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        fill, marker = data[place], data[place + 1]
        if fill != 0xFF or marker in (0xD9, 0xDA):  # the end of the image, the start of its pixels
            return None
        if marker == 0xFF:  # any number of fill bytes may stand before a marker
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            place += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, place + 2)
            place += 2 + length
    return None
