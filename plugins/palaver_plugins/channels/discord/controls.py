"""Buttons and menus below the bot's messages.

Their custom ids have all that is needed when somebody uses one, on any server and after any
restart: what it means, as `Button.data`, and the id of the post, by which a message is found again.
"""

from collections.abc import Iterable, Sequence

import discord

from palaver.platforms import Button, OutgoingPost

MAX_BUTTON_LABEL, MAX_MENU_LABEL = 80, 100
MAX_BUTTONS = 5
"""Buttons in one row; more options, and longer ones, stand in a menu."""
MAX_MENU = 25
_SEPARATOR = "|"
_MENU = "menu"


def view_of(post: OutgoingPost) -> discord.ui.View | None:
    """Return what stands below a post; None for nothing.

    It has no timeout, and the library need not remember it: `DiscordChannel` gets every use.
    """
    if not post.buttons:
        return None
    view = discord.ui.View(timeout=None)
    for item in _items(post.buttons[:MAX_MENU], post.id):
        view.add_item(item)
    return view


Control = discord.ui.Button[discord.ui.View] | discord.ui.Select[discord.ui.View]


def _items(buttons: Sequence[Button], post: str) -> Iterable[Control]:
    is_long = any(len(button.label) > MAX_BUTTON_LABEL for button in buttons)
    if is_long or len(buttons) > MAX_BUTTONS:
        yield discord.ui.Select(
            custom_id=f"{_MENU}{_SEPARATOR}{post}",
            placeholder="Choose an answer",
            options=[
                discord.SelectOption(label=shortened(each.label, MAX_MENU_LABEL), value=each.data)
                for each in buttons
            ],
        )
        return
    for button in buttons:
        yield discord.ui.Button(
            label=shortened(button.label, MAX_BUTTON_LABEL),
            custom_id=f"{button.data}{_SEPARATOR}{post}",
        )


def data_of(custom_id: str, values: Sequence[str]) -> str:
    """Return the `Button.data` of a button that was pressed, or of what was chosen in a menu."""
    data, _, _ = custom_id.partition(_SEPARATOR)
    return next(iter(values), "") if data == _MENU else data


def posts_of(message: discord.Message) -> set[str]:
    """Return the ids of the posts to which the controls of a message belong."""
    return {custom_id.partition(_SEPARATOR)[2] for custom_id in _custom_ids(message)}


def has_controls_of(message: discord.Message, post: OutgoingPost) -> bool:
    """Return whether the controls below a message are those of the post as it is now."""
    items = _items(post.buttons[:MAX_MENU], post.id) if post.buttons else ()
    return _custom_ids(message) == {item.custom_id for item in items}


def _custom_ids(message: discord.Message) -> set[str]:
    return {
        item.custom_id or ""
        for row in message.components
        if isinstance(row, discord.ActionRow)
        for item in row.children
        if isinstance(item, discord.Button | discord.SelectMenu)
    }


def shortened(text: str, length: int) -> str:
    """Return a text in one line of at most ``length`` characters; a dash where it has none."""
    text = " ".join(text.split()) or "–"
    return text if len(text) <= length else f"{text[: length - 1]}…"
