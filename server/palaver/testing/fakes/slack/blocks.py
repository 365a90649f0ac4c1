"""Slack's limits on blocks and metadata."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.objects import Json

MAX_BLOCKS = 50
MAX_CHARACTERS = 13_200
"""In all blocks of a message together: not in Slack's documentation, but measured by its users."""
MAX_METADATA_BYTES = 8_000

_BLOCK_TYPES = frozenset(
    "actions context context_actions divider file header image input markdown plan rich_text "
    "section table task_card video".split()
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Limits:
    """Limits of a block or element: characters of texts, and number of items, by field."""

    texts: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    items: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    required: tuple[str, ...] = ()


_LIMITS: Mapping[str, _Limits] = MappingProxyType(
    {
        "section": _Limits({"text": 3_000}, {"fields": 10}),
        "header": _Limits({"text": 150}, required=("text",)),
        "markdown": _Limits({"text": 12_000}, required=("text",)),
        "image": _Limits({"alt_text": 2_000, "image_url": 3_000}, required=("alt_text",)),
        "actions": _Limits(items={"elements": 25}, required=("elements",)),
        "context": _Limits(items={"elements": 10}, required=("elements",)),
        "context_actions": _Limits(items={"elements": 5}, required=("elements",)),
        "button": _Limits(
            {"text": 75, "value": 2_000, "url": 3_000, "action_id": 255}, required=("text",)
        ),
        "static_select": _Limits(
            {"action_id": 255, "placeholder": 150}, {"options": 100}, required=()
        ),
        "overflow": _Limits({"action_id": 255}, {"options": 5}, required=("options",)),
        "feedback_buttons": _Limits(
            {"action_id": 255}, required=("positive_button", "negative_button")
        ),
        "icon_button": _Limits({"action_id": 255, "value": 2_000}, required=("icon", "text")),
        "table": _Limits(items={"rows": 100}, required=("rows",)),
        "mrkdwn": _Limits({"text": 3_000}, required=("text",)),
        "plain_text": _Limits({"text": 3_000}, required=("text",)),
    }
)
_MAX_COLUMNS, _MAX_TABLE_CHARACTERS = 20, 10_000
_OPTION = _Limits({"text": 75, "value": 150}, required=("text", "value"))
_FEEDBACK_BUTTON = _Limits({"text": 75, "value": 2_000}, required=("text", "value"))


def check_blocks(blocks: Sequence[Json], max_blocks: int = MAX_BLOCKS) -> None:
    """Raise `SlackError` for blocks that Slack refuses."""
    problems = list(_problems(blocks, max_blocks))
    if problems:
        messages = [f"[ERROR] {problem}" for problem in problems]
        raise SlackError("invalid_blocks", response_metadata={"messages": messages})
    if sum(len(text) for text in texts_in(blocks)) > MAX_CHARACTERS:
        raise SlackError("msg_blocks_too_long")


def _problems(blocks: Sequence[Json], max_blocks: int) -> Iterator[str]:
    if len(blocks) > max_blocks:
        yield f"no more than {max_blocks} items allowed [json-pointer:/blocks]"
    ids = [block["block_id"] for block in blocks if block.get("block_id")]
    if len(ids) != len(set(ids)):
        yield "block_id must be unique [json-pointer:/blocks]"
    for number, block in enumerate(blocks):
        path = f"/blocks/{number}"
        if block.get("type") not in _BLOCK_TYPES:
            yield f"unsupported type: {block.get('type')} [json-pointer:{path}/type]"
        yield from _object_problems(block, path)
        if block.get("type") == "table":
            yield from _table_problems(block, path)
    if sum(block.get("type") == "table" for block in blocks) > 1:
        yield "only_one_table_allowed [json-pointer:/blocks]"
    yield from _action_problems(blocks)


def _object_problems(node: Any, path: str) -> Iterator[str]:
    """Any: the JSON of a block, at any depth."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from _object_problems(item, f"{path}/{number}")
    elif isinstance(node, dict):
        limits = _limits_of(node, path)
        if limits is not None:
            yield from _limit_problems(node, limits, path)
        for name, value in node.items():
            yield from _object_problems(value, f"{path}/{name}")


def _limits_of(node: Json, path: str) -> _Limits | None:
    if "/options/" in path and "type" not in node:
        return _OPTION
    if path.endswith(("/positive_button", "/negative_button")):
        return _FEEDBACK_BUTTON
    return _LIMITS.get(str(node.get("type")))


def _limit_problems(node: Json, limits: _Limits, path: str) -> Iterator[str]:
    for name in limits.required:
        if not node.get(name):
            yield f"missing required field: {name} [json-pointer:{path}]"
    for name, limit in limits.texts.items():
        if len(_plain(node.get(name))) > limit:
            yield f"must be less than {limit + 1} characters [json-pointer:{path}/{name}]"
    for name, limit in limits.items.items():
        if len(node.get(name) or ()) > limit:
            yield f"no more than {limit} items allowed [json-pointer:{path}/{name}]"


def _plain(value: Any) -> str:
    """Any: a text, or an object with a text."""
    text = value.get("text", "") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _table_problems(block: Json, path: str) -> Iterator[str]:
    rows = block.get("rows") or []
    if any(len(row) > _MAX_COLUMNS for row in rows):
        yield f"no more than {_MAX_COLUMNS} items allowed [json-pointer:{path}/rows]"
    if sum(len(text) for text in texts_in(rows)) > _MAX_TABLE_CHARACTERS:
        yield f"a table has at most {_MAX_TABLE_CHARACTERS} characters [json-pointer:{path}]"


def _action_problems(blocks: Sequence[Json]) -> Iterator[str]:
    for number, block in enumerate(blocks):
        ids = [str(each["action_id"]) for each in actions_in([block])]
        if len(ids) != len(set(ids)):
            yield f"action_id must be unique [json-pointer:/blocks/{number}]"


def actions_in(node: Any) -> Iterator[Json]:
    """Yield the objects with an ``action_id`` in JSON of any depth (Any)."""
    for each in _objects(node):
        if each.get("action_id"):
            yield each


def texts_in(node: Any) -> Iterator[str]:
    """Yield the texts in JSON of any depth (Any)."""
    for each in _objects(node):
        if isinstance(each.get("text"), str):
            yield each["text"]


def _objects(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _objects(item)


def check_metadata(metadata: Json | None) -> None:
    """Raise `SlackError` for metadata that Slack refuses; empty metadata removes it."""
    if not metadata:
        return
    is_complete = isinstance(metadata.get("event_type"), str) and metadata["event_type"]
    if not is_complete or not isinstance(metadata.get("event_payload"), dict):
        raise SlackError("invalid_metadata_format")
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise SlackError("metadata_too_large")
