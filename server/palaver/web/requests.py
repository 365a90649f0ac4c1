"""Requests: the values in queries and bodies, checked."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from palaver.errors import InvalidInput

T = TypeVar("T")


def decode_body(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return the decoded body. Raises `InvalidInput`."""
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body cannot be read: {error}") from error


def parse_number(request: web.Request, name: str, *, default: int, highest: int) -> int:
    """Return a number from 1 to ``highest`` of the query. Raises `InvalidInput`."""
    text = request.query.get(name)
    if text is None:
        return default
    number = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 0
    if not 1 <= number <= highest:
        raise InvalidInput(f"{name}={text[:20]!r}: expected a number from 1 to {highest}")
    return number


def parse_choice(request: web.Request, name: str, *choices: str) -> str | None:
    """Return one of ``choices`` of the query, None when it is absent. Raises `InvalidInput`."""
    text = request.query.get(name)
    if text is not None and text not in choices:
        raise InvalidInput(f"{name}={text[:20]!r}: expected {' or '.join(choices)}")
    return text


def parse_flag(request: web.Request, name: str) -> bool:
    """Return ``true`` or ``false`` of the query; False when it is absent. Raises `InvalidInput`."""
    return parse_choice(request, name, "true", "false") == "true"
