"""What ends the flow of events: too many of them, or too few that the app acknowledges."""

from collections import defaultdict, deque

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack.limits import SlackRules

HOUR, MINUTE = 3600.0, 60.0
LEAST_DELIVERIES, LEAST_SUCCESS = 1_000, 0.05
"""With more deliveries in an hour, and a smaller part of them acknowledged, Slack disables the
subscriptions."""


class EventThrottle:
    """Counts a workspace's events, and the app's acknowledgements, in the last hour."""

    def __init__(self, clock: FakeClock, rules: SlackRules) -> None:
        self._clock = clock
        self._rules = rules
        self._events: dict[str, deque[float]] = defaultdict(deque)
        self._missed: dict[str, int] = {}
        self._warned: dict[str, int] = {}
        self._attempts: deque[tuple[float, bool]] = deque()
        self._successes = 0
        self.is_disabled = False
        """The subscriptions are disabled until a test sets this to False."""

    def admits(self, team: str) -> bool:
        """Count an event; return False when it is dropped."""
        if self.is_disabled:
            return False
        now, events = self._clock.now(), self._events[team]
        while events and events[0] <= now - HOUR:
            events.popleft()
        if len(events) >= self._rules.events_per_hour:
            self._missed[team] = int(now // MINUTE * MINUTE)
            return False
        events.append(now)
        return True

    def take_warning(self, team: str) -> int | None:
        """Return the minute in which events were dropped, once for each minute."""
        minute = self._missed.pop(team, None)
        if minute is None or self._warned.get(team) == minute:
            return None
        self._warned[team] = minute
        return minute

    def record_attempt(self, is_acknowledged: bool) -> None:
        """Count an attempt to deliver, and disable the subscriptions when too few succeed."""
        now = self._clock.now()
        self._attempts.append((now, is_acknowledged))
        self._successes += is_acknowledged
        while self._attempts[0][0] <= now - HOUR:
            self._successes -= self._attempts.popleft()[1]
        count = len(self._attempts)
        if count > LEAST_DELIVERIES and self._successes < count * LEAST_SUCCESS:
            self.is_disabled = True
