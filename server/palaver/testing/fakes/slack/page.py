"""A conversation of the fake Slack as a page that looks as people see it."""

import base64
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from palaver.testing.fakes.slack.html import markdown_html, mrkdwn_html
from palaver.testing.fakes.slack.objects import Channel, Json, Message, SharedFile
from palaver.testing.fakes.slack.text import emoji_of
from palaver.testing.fakes.slack.view import text_of
from palaver.testing.fakes.slack.world import World

TEMPLATE = Path(__file__).with_suffix(".html").read_text("utf-8")
COLOURS = ("#36815e", "#2b6a9b", "#9a4a1f", "#7a3d8f", "#a33a52", "#5a6b1f")
GROUP_SECONDS = 300
"""Messages of one author within this time share a heading."""
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_SIGNS = {"complete": "✓", "error": "✗", "in_progress": "◌", "pending": "○"}


def render_page(
    world: World,
    channel: Channel,
    messages: Sequence[Message],
    *,
    is_thread: bool,
    status: str,
    can_stop: bool,
) -> str:
    """Return a page with these messages. All text of people and apps in it is escaped."""
    page = _Page(world, channel, is_thread)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE)
    return template.render(
        title=page.title(),
        is_thread=is_thread,
        items=[page.describe(messages, number) for number in range(len(messages))],
        status=status,
        can_stop=can_stop,
        app=next((app.name for app in world.apps.values()), ""),
    )


class _Page:
    """What the template shows of each message."""

    def __init__(self, world: World, channel: Channel, is_thread: bool) -> None:
        self._world = world
        self._channel = channel
        self._is_thread = is_thread

    def title(self) -> str:
        people = [self._world.users[id] for id in sorted(self._channel.members)]
        if self._channel.kind != "im":
            return f"# {self._channel.name}"
        return next((user.name for user in people if user.app), self._channel.name)

    def describe(self, messages: Sequence[Message], number: int) -> Json:
        """Return a message with what stands around it."""
        message = messages[number]
        user = self._world.users[message.user]
        name = message.username or user.name
        replies = [each for each in self._channel.thread(message.ts) if not each.ephemeral_to]
        return {
            "name": name,
            "initial": name[:1].upper(),
            "colour": COLOURS[sum(map(ord, user.id)) % len(COLOURS)],
            "is_app": bool(message.app),
            "has_heading": number == 0 or not _continues(messages[number - 1], message),
            "time": _format_time(message.ts),
            "parts": list(self._parts(message)),
            "files": [_file(file) for file in message.files],
            "reactions": [
                (emoji_of(name), len(users)) for name, users in message.reactions.items()
            ],
            "is_edited": bool(message.edited_ts) and not message.app,
            "is_ephemeral": bool(message.ephemeral_to),
            "is_streaming": message.is_streaming(self._world.clock.now()),
            "replies": max(len(replies) - 1, 0),
            "is_root": self._is_thread and number == 0,
        }

    def _parts(self, message: Message) -> Iterator[Json]:
        """Yield text, tasks and blocks in the order in which they are shown."""
        stream = message.stream
        if stream is not None and stream.tasks:
            tasks = [(_SIGNS[task["status"]], task["title"]) for task in stream.tasks.values()]
            yield {"kind": "tasks", "title": stream.plan_title, "tasks": tasks}
        if message.text and (stream is not None or not _has_text(message.blocks)):
            yield {"kind": "text", "html": self._text(message.text, message.is_markdown)}
        for block in message.blocks:
            yield from self._block(block)

    def _text(self, text: str, is_markdown: bool) -> Markup:
        to_html = markdown_html if is_markdown else mrkdwn_html
        return to_html(text, self._name)

    def _name(self, entity: str) -> str:
        """Return what is shown for a mention."""
        sign, id = entity[0], entity[1:].partition("|")[0]
        if sign == "@" and id in self._world.users:
            return f"@{self._world.users[id].name}"
        if sign == "#" and id in self._world.channels:
            return f"#{self._world.channels[id].name}"
        return f"@{id}"

    def _block(self, block: Json) -> Iterator[Json]:
        match block["type"]:
            case "markdown":
                yield {"kind": "text", "html": self._text(block["text"], True)}
            case "section":
                yield from self._section(block)
            case "header":
                yield {"kind": "header", "text": block["text"]["text"]}
            case "divider":
                yield {"kind": "divider"}
            case "context":
                html = [self._object(each) for each in block["elements"]]
                yield {"kind": "context", "html": Markup(" ").join(html)}
            case "actions" | "context_actions":
                elements = [_element(each) for each in block["elements"]]
                yield {"kind": "actions", "elements": elements}
            case "table":
                rows = [[_cell(cell) for cell in row] for row in block["rows"]]
                yield {"kind": "table", "rows": rows}
            case "image":
                yield {"kind": "image", "text": block["alt_text"]}
            case _:
                yield {"kind": "text", "html": Markup("<div>{}</div>").format(text_of(block))}

    def _section(self, block: Json) -> Iterator[Json]:
        for text in [block.get("text"), *block.get("fields", ())]:
            if text:
                yield {"kind": "text", "html": self._object(text)}
        if "accessory" in block:
            yield {"kind": "actions", "elements": [_element(block["accessory"])]}

    def _object(self, text: Json) -> Markup:
        """Return a text object, or the description of an image, as HTML."""
        if text["type"] == "mrkdwn":
            return self._text(text["text"], False)
        return Markup("<div>{}</div>").format(text.get("text") or text.get("alt_text", ""))


def _has_text(blocks: Sequence[Json]) -> bool:
    return any(
        block["type"] not in ("actions", "context_actions", "context", "divider")
        for block in blocks
    )


def _continues(before: Message, message: Message) -> bool:
    """Return whether a message stands below the one before without a heading of its own."""
    is_soon = float(message.ts) - float(before.ts) < GROUP_SECONDS
    same = (before.user, before.thread_ts, before.username) == (
        message.user,
        message.thread_ts,
        message.username,
    )
    return same and is_soon and not (before.ephemeral_to or message.ephemeral_to)


def _format_time(ts: str) -> str:
    return f"{datetime.datetime.fromtimestamp(float(ts), datetime.UTC):%H:%M}"


def _file(file: SharedFile) -> Json:
    picture = ""
    if file.media_type in _PICTURES:
        picture = f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}"
    return {
        "name": file.title or file.name,
        "kind": file.name.rpartition(".")[2].upper(),
        "picture": picture,
    }


def _element(element: Json) -> Json:
    kind = element["type"]
    if kind == "feedback_buttons":
        sides = [element["positive_button"], element["negative_button"]]
        return {"kind": kind, "labels": [side["text"]["text"] for side in sides]}
    if kind in ("button", "icon_button"):
        style = element.get("style", "")
        return {"kind": "button", "text": element["text"]["text"], "style": style}
    placeholder = element.get("placeholder", {}).get("text", "Choose an option")
    return {"kind": "menu", "text": placeholder}


def _cell(cell: Any) -> str:
    """Return the text of a cell (Any: a text object, or rich text of any depth)."""
    if isinstance(cell, dict):
        text = cell.get("text")
        return text if isinstance(text, str) else _cell(cell.get("elements", ""))
    return "".join(map(_cell, cell)) if isinstance(cell, list) else ""
