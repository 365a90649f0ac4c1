"""Departure: how a server leaves without anybody noticing, where others go on. All in order here.

1.  It says that it is not ready, and claims no turn. It still listens: what arrives is accepted
    into the ledger, for other replicas to answer, or for this one when it is back.
2.  Its turns get `server.drain` seconds to end; the others stop and are released.
3.  It stops listening. Whoever watches a turn goes on watching, now that of another replica, from
    the ledger; whoever watches none, or none any more, is dismissed, to come back elsewhere.
4.  When nobody watches any more and every request is answered, or no replica is there to go on,
    or `server.grace` is nearly over, all are dismissed.
"""

import asyncio
from collections.abc import Awaitable, Callable

from palaver.config.settings import ServerSettings
from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger
from palaver.streams.subscriptions import BATCH, BETWEEN_BATCHES, Subscriptions
from palaver.turns.dispatcher import Dispatcher

CLOSE_SECONDS = 3.0
"""Seconds of `server.grace` that are kept for closing connections, engine and ledger."""
NO_REPLICA_SECONDS = 2.0
"""Seconds without a running turn in the whole ledger after which no replica is believed to be
there: another one that has room claims a released turn within a second."""


class GracefulShutdown:
    def __init__(
        self,
        dispatcher: Dispatcher,
        streams: Subscriptions,
        ledger: Ledger,
        settings: ServerSettings,
    ) -> None:
        self._dispatcher = dispatcher
        self._streams = streams
        self._ledger = ledger
        self._settings = settings

    async def run(
        self, stop_listening: Callable[[], Awaitable[None]], requests: Callable[[], int]
    ) -> None:
        """Steps 1 to 4. Readiness and the closing of the parts are the caller's. ``requests``: how
        many are being answered, some of which may not watch a turn yet."""
        end = asyncio.get_running_loop().time() + max(0.0, self._settings.grace - CLOSE_SECONDS)
        await asyncio.gather(
            self._dispatcher.drain(self._at_most(self._settings.drain, end)),
            asyncio.sleep(self._at_most(self._settings.linger, end)),
        )
        await stop_listening()
        self._streams.close_when_idle()
        await self._follow(end, requests)
        await self._streams.close_all()

    def _at_most(self, seconds: float, end: float) -> float:
        return max(0.0, min(seconds, end - asyncio.get_running_loop().time()))

    async def _follow(self, end: float, requests: Callable[[], int]) -> None:
        """Let viewers watch their turns to the end, as long as somebody continues them."""
        loop = asyncio.get_running_loop()
        alone_since = None
        looked_at = -NO_REPLICA_SECONDS
        while loop.time() < end and (self._dismiss_idle() or requests()):
            if loop.time() - looked_at > NO_REPLICA_SECONDS / 4:
                looked_at = loop.time()
                alone = await self._nothing_runs()
                alone_since = (alone_since or looked_at) if alone else None
            if alone_since is not None and loop.time() - alone_since > NO_REPLICA_SECONDS:
                return
            await asyncio.sleep(BETWEEN_BATCHES)

    def _dismiss_idle(self) -> bool:
        """Dismiss some of those who watch no turn; whether anybody is left."""
        waiting = self._streams.open_subscriptions()
        for subscription in [each for each in waiting if not each.has_open_turn][:BATCH]:
            subscription.shutdown()
        return bool(waiting)

    async def _nothing_runs(self) -> bool:
        try:
            return not (await self._ledger.queue_depth()).running
        except LedgerUnavailable:
            return False  # it may be back in time
