"""Actions: ids of the buttons below replies. What a button means is in its value, which
`PlatformChannel.press` reads."""

STOP = "palaver.stop"
RATE = "palaver.rate"
"""Of the feedback buttons."""
OPTION = "palaver.option."
"""Before the number of an option of a question."""
OPTIONS = "palaver.options"
"""Of the menu of a question that has more options than fit as buttons."""


def is_ours(action_id: str) -> bool:
    """Return whether an action comes from below a reply."""
    return action_id in (STOP, RATE, OPTIONS) or action_id.startswith(OPTION)
