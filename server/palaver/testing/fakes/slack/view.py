"""What people see of a conversation."""

import dataclasses
import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

from palaver.testing.fakes.slack.objects import Channel, Json, Message, Thread
from palaver.testing.fakes.slack.text import show_emoji
from palaver.testing.fakes.slack.world import World

STATUS_SECONDS = 120.0
"""Seconds after which a thread's status ends."""

_MENTION = re.compile(r"<(@[UW][A-Z0-9]+|!(?:here|channel|everyone)|!subteam\^[A-Z0-9]+)[^<>\n]*>")
_ENTITY = re.compile(r"<([^<>\n]*)>")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """Something that a person can press or choose."""

    action_id: str
    label: str
    value: str
    block_id: str
    kind: str = "button"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VisibleMessage:
    """A message as people see it.

    ``author`` is the name that is shown, ``user`` the id. ``text``: the Markdown or the text that
    is shown; blocks go before the text of the message, which is their fallback. ``actions``: the
    ids of the buttons.
    """

    ts: str
    thread_ts: str
    author: str
    user: str
    is_app: bool
    text: str
    blocks: tuple[Json, ...] = ()
    buttons: tuple[Button, ...] = ()
    context: tuple[str, ...] = ()
    """The small print: texts of context blocks."""
    files: tuple[str, ...] = ()
    metadata: Json | None = None
    reactions: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    """Whom Slack notifies, such as ``@U1`` or ``!here``. Mentions in code count as well, so that a
    test is on the safe side."""
    is_edited: bool = False
    is_streaming: bool = False
    tasks: tuple[tuple[str, str], ...] = ()
    """Title and status of each task of a stream."""
    ephemeral_to: str = ""
    previews: int = 0
    """Previews of links."""

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(button.action_id for button in self.buttons)


def visible(
    world: World, channel: Channel, thread: str | None, seen_by: str
) -> list[VisibleMessage]:
    """Return the messages of a thread, or without ``thread`` all of a channel, in order."""
    messages = channel.messages.values() if thread is None else channel.thread(thread)
    return [
        show(world, message, seen_by)
        for message in messages
        if not seen_by or message.ephemeral_to in ("", seen_by)
    ]


def shown_status(world: World, thread: Thread) -> str:
    """Return a thread's status, which ends by itself."""
    status = world.statuses.get(thread)
    if status is None or world.clock.now() >= status.set_at + STATUS_SECONDS:
        return ""
    return status.text


def show(world: World, message: Message, seen_by: str = "") -> VisibleMessage:
    is_streaming = message.is_streaming(world.clock.now())
    hides_text = is_streaming and _is_hidden(world, message, seen_by)
    body = _body_blocks(message.blocks)
    buttons = tuple(buttons_of(message.blocks))
    return VisibleMessage(
        ts=message.ts,
        thread_ts=message.thread_ts,
        author=message.username or world.users[message.user].name,
        user=message.user,
        is_app=bool(message.app),
        text="" if hides_text else _shown_text(message, body),
        blocks=tuple(message.blocks),
        buttons=buttons,
        context=tuple(_context(message.blocks)),
        files=tuple(file.name for file in message.files),
        metadata=message.metadata,
        reactions=tuple(message.reactions),
        mentions=tuple(_mentions(message)),
        is_edited=bool(message.edited_ts),
        is_streaming=is_streaming,
        tasks=_tasks(message),
        ephemeral_to=message.ephemeral_to,
        previews=len(message.attachments),
    )


def _is_hidden(world: World, message: Message, seen_by: str) -> bool:
    """Return whether the live text is for somebody else; all see it in direct messages."""
    is_direct = world.channels[message.channel].kind == "im"
    recipient = message.stream.recipient if message.stream else ""
    return bool(seen_by) and not is_direct and seen_by != recipient


def _shown_text(message: Message, body: Sequence[Json]) -> str:
    """Return the text. Blocks stand in its place, but below the text of a stream."""
    parts = [_block_text(body)] if body else []
    if message.stream is not None or not body:
        parts.insert(0, _text(message))
    return "\n\n".join(part for part in parts if part)


def _tasks(message: Message) -> tuple[tuple[str, str], ...]:
    tasks = message.stream.tasks.values() if message.stream else ()
    return tuple((task["title"], task["status"]) for task in tasks)


def _text(message: Message) -> str:
    return message.text if message.is_markdown else show_text(message.text)


def show_text(text: str) -> str:
    """Return mrkdwn as people see it: without escapes, links by their labels."""
    shown = _ENTITY.sub(_show_entity, show_emoji(text))
    return html.unescape(shown) if "&" in shown else shown


def _show_entity(match: re.Match[str]) -> str:
    address, _, label = match[1].partition("|")
    return match[0] if address[:1] in ("@", "#", "!") else label or address


def _body_blocks(blocks: Sequence[Json]) -> list[Json]:
    return [block for block in blocks if block["type"] in _TEXT_BLOCKS]


_TEXT_BLOCKS = ("markdown", "section", "header", "rich_text", "table", "plan", "task_card")


def _block_text(blocks: Sequence[Json]) -> str:
    return "\n\n".join(text for block in blocks if (text := text_of(block)))


def text_of(block: Json) -> str:
    """Return the text of a block."""
    if block["type"] == "markdown":
        return str(block["text"])
    texts = [block.get("text"), *block.get("fields", ())]
    if block["type"] in ("section", "header"):
        return "\n".join(show_text(text["text"]) for text in texts if text)
    return " ".join(_strings(block))


def _strings(node: Any) -> Iterator[str]:
    """Any: JSON of any depth."""
    if isinstance(node, dict):
        if isinstance(node.get("text"), str):
            yield node["text"]
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for item in node:
            yield from _strings(item)


def _mentions(message: Message) -> Iterator[str]:
    for text in [message.text, *_marked_texts(message.blocks)]:
        yield from _MENTION.findall(text)


def _marked_texts(node: Any) -> Iterator[str]:
    """Yield the texts with marks in blocks of any depth (Any): plain text has no mentions."""
    if isinstance(node, dict):
        if node.get("type") in ("mrkdwn", "markdown"):
            yield node["text"]
        for value in node.values():
            yield from _marked_texts(value)
    elif isinstance(node, list):
        for item in node:
            yield from _marked_texts(item)


def _context(blocks: Sequence[Json]) -> Iterator[str]:
    for block in blocks:
        if block["type"] == "context":
            yield " ".join(
                show_text(each["text"]) for each in block["elements"] if each.get("text")
            )


def buttons_of(blocks: Sequence[Json]) -> Iterator[Button]:
    for number, block in enumerate(blocks):
        block_id = block.get("block_id") or f"b{number}"
        elements = [*block.get("elements", ()), block.get("accessory")]
        for element in elements:
            if isinstance(element, dict):
                yield from _element_buttons(element, block_id)


def _element_buttons(element: Json, block_id: str) -> Iterator[Button]:
    kind, action_id = element.get("type", ""), element.get("action_id", "")
    if kind == "feedback_buttons":
        choices = [element["positive_button"], element["negative_button"]]
    elif kind in ("static_select", "overflow", "radio_buttons", "checkboxes"):
        choices = element.get("options", [])
    elif kind in ("button", "icon_button"):
        choices = [element]
    else:
        return
    for choice in choices:
        yield Button(
            action_id=action_id,
            label=str(choice["text"]["text"]),
            value=str(choice.get("value", "")),
            block_id=block_id,
            kind=kind,
        )
