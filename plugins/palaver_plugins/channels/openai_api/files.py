"""Files in requests of OpenAI's API: their content, within the messages of users.

No file is fetched from another server: a program could make this one reach what it cannot.
"""

import mimetypes

from palaver import Attachment, InvalidInput, UnusableImage
from palaver_plugins.channels.inline_files import read_inline_file
from palaver_plugins.channels.openai_api.errors import InvalidParameter, UnsupportedParameter
from palaver_plugins.channels.openai_api.parts import Part


def read_file(part: Part, param: str) -> Attachment:
    """Return the file of a part, the parameter ``param``. Raises `InvalidParameter`."""
    if part.file_data is None:
        raise UnsupportedParameter(
            param, "this server reads no file_id and no file_url; send the file as file_data"
        )
    guessed = mimetypes.guess_type(part.filename or "")[0] or "application/octet-stream"
    head, comma, content = part.file_data.rpartition(",")
    media_type = head.removeprefix("data:").partition(";")[0] if comma else guessed
    try:
        return read_inline_file(content, media_type, part.filename, where="file_data")
    except (InvalidInput, UnusableImage) as error:
        raise InvalidParameter(f"{param}.file_data", str(error)) from error
