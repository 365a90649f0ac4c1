"""Controls: the buttons below a reply, and what pressing them means.

A button's ``data`` is all that a platform has to keep: it works after a restart, on every server.
"""

import dataclasses
from typing import Literal

from palaver.replies import TurnReply

Action = Literal["stop", "option", "up", "down"]
ACTIONS: tuple[Action, ...] = ("stop", "option", "up", "down")


@dataclasses.dataclass(frozen=True, slots=True)
class Button:
    """A button. ``data`` is what `PlatformChannel.press` gets; it has up to 64 characters."""

    label: str
    data: str


def reply_buttons(reply: TurnReply) -> tuple[Button, ...]:
    """Return the buttons of a reply: to stop it while it is written, to answer its question, to
    rate it."""
    turn = reply.turn
    if reply.outcome is None:
        return (Button("Stop", f"stop:{turn}"),)
    if reply.question is not None:
        options = reply.question.options
        return tuple(Button(text, f"option:{turn}:{index}") for index, text in enumerate(options))
    if reply.outcome == "done":
        return Button("👍", f"up:{turn}"), Button("👎", f"down:{turn}")
    return ()


def parse_button(data: str) -> tuple[Action, str, int] | None:
    """Return action, turn and number of a button's data; None: it is none of ours."""
    name, _, rest = data.partition(":")
    turn, _, number = rest.partition(":")
    action = next((each for each in ACTIONS if each == name), None)
    is_number = number.isascii() and number.isdigit() and len(number) <= 3
    if action is None or not turn or (action == "option") != is_number:
        return None
    return action, turn, int(number or 0)
