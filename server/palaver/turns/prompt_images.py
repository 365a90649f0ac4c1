"""Images of a prompt: those of the message, and of the newest messages before it."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from palaver.engine import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGES, Image
from palaver.engines.requests import check_image
from palaver.errors import InvalidInput, NotFound, UnusableImage
from palaver.images import IMAGE_TYPES, read_image_header
from palaver.ledger import HistoryEntry
from palaver.messages import Attachment

ResultT = TypeVar("ResultT")
ReadAttachment = Callable[[Attachment], Awaitable[bytes]]


@dataclasses.dataclass(frozen=True, slots=True)
class PromptImages:
    """``own``: of the message to answer; ``earlier``: by the position of the history's entry."""

    own: tuple[Image, ...] = ()
    earlier: Mapping[int, tuple[Image, ...]] = dataclasses.field(default_factory=dict)

    def newest_earlier(self) -> "PromptImages | None":
        """Return it with the earlier images of one entry only; None when there are no others."""
        newest = max(self.earlier, default=0)
        others = self.earlier.keys() - {newest}
        return PromptImages(self.own, {newest: self.earlier[newest]}) if others else None

    def without_earlier(self) -> "PromptImages | None":
        """Return it without earlier images; None when there are none."""
        return PromptImages(self.own) if self.earlier else None


NO_IMAGES = PromptImages()


def has_image(attachments: Sequence[Attachment]) -> bool:
    """Return whether one of ``attachments`` is a picture, also of a kind that no engine sees."""
    return any(each.media_type.startswith("image/") for each in attachments)


def image_attachments(attachments: Sequence[Attachment]) -> tuple[Attachment, ...]:
    """Return those of ``attachments`` that an engine with the capability ``vision`` may see."""
    return tuple(each for each in attachments if each.media_type in IMAGE_TYPES)


async def read_prompt_images(
    attachments: Sequence[Attachment], history: Sequence[HistoryEntry], read: ReadAttachment
) -> PromptImages:
    """Read the images among ``attachments``, and those of the history from its end on, as many as
    one request may have.

    An image of the history that was deleted, or that no engine takes, is left out. Raises
    `NotFound` when one of ``attachments`` was, and `InvalidInput` when no engine takes one, or when
    they are more than a request may have.
    """
    budget = _Budget()
    own = [await _read_own(it, read, budget) for it in image_attachments(attachments)]
    earlier: dict[int, tuple[Image, ...]] = {}
    for position in range(len(history) - 1, -1, -1):
        found = []
        for attachment in reversed(_images_of(history[position])):
            if not budget.has_room(attachment.size):
                return PromptImages(tuple(own), earlier)
            try:
                image = await _read_image(attachment, read)
                check_image(image)
            except (NotFound, InvalidInput):
                continue
            if not budget.take(image):
                return PromptImages(tuple(own), earlier)
            found.append(image)
            earlier[position] = tuple(reversed(found))
    return PromptImages(tuple(own), earlier)


def size_of_images(attachments: Sequence[Attachment], history: Sequence[HistoryEntry]) -> int:
    """Return an upper estimate of the bytes that `read_prompt_images` reads."""
    newest = [*image_attachments(attachments)]
    for entry in reversed(history):
        if len(newest) < MAX_IMAGES:
            newest += _images_of(entry)
    return min(MAX_IMAGE_BYTES, sum(each.size or len(each.url) for each in newest))


async def without_damaged(
    images: PromptImages, generate: Callable[[PromptImages], Awaitable[ResultT]]
) -> ResultT:
    """Return the result of ``generate``, which gets no earlier images when the engine cannot read
    one: a damaged image must not fail each message after its own."""
    try:
        return await generate(images)
    except UnusableImage:
        own = images.without_earlier()
        if own is None:
            raise
        return await generate(own)


def says_something(entry: HistoryEntry) -> bool:
    """Return whether a prompt has anything of the entry."""
    return bool(entry.text or entry.client_calls or _images_of(entry))


def _images_of(entry: HistoryEntry) -> tuple[Attachment, ...]:
    if entry.role != "user" or entry.attachments is msgspec.UNSET:
        return ()
    return image_attachments(entry.attachments)


async def _read_own(attachment: Attachment, read: ReadAttachment, budget: "_Budget") -> Image:
    image = await _read_image(attachment, read)
    check_image(image, repr(attachment.name))
    if not budget.take(image):
        raise InvalidInput(
            f"a message may have {MAX_IMAGES} images, with {MAX_IMAGE_BYTES >> 20} MiB and "
            f"{MAX_IMAGE_PIXELS // 1_000_000} million pixels together"
        )
    return image


async def _read_image(attachment: Attachment, read: ReadAttachment) -> Image:
    return Image(attachment.media_type, await read(attachment))


class _Budget:
    """What one request may have of images, and what is left of it."""

    def __init__(self) -> None:
        self._images, self._bytes, self._pixels = MAX_IMAGES, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

    def has_room(self, size: int) -> bool:
        return self._images > 0 and size <= self._bytes

    def take(self, image: Image) -> bool:
        """Take an image out of the budget. Return False when there is no room for it."""
        header = read_image_header(image.data)
        self._images -= 1
        self._bytes -= len(image.data)
        self._pixels -= 0 if header is None else header.pixels
        return min(self._images, self._bytes, self._pixels) >= 0
