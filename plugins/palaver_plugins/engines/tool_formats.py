"""Formats in which models write calls of tools into their text, found out from a chat template.

The vLLM process loads this file too, which therefore needs only the standard library.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]  # as chat templates take it
WrittenCall = tuple[str, str]
"""Name and arguments; the arguments are a JSON object, unless the model has made a mistake."""
CallFields = tuple[str, str, str]
"""Id, name and arguments of a call."""

_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,64})"')


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """JSON objects with ``name`` and ``arguments``, each between ``start`` and ``end``.

    ``markup``: further texts with which the chat template sets apart what concerns tools.
    """

    name: str
    start: str
    end: str
    markup: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """Return the text with which the model begins a call."""
        return f"{self.start}\n"

    def parse(self, text: str) -> list[WrittenCall]:
        """Return the calls in ``text``, without one at its end that is not complete."""
        calls = []
        for part in text.split(self.start)[1:]:
            written, end, _ = part.partition(self.end)
            call = read_call(written)
            if end or call is not None:
                calls.append(call or (_find_name(written), written.strip()))
        return calls


HERMES = ToolFormat(
    "hermes",
    "<tool_call>",
    "</tool_call>",
    ("<tool_response>", "</tool_response>", "<tools>", "</tools>"),
)
"""The format of Hermes, Qwen 2.5 and 3, and many others."""
FORMATS = (HERMES,)


def read_call(written: str) -> WrittenCall | None:
    """Return the call in ``written``, or None when it is not complete, or is no call."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        return value["name"], arguments
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def _find_name(written: str) -> str:
    found = _NAME.search(written)
    return found[1] if found else ""


# What a chat template takes


def template_tools(tools: Sequence[Message], escape: Callable[[str], str]) -> list[Message] | None:
    """Return the definitions for a chat template; None without any, which templates expect."""
    return [{"type": "function", "function": escape_all(it, escape)} for it in tools] or None


def tool_fields(
    calls: Sequence[CallFields], call_id: str, names: dict[str, str], escape: Callable[[str], str]
) -> Message:
    """Return the fields of a message that concern tools. ``names`` are those of the calls so far,
    by id: a result is shown with the name of its tool."""
    names.update((call, name) for call, name, _ in calls)
    if calls:
        return {
            "tool_calls": [
                {
                    "id": call,
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": escape_all(json.loads(arguments), escape),
                    },
                }
                for call, name, arguments in calls
            ]
        }
    return {"tool_call_id": call_id, "name": names.get(call_id, "")} if call_id else {}


def escape_all(value: Any, escape: Callable[[str], str]) -> Any:  # Any: a JSON value
    """Return ``value`` with each text in it escaped."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [escape_all(it, escape) for it in value]
    if isinstance(value, dict):
        return {escape(key): escape_all(it, escape) for key, it in value.items()}
    return value


def markup_pattern(special: Sequence[str], tool_format: ToolFormat | None) -> "re.Pattern[str]":
    """Return the pattern of what a message must not contain: special tokens and markup."""
    texts = [*special]
    if tool_format is not None:
        texts += [tool_format.start, tool_format.end, *tool_format.markup]
    return re.compile("|".join(sorted(map(re.escape, texts), reverse=True)) or r"(?!)")


def break_markup(pattern: "re.Pattern[str]", text: str) -> str:
    """Break what ``pattern`` finds with a zero-width space: a message must not contain the markup
    of the chat template, which could make it look like a system message."""
    return pattern.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", text)


PROBE_CALL: CallFields = ("palaver01", "probe_tool", '{"probe_key": "probe value"}')
PROBE_TOOLS: list[Message] = [
    {
        "name": "probe_tool",
        "description": "probe description",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    }
]
PROBE_RESULT = "probe result"


def find_format(
    render: Callable[[list[Message], list[Message] | None], str], special: Sequence[str]
) -> ToolFormat | None:
    """Return the format in which a chat template renders the calls of a history, or None.

    The template must also render definitions and results. The marks of a call must not be
    ``special`` tokens, which are no part of the text.
    """
    names: dict[str, str] = {}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""} | tool_fields([PROBE_CALL], "", names, str),
        {"role": "tool", "content": PROBE_RESULT} | tool_fields([], PROBE_CALL[0], names, str),
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Go on"},
    ]
    try:
        text = render(messages, template_tools(PROBE_TOOLS, str))
    except Exception:  # noqa: BLE001  templates raise any exception
        return None
    if PROBE_RESULT not in text or PROBE_TOOLS[0]["description"] not in text:
        return None
    for tool_format in FORMATS:
        calls = tool_format.parse(text)
        is_text = not {tool_format.start, tool_format.end}.intersection(special)
        if is_text and any(
            name == PROBE_CALL[1] and arguments == PROBE_CALL[2] for name, arguments in calls
        ):
            return tool_format
    return None
