"""Reading of a request's body, and the bodies that are small."""

import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from palaver import InvalidInput
from palaver_plugins.channels.openai_api.errors import InvalidType

Json = dict[str, Any]  # JSON values


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """The fields of OpenAI's request that mean something here; others are ignored."""

    model: str
    input: str | tuple[str | int | tuple[int, ...], ...]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class ConversationRequest(msgspec.Struct, frozen=True):
    """The fields of OpenAI's request that mean something here."""

    items: tuple[Json, ...] | None = None
    metadata: dict[str, str] | None = None


RequestT = TypeVar("RequestT")
_PATH = re.compile(r"`\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")


def decode_request(decode: Callable[[bytes], RequestT], body: bytes) -> RequestT:
    """Return the request. Raises `InvalidInput`, as `InvalidType` where a parameter is wrong."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        param = _find_param(str(error))
        if not param:
            raise InvalidInput(f"the request cannot be read: {error}") from error
        raise InvalidType(param, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request cannot be read: {error}") from error


def _find_param(error: str) -> str:
    """Return the parameter that an error of msgspec is about, also one that is missing."""
    found = (_PATH.search(error), _MISSING.search(error))
    return ".".join([match[1] for match in found if match and match[1]])
