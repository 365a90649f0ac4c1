"""Call requests: the calls of tools that skills and models want, read and validated."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from palaver.errors import InvalidInput, NotFound, PalaverError
from palaver.tools import Tool

MAX_CALL_ARGUMENTS = 200_000
"""Bytes of a call's arguments, as the model wrote them, that are read at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestedCall:
    """Call that a skill or a model wants. ``arguments`` are those of the caller, ``validated``
    those that the tool's function gets. With an ``error`` the call is not made. ``approval`` is the
    id of the approval that the person was asked for."""

    name: str
    arguments: dict[str, Any]  # JSON values
    tool: Tool | None = None
    validated: dict[str, Any] = dataclasses.field(default_factory=dict)  # typed values
    error: PalaverError | None = None
    approval: str = ""


def request_call(tool: Tool, arguments: Mapping[str, Any]) -> RequestedCall:  # Any: JSON values
    """Return the call of a tool. Raises `InvalidInput` for arguments that do not validate."""
    given = dict(arguments)
    return RequestedCall(name=tool.name, arguments=given, tool=tool, validated=tool.validate(given))


def read_call(name: str, arguments: str, tools: Mapping[str, Tool]) -> RequestedCall:
    """Return the call of a tool, as a model wrote it; with an error that tells the model what is
    wrong with it."""
    given: dict[str, Any] = {}  # Any: JSON values
    try:
        given = _read_arguments(name, arguments)
        if (tool := tools.get(name)) is None:
            known = ", ".join(sorted(tools)) or "none"
            raise NotFound(f"There is no tool {name[:100]!r}. Those that exist: {known}.")
        return request_call(tool, given)
    except PalaverError as error:
        return RequestedCall(name=name, arguments=given, tool=tools.get(name), error=error)


def _read_arguments(name: str, arguments: str) -> dict[str, Any]:  # Any: JSON values
    if len(arguments) > MAX_CALL_ARGUMENTS:
        raise InvalidInput(
            f"Tool {name!r}: the arguments have more than {MAX_CALL_ARGUMENTS} bytes"
        )
    try:
        return msgspec.json.decode(arguments.encode() or b"{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidInput(f"Tool {name!r}: the arguments are no JSON object: {error}") from None
