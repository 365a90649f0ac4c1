"""Tools on the wire of the OpenAI API for engine ``openai``: requests, and calls in a stream.

Servers write streamed calls in many ways: without ids, all with index 0, with the name in each
chunk, with the arguments as an object, with the finish reason ``stop``.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from palaver import (
    ChatMessage,
    FinishReason,
    GenerationRequest,
    NamedTool,
    ToolCall,
    ToolDefinition,
)

Body = dict[str, Any]  # a JSON object of the API


def message_fields(message: ChatMessage) -> Body:
    """Return the fields of a message beside its role and its content."""
    if message.role == "tool":
        return {"tool_call_id": message.tool_call_id}
    if not message.tool_calls:
        return {}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]
    return {"tool_calls": calls}


def tool_definitions(tools: Sequence[ToolDefinition], *, strict: bool) -> list[Body]:
    """Return the definitions. ``strict``: the server holds the arguments to the schema, which
    vLLM does only where it is asked, and OpenAI only for some schemas."""
    more = {"strict": True} if strict else {}
    return [{"type": "function", "function": dataclasses.asdict(tool) | more} for tool in tools]


def request_fields(request: GenerationRequest, *, strict: bool) -> Body:
    """Return the fields of a request for tools; none without tools."""
    if not request.tools:
        return {}
    choice: str | Body = (
        {"type": "function", "function": {"name": request.tool_choice.name}}
        if isinstance(request.tool_choice, NamedTool)
        else request.tool_choice
    )
    fields: Body = {
        "tools": tool_definitions(request.tools, strict=strict),
        "tool_choice": choice,
    }
    if not request.parallel_tool_calls:  # a server may not know the field
        fields["parallel_tool_calls"] = False
    return fields


@dataclasses.dataclass(slots=True)
class _Call:
    """A call, as far as it has arrived."""

    index: object
    id: str = ""
    name: str = ""
    arguments: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.arguments)

    @property
    def is_complete(self) -> bool:
        return is_json_object(self.text)


class StreamedCalls:
    """The calls of one completion, put together from what arrives. ``names`` are those of the
    tools that may be called."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._calls: list[_Call] = []

    def add(self, message: Body) -> None:
        """Add the calls of a chunk's delta, or of a whole message."""
        deltas = message.get("tool_calls")
        if not isinstance(deltas, list):
            deltas = [deltas] if isinstance(deltas, dict) else []
        for position, delta in enumerate(deltas):
            if isinstance(delta, dict):
                self._add(delta, position if len(deltas) > 1 else None)

    def _add(self, delta: Body, position: int | None) -> None:
        function = delta.get("function")
        fields: Body = function if isinstance(function, dict) else delta
        call_id, name = _text(delta.get("id")), _text(fields.get("name"))
        index = delta.get("index")
        call = self._find(position if index is None else index, call_id, name)
        call.id = call.id or call_id
        if name and name != call.name:
            call.name += name
        arguments = fields.get("arguments")
        if isinstance(arguments, dict):
            call.arguments = [json.dumps(arguments, ensure_ascii=False)]
        else:
            call.arguments.append(_text(arguments))

    def _find(self, index: object, call_id: str, name: str) -> _Call:
        """Return the call that a delta belongs to, which may be a new one."""
        if call_id:
            found = next((it for it in reversed(self._calls) if it.id == call_id), None)
            if found is not None:
                return found
        known = (it for it in reversed(self._calls) if index is None or it.index == index)
        call = next(known, None)
        if call is None or self._begins_another(call, call_id, name):
            call = _Call(index)
            self._calls.append(call)
        return call

    def _begins_another(self, call: _Call, call_id: str, name: str) -> bool:
        """Return whether a delta with this id and name begins a call after ``call``, although it
        has no other index."""
        if call_id and call.id:
            return True  # it is another id
        if not name or not call.name:
            return False
        if name == call.name:  # servers repeat it
            return call.is_complete
        return call.name in self._names or bool(call.text)

    def result(self, reason: FinishReason) -> tuple[tuple[ToolCall, ...], FinishReason]:
        """Return the calls, without one that the limit of tokens has cut off, and the reason why
        the reply has ended."""
        calls = [it for it in self._calls if it.name]
        if reason == "length":
            if calls and not calls[-1].is_complete:
                del calls[-1]
        else:
            reason = "tool_calls" if calls else "stop"
        found: dict[str, ToolCall] = {}
        for call in calls:
            call_id = call.id if call.id and call.id not in found else f"call_{uuid4().hex}"
            found[call_id] = ToolCall(call_id, call.name, call.text.strip() or "{}")
        return tuple(found.values()), reason


def is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
