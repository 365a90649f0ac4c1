"""A tool with a parameter of no type."""

from palaver import tool


@tool
def roll(sides) -> int:  # type: ignore[no-untyped-def]
    """Roll a die."""
    return 6
