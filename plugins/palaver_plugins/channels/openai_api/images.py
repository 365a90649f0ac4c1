"""Images in requests of OpenAI's chat API: ``data:`` URLs in the messages of users.

No image is fetched from another server: a program could make this one reach what it cannot.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence

from palaver import (
    IMAGE_TYPES,
    Attachment,
    ChatMessage,
    Image,
    InvalidInput,
    check_images,
    read_image_header,
)
from palaver_plugins.channels.openai_api.chat_request import ChatRequest
from palaver_plugins.channels.openai_api.errors import InvalidParameter, UnsupportedParameter

Images = Mapping[int, tuple[Attachment, ...]]
"""Images by the position of their message."""


def read_images(
    request: ChatRequest, *, positions: Sequence[int], checked: Sequence[int]
) -> Images:
    """Return the images of the users' messages at ``positions``.

    Raises `InvalidParameter` when one cannot be read, and when those of ``checked`` are more than
    an engine takes at once.
    """
    found: dict[int, tuple[Image, ...]] = {}
    for at in positions:
        if request.messages[at].takes_images:
            found[at] = tuple(
                read_image(part.url, f"messages[{at}].content[{number}].image_url")
                for number, part in request.messages[at].image_parts
            )
    together = [image for at in checked for image in found.get(at, ())]
    try:
        check_images([ChatMessage("user", "", tuple(together))], frozenset({"vision"}))
    except InvalidInput as error:
        raise InvalidParameter("messages", str(error)) from error
    return {at: tuple(map(attach_image, images)) for at, images in found.items() if images}


def refuse_images(request: ChatRequest, *, positions: Sequence[int], reason: str) -> None:
    """Raise `UnsupportedParameter` for the first image in the messages at ``positions``."""
    for at in positions:
        for number, _ in request.messages[at].image_parts:
            raise UnsupportedParameter(f"messages[{at}].content[{number}].type", reason)


def read_image(url: str | None, param: str) -> Image:
    """Return the image of a ``data:`` URL, the parameter ``param``."""
    if url is None:
        raise InvalidParameter(param, "expected {'url': 'data:image/png;base64,…'}")
    head, _, content = url.partition(",")
    if not head.lower().startswith("data:"):
        raise UnsupportedParameter(
            param, "this server fetches no images; send the image itself, as a data: URL"
        )
    if not head.lower().endswith(";base64"):
        raise InvalidParameter(param, "expected a data: URL in base64")
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(param, f"the base64 of the data: URL is wrong: {error}") from error
    header = read_image_header(data)
    if header is None:
        raise InvalidParameter(param, f"expected an image of one of {', '.join(IMAGE_TYPES)}")
    return Image(header.media_type, data)


def attach_image(image: Image) -> Attachment:
    content = base64.b64encode(image.data).decode()
    return Attachment(
        name=f"image.{image.media_type.removeprefix('image/')}",
        media_type=image.media_type,
        url=f"data:{image.media_type};base64,{content}",
    )
