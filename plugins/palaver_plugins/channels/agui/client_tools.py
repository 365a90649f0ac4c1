"""Client tools: the tools of the client's page, and the results that it brings of their calls."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from palaver import (
    ClientTool,
    Conflict,
    ConversationService,
    InvalidInput,
    Message,
    ProgramRequest,
    SentMessage,
)
from palaver_plugins.channels.openai_api.errors import (
    InvalidParameter,
    InvalidSchema,
    SchemaTooLarge,
)
from palaver_plugins.channels.openai_api.tools import Function, read_tools
from palaver_plugins.channels.questions import was_accepted

Json = dict[str, Any]  # JSON values
_CALL = re.compile(r"([0-9a-f]{32})_[0-9]+_[0-9]+")
"""Id of a call of a client's tool: it begins with the turn that waits for the result."""


def read_client_tools(tools: Sequence[Json]) -> tuple[ClientTool, ...]:
    """Return the tools that a client offers. Raises `InvalidInput`."""
    functions: list[tuple[str, Function]] = []
    for number, tool in enumerate(tools):
        try:
            functions.append((f"tools[{number}]", msgspec.convert(tool, Function)))
        except msgspec.ValidationError as error:
            raise InvalidInput(f"tools[{number}]: {error}") from error
    try:
        return read_tools(functions, None).tools
    except (InvalidParameter, InvalidSchema, SchemaTooLarge) as error:
        sentence = error.public.removeprefix(f"{error.param}: ")
        raise InvalidInput(f"{error.param}: {sentence}") from error


def find_results(messages: Sequence[Mapping[str, Any]]) -> tuple[SentMessage, ...]:
    """Return the results of the newest calls of the client's tools that follow the last message of
    the user. Raises `InvalidInput`."""
    found: list[SentMessage] = []
    turn = ""
    for message in reversed(messages):
        call = message.get("toolCallId")
        matched = _CALL.fullmatch(call) if isinstance(call, str) else None
        if message["role"] == "user":
            break
        if message["role"] != "tool" or matched is None:
            continue
        if turn and matched[1] != turn:
            break
        turn = matched[1]
        found.append(SentMessage("tool", _read_result(message), call=matched[0]))
    return tuple(reversed(found))


def _read_result(message: Mapping[str, Any]) -> str:
    content, error = message.get("content"), message.get("error")
    if not isinstance(content, str):
        raise InvalidInput(f"the content of the result {message['id'][:60]!r} is not a text")
    return content or (error if isinstance(error, str) else "")


async def bring_results(
    service: ConversationService, message: Message, results: Sequence[SentMessage]
) -> Message:
    """Return the message as the one that brings the results to the turn that waits for them.

    Raises `InvalidInput` where one is missing, and `Conflict` where the turn does not wait, unless
    the message was accepted before.
    """
    program = msgspec.structs.replace(message.program or ProgramRequest(), input=tuple(results))
    message = msgspec.structs.replace(message, text=results[-1].text, program=program)
    snapshot = await service.snapshot(message.conversation)
    newest = snapshot.history[-1] if snapshot.history and not snapshot.pending else None
    waiting = {call.id for call in newest.client_calls or ()} if newest else set()
    given = {result.call for result in results}
    if given & waiting and (missing := waiting - given):
        raise InvalidInput(f"messages: expected the result of {min(missing)!r}, too")
    if given != waiting and not await was_accepted(service, message):
        raise Conflict(f"the call {min(given)!r} does not wait for its result")
    return message
