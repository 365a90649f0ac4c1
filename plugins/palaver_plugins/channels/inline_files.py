"""Inline files: the content of a file within a message of an open protocol, as an attachment.

No file is fetched from another server: a client could make this one reach what it cannot.
"""

import base64
import binascii
import re

from palaver import Attachment, InvalidInput, UnusableImage, read_image_header

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)
MAX_NAME_LENGTH = 200


def read_inline_file(
    content: object, media_type: object, name: object, *, where: str, is_image: bool = False
) -> Attachment:
    """Return a file whose ``content`` is base64. An image has the type of its content.

    Raises `InvalidInput` and `UnusableImage`, which name the place ``where`` it is.
    """
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidInput(f"{where}: expected a media type such as image/png")
    if not isinstance(content, str):
        raise InvalidInput(f"{where}: expected base64")
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{where}: the base64 is wrong: {error}") from error
    if is_image or media_type.startswith("image/"):
        header = read_image_header(data)
        if header is None:
            raise UnusableImage(f"{where}: the content is no image that the server knows")
        media_type = header.media_type
    return Attachment(
        name=_name(name, media_type),
        media_type=media_type,
        url=f"data:{media_type};base64,{content}",
        size=len(data),
    )


def _name(name: object, media_type: str) -> str:
    if isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_NAME_LENGTH:
        return name
    kind, _, form = media_type.partition("/")
    return f"{kind if kind in ('image', 'audio', 'video') else 'document'}.{form[:20]}"
