"""JSON of too many values, which would stall the event loop while it is read."""

from palaver.errors import TooLarge

MAX_VALUES = 10_000
"""Values in the JSON of one request or frame. The decoder makes an object of each, in one go."""


class TooManyValues(TooLarge):
    """JSON of more than `MAX_VALUES` values."""

    limit = "json_values"


def check_json_values(data: bytes) -> None:
    """Raise `TooManyValues` when the JSON may have more values than `MAX_VALUES`."""
    if len(data) <= MAX_VALUES or _count(data) <= MAX_VALUES:
        return
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A value has a key and a text at most.
    many_strings = unescaped.count(b'"') > 4 * MAX_VALUES + 4
    if many_strings or _count(b"".join(unescaped.split(b'"')[::2])) > MAX_VALUES:
        raise TooManyValues(f"the JSON has more than {MAX_VALUES} values")


def _count(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
