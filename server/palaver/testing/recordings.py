"""Recordings: requests and generations of an engine, as JSON that people can read and compare."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from palaver.engine import (
    ChatMessage,
    Choice,
    Generation,
    GenerationRequest,
    JsonSchema,
    NamedTool,
    Regex,
    Sampling,
    Structure,
    ToolCall,
    ToolDefinition,
)
from palaver.messages import Usage

Json = Any  # Any: a JSON value
MAX_SHOWN = 60
"""Characters of a text that are shown around a difference."""


def encode_request(request: GenerationRequest) -> dict[str, Json]:
    """Return what the reply depends on, without defaults. Ids of calls become their numbers, since
    they differ each time."""
    return _without_empty(
        {
            "messages": encode_messages(request.messages),
            "partial": request.partial,
            "adapter": request.adapter,
            "sampling": _encode_sampling(request.sampling),
            "tools": [dataclasses.asdict(tool) for tool in request.tools],
            "tool_choice": _encode_tool_choice(request),
            "parallel_tool_calls": None if request.parallel_tool_calls else False,
        }
    )


def encode_messages(messages: Sequence[ChatMessage]) -> list[Json]:
    """Return messages as JSON. Of an image only its digest is kept."""
    numbers: dict[str, str] = {}
    for message in messages:
        for call in message.tool_calls:
            numbers.setdefault(call.id, f"call-{len(numbers) + 1}")
    return [_encode_message(message, numbers) for message in messages]


def _encode_message(message: ChatMessage, numbers: dict[str, str]) -> Json:
    return _without_empty(
        {
            "role": message.role,
            "content": message.content,
            "images": [
                f"{image.media_type} sha256:{hashlib.sha256(image.data).hexdigest()}"
                for image in message.images
            ],
            "tool_calls": [
                {**_encode_call(call), "id": numbers[call.id]} for call in message.tool_calls
            ],
            "tool_call_id": numbers.get(message.tool_call_id, message.tool_call_id),
        }
    )


def encode_prompt(
    messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition]
) -> dict[str, Json]:
    """Return what a number of tokens depends on."""
    return _without_empty(
        {
            "messages": encode_messages(messages),
            "tools": [dataclasses.asdict(tool) for tool in tools],
        }
    )


def _encode_call(call: ToolCall) -> dict[str, Json]:
    """Return a call, with its arguments as JSON where the model has written such."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    is_same = not isinstance(arguments, str) and json.dumps(arguments) == call.arguments
    return {"id": call.id, "name": call.name, "arguments": arguments if is_same else call.arguments}


def _encode_sampling(sampling: Sampling) -> dict[str, Json]:
    """Return the parameters that are not the defaults."""
    values = {
        field.name: getattr(sampling, field.name)
        for field in dataclasses.fields(sampling)
        if getattr(sampling, field.name) != field.default
    }
    if sampling.structure is not None:
        values["structure"] = _encode_structure(sampling.structure)
    if sampling.stop:
        values["stop"] = list(sampling.stop)
    return values


def _encode_structure(structure: Structure) -> Json:
    match structure:
        case JsonSchema():
            return {"json_schema": structure.schema}
        case Choice():
            return {"choice": list(structure.options)}
        case Regex():
            return {"regex": structure.pattern}


def _encode_tool_choice(request: GenerationRequest) -> Json:
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return {"name": choice.name}
    return None if choice == "auto" else choice


def encode_generation(generation: Generation) -> dict[str, Json]:
    return _without_empty(
        {
            "text": generation.text,
            "tool_calls": [_encode_call(call) for call in generation.tool_calls],
            "finish_reason": generation.finish_reason,
            "usage": {
                "prompt_tokens": generation.usage.prompt_tokens,
                "completion_tokens": generation.usage.completion_tokens,
            },
        }
    )


def decode_generation(recorded: dict[str, Json]) -> Generation:
    """Return a recorded generation. Raises `KeyError` and `TypeError` for a malformed one."""
    calls = [
        ToolCall(
            id=call["id"],
            name=call["name"],
            arguments=call["arguments"]
            if isinstance(call["arguments"], str)
            else json.dumps(call["arguments"]),
        )
        for call in recorded.get("tool_calls", ())
    ]
    return Generation(
        text=recorded.get("text", ""),
        finish_reason=recorded["finish_reason"],
        usage=Usage(**recorded["usage"]),
        tool_calls=tuple(calls),
    )


def _without_empty(values: dict[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


def find_difference(recorded: Json, requested: Json, path: str = "") -> tuple[str, int]:
    """Return the first difference of two JSON values as a sentence, and how many values before it
    are equal. The sentence is empty when there is none."""
    equal = 0
    for key, one, other in _pairs(recorded, requested):
        place = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".removeprefix(".")
        if one is _MISSING or other is _MISSING:
            kind = "requested and not recorded" if one is _MISSING else "recorded and not requested"
            return f"{place} is {kind}: {_shorten(other if one is _MISSING else one)}", equal
        difference, before = find_difference(one, other, place)
        equal += before
        if difference:
            return difference, equal
    if recorded != requested and not (
        _is_container(recorded) and type(recorded) is type(requested)
    ):
        return _describe(recorded, requested, path), equal
    return "", equal + 1


_MISSING = object()


def _is_container(value: Json) -> bool:
    return isinstance(value, dict | list)


def _pairs(recorded: Json, requested: Json) -> Iterator[tuple[str | int, Json, Json]]:
    if isinstance(recorded, dict) and isinstance(requested, dict):
        for key in dict.fromkeys((*recorded, *requested)):
            yield key, recorded.get(key, _MISSING), requested.get(key, _MISSING)
    elif isinstance(recorded, list) and isinstance(requested, list):
        for index in range(max(len(recorded), len(requested))):
            yield (
                index,
                recorded[index] if index < len(recorded) else _MISSING,
                requested[index] if index < len(requested) else _MISSING,
            )


def _describe(recorded: Json, requested: Json, path: str) -> str:
    if not (isinstance(recorded, str) and isinstance(requested, str)):
        return f"{path}: recorded {_shorten(recorded)}, requested {_shorten(requested)}"
    pairs = enumerate(zip(recorded, requested, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), min(len(recorded), len(requested)))
    start = max(0, at - MAX_SHOWN // 3)
    return (
        f"{path} differs at character {at}: recorded {recorded[start : start + MAX_SHOWN]!r}, "
        f"requested {requested[start : start + MAX_SHOWN]!r}"
    )


def _shorten(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"
