"""Decoder of images for the engines that see them on this machine.

`vllm_process` loads this file in the process of vLLM; therefore it needs nothing but Pillow.
"""

import io
from typing import Any

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Pillow's decoders for what strangers send; it has dozens of others."""
Untyped = Any  # Pillow is absent from most installations that are type-checked


def decode_image(data: bytes, *, max_pixels: int) -> Untyped:
    """Return the image in a file as Pillow's RGB image: upright, its first frame, on white.

    Raises `ValueError` for a damaged file and for more than ``max_pixels`` pixels.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # A decoder may have found another size than the file's header says.
            if image.width * image.height > max_pixels:
                raise ValueError(f"it has {image.width} × {image.height} pixels")
            upright = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise any exception
        raise ValueError(f"the image cannot be decoded: {error}") from error
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    ground = PIL.Image.new("RGBA", upright.size, "white")
    return PIL.Image.alpha_composite(ground, upright.convert("RGBA")).convert("RGB")
