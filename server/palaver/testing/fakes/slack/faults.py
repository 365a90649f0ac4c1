"""Faults that a test orders: lost requests and responses, silence, errors."""

import dataclasses
import random
from typing import Literal


@dataclasses.dataclass(slots=True, kw_only=True)
class Fault:
    """What happens instead of an answer. ``is_committed``: the call takes effect all the same."""

    action: Literal["disconnect", "hang", "status", "rate_limit", "refuse"]
    is_committed: bool = False
    status: int = 500
    retry_after: int = 30
    error: str = ""


@dataclasses.dataclass(slots=True)
class _Order:
    """A fault for the nth call of a method from now on."""

    method: str
    calls_left: int
    fault: Fault


class Faults:
    """Faults to come. ``nth`` counts the calls of the method from now on, beginning with 1."""

    def __init__(self, choices: random.Random) -> None:
        self._random = choices
        self._orders: list[_Order] = []
        self._probability = 0.0
        self._methods: frozenset[str] = frozenset()

    def lose_response(self, method: str, *, nth: int = 1) -> None:
        """Commit the call, and close the connection without an answer."""
        self._order(method, nth, Fault(action="disconnect", is_committed=True))

    def lose_request(self, method: str, *, nth: int = 1) -> None:
        """Close the connection; the call has no effect."""
        self._order(method, nth, Fault(action="disconnect"))

    def lose_responses(self, probability: float, *methods: str) -> None:
        """From now on, lose the response to a part of the calls, chosen at random; without
        ``methods``, of all calls."""
        self._probability, self._methods = probability, frozenset(methods)

    def hang(self, method: str, *, nth: int = 1, is_committed: bool = False) -> None:
        """Keep the connection open and never answer."""
        self._order(method, nth, Fault(action="hang", is_committed=is_committed))

    def server_error(
        self, method: str, *, nth: int = 1, status: int = 500, is_committed: bool = False
    ) -> None:
        fault = Fault(action="status", status=status, is_committed=is_committed)
        self._order(method, nth, fault)

    def rate_limit(self, method: str, *, nth: int = 1, retry_after: int = 30) -> None:
        self._order(method, nth, Fault(action="rate_limit", retry_after=retry_after))

    def refuse(self, method: str, error: str, *, nth: int = 1) -> None:
        """Answer with an error of Slack, such as ``is_archived``."""
        self._order(method, nth, Fault(action="refuse", error=error))

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._orders.clear()
        self._probability = 0.0

    def _order(self, method: str, nth: int, fault: Fault) -> None:
        self._orders.append(_Order(method, nth, fault))

    def next_for(self, method: str) -> Fault | None:
        """Count a call, and return what happens to it."""
        due = None
        for order in [each for each in self._orders if each.method == method]:
            order.calls_left -= 1
            if order.calls_left <= 0:
                self._orders.remove(order)
                due = due or order.fault
        return due or self._random_fault(method)

    def _random_fault(self, method: str) -> Fault | None:
        if self._probability <= 0 or (self._methods and method not in self._methods):
            return None
        if self._random.random() >= self._probability:
            return None
        return Fault(action="disconnect", is_committed=True)
