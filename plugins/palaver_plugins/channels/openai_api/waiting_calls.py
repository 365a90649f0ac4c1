"""Calls of a program's tools that a skill waits for: the conversation that their results continue.

A client sends the results with the whole conversation, as after any other call. Their ids tell
where the skill waits, unless the request itself names the conversation.
"""

import itertools
import re
from collections.abc import Sequence

import msgspec

from palaver import Message, ProgramRequest, SentMessage
from palaver_plugins.channels.openai_api.errors import InvalidParameter
from palaver_plugins.channels.openai_api.response_reading import ResponseReader
from palaver_plugins.channels.questions import was_accepted

_CALL = re.compile(r"call_([0-9a-f]{32})_[0-9]+_[0-9]+")

UNKNOWN = "the reply with this call is no longer stored; begin again with the user's message"
SENT_BEFORE = (
    "the results of this reply were sent before, and its tools of the server are not called "
    "again; begin again with the user's message, or repeat a request with its Idempotency-Key"
)


def with_call_prefix(message: Message) -> Message:
    """Return the message with ids of calls that tell its conversation, which no request names."""
    program = msgspec.structs.replace(
        message.program or ProgramRequest(), call_prefix=f"call_{message.conversation.thread}"
    )
    return msgspec.structs.replace(message, program=program)


def results_at_end(messages: Sequence[SentMessage]) -> tuple[SentMessage, ...]:
    """Return the results with which the messages end."""
    found = itertools.takewhile(lambda sent: sent.role == "tool", reversed(messages))
    return tuple(reversed(list(found)))


async def continue_waiting(
    reader: ResponseReader, message: Message, results: Sequence[SentMessage], param: str
) -> Message:
    """Return the message as one that brings these results to the skill that waits for them.

    It stays as it is when they are no results of a skill's calls, or were sent before and repeating
    them has no effect. Raises `InvalidParameter` for ``param`` when the skill cannot continue.
    """
    ids = {sent.call for sent in results}
    threads = {found[1] for id in ids if (found := _CALL.fullmatch(id))}
    if not threads:
        return message
    (thread, *others) = threads
    conversation = msgspec.structs.replace(message.conversation, thread=thread)
    entries = [] if others else await reader.entries(conversation)
    called = {call.id for entry in entries for call in entry.client_calls or ()}
    if not ids <= called:
        raise InvalidParameter(param, UNKNOWN)
    waiting = {call.id for call in entries[-1].client_calls or ()}
    if missing := waiting - ids if ids & waiting else None:
        raise InvalidParameter(param, f"expected the result of {min(missing)!r}, too")
    continued = msgspec.structs.replace(message, conversation=conversation)
    if ids != waiting and not await was_accepted(reader.service, continued):
        if any(entry.tools for entry in entries):
            raise InvalidParameter(param, SENT_BEFORE)
        return message
    return bring_results(with_call_prefix(continued), results)


def bring_results(message: Message, results: Sequence[SentMessage]) -> Message:
    """Return the message with nothing but the results, for a conversation that the server keeps."""
    program = msgspec.structs.replace(
        message.program or ProgramRequest(), history=None, following=0, input=tuple(results)
    )
    return msgspec.structs.replace(message, text=results[-1].text, attachments=(), program=program)
