"""A module that just defines a tool; the one that it imports is not its own."""

from palaver import tool
from palaver_plugins.tools.arithmetic import calculate

IMPORTED = calculate


@tool
def roll(sides: int = 6) -> int:
    """Roll a die."""
    return sides
