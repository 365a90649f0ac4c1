"""Parts of a message of OpenAI's API."""

from typing import Any

import msgspec

PLACEHOLDERS = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "file": "file",
    "input_file": "file",
}
"""What stands for a part of an earlier message that is not text, by its type."""

Json = dict[str, Any]  # JSON values


class ImageUrl(msgspec.Struct, frozen=True):
    url: str | None = None


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageUrl | None = None
    filename: str | None = None
    file_data: str | None = None

    @property
    def is_text(self) -> bool:
        return self.type in ("text", "input_text", "output_text", "refusal")

    @property
    def is_image(self) -> bool:
        return self.type in ("image_url", "input_image")

    @property
    def is_file(self) -> bool:
        return self.type == "input_file"

    @property
    def url(self) -> str | None:
        """Return the URL of an image."""
        url = self.image_url
        return url.url if isinstance(url, ImageUrl) else url

    @property
    def shown(self) -> str:
        """Return the text, or what stands for a part that is none."""
        if self.is_text:
            return self.text or self.refusal or ""
        return f"[{PLACEHOLDERS.get(self.type, self.type[:40])}]"


Content = str | tuple[Part, ...] | None


def text_of(content: Content, *, without_images: bool = False) -> str:
    """Return what the content says. ``without_images``: nothing stands for images and files."""
    if content is None or isinstance(content, str):
        return content or ""
    if without_images:
        content = tuple(part for part in content if not (part.is_image or part.is_file))
    return "".join(part.shown for part in content)


def images_of(content: Content) -> tuple[tuple[int, Part], ...]:
    """Return the parts that are images, with their positions."""
    parts = enumerate(content if isinstance(content, tuple) else ())
    return tuple((number, part) for number, part in parts if part.is_image)
