"""What goes wrong while a proof talks to the fake Slack."""

import random
from collections.abc import Callable

from palaver.testing.fakes.slack import ApiRequest, FakeSlack

LOST_SHARE = 0.05
"""Of the calls, whose effect stays and whose answer is lost."""
FAILED_SHARE = 0.08
"""Of the calls, with another fault."""
KILL_SHARE = 0.03
"""Of the calls, after which a server dies soon."""
MINUTES_SHARE = 0.002
"""Of the calls, before which minutes pass: a stream ends five minutes after its start."""


class SlackFaults:
    """Lets calls of the fake Slack fail, and servers die by ``kill_soon``."""

    def __init__(
        self, slack: FakeSlack, rng: random.Random, kill_soon: Callable[[], object]
    ) -> None:
        self._slack = slack
        self._rng = rng
        self._kill_soon = kill_soon

    def begin(self, *, with_failures: bool) -> None:
        """Let answers be lost and servers die; ``with_failures``, let other calls fail, too."""
        self._slack.faults.lose_responses(LOST_SHARE)
        self._slack.before_call(self._disturb if with_failures else self._kill)

    def end(self) -> None:
        """Let nothing more go wrong, apart from answers that are lost."""
        self._slack.before_call(None)

    async def _kill(self, call: ApiRequest) -> None:
        if self._rng.random() < KILL_SHARE:
            self._kill_soon()

    async def _disturb(self, call: ApiRequest) -> None:
        await self._kill(call)
        if self._rng.random() < FAILED_SHARE:
            self._fail(call.method)
        if self._rng.random() < MINUTES_SHARE:
            self._slack.clock.advance(self._rng.choice((100, 310)))

    def _fail(self, method: str) -> None:
        faults, rng = self._slack.faults, self._rng
        match rng.randrange(4):
            case 0:
                faults.rate_limit(method, retry_after=rng.choice((0, 0, 0, 1)))
            case 1:
                faults.server_error(method, status=500, is_committed=True)
            case 2:
                faults.server_error(method, status=503)
            case _:
                faults.lose_request(method)
