"""JSON of too many values, which would stall the event loop while it is read."""

import re

from palaver.errors import TooLarge
from palaver.metrics import Metrics

MAX_VALUES = 10_000
"""Values in the JSON of one request or frame. The decoder makes an object of each, in one go."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def check_json_values(data: bytes, metrics: Metrics) -> None:
    """Raise `TooLarge` when the JSON may have more values than `MAX_VALUES`."""
    if _count(data) > MAX_VALUES and _count(_STRING.sub(b"", data)) > MAX_VALUES:
        metrics.limit_reached("json_values")
        raise TooLarge(f"the JSON has more than {MAX_VALUES} values")


def _count(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
