"""A module with a hook that chooses which of its tools are registered."""

from palaver import Tool, hookimpl, tool


@tool
def roll() -> int:
    """Roll a die."""
    return 6


@tool
def flip() -> str:
    """Flip a coin."""
    return "heads"


@hookimpl
def palaver_register_tools() -> list[Tool]:
    return [flip]
