"""Graceful shutdown: a server ends without losing work, and other replicas continue it. In order:

1.  `drain`: it reports that it is not ready, and claims no turn. It still listens: messages are
    accepted into the ledger, for other replicas to answer, or for this one after its restart.
    Running turns get `server.drain` seconds to end; the others are stopped and released. It listens
    for at least `server.linger` seconds.
2.  It stops listening. Subscriptions with an open turn stay, and deliver the events that the next
    owner of the turn writes to the ledger; subscriptions without one are closed, and their clients
    reconnect elsewhere.
3.  When no subscription and no request is left, or no replica continues the turns, or
    `server.grace` is nearly over, all subscriptions are closed.
"""

import asyncio
from typing import Protocol

from palaver.config.settings import ServerSettings
from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger
from palaver.streams.subscriptions import CLOSE_BATCH, CLOSE_BATCH_INTERVAL, Subscriptions
from palaver.turns.dispatcher import Dispatcher

CLOSE_SECONDS = 3.0
"""Seconds of `server.grace` that are kept for closing connections, engine and ledger."""
NO_REPLICA_SECONDS = 2.0
"""Seconds without a running turn in the whole ledger after which no other replica is assumed:
one with free capacity claims a released turn within a second."""


class Listener(Protocol):
    """The network side of a server."""

    async def stop_listening(self) -> None:
        """Accept no further request."""

    def open_requests(self) -> int:
        """Return the number of requests that are not answered; some may not have subscribed yet."""


class GracefulShutdown:
    """The shutdown of one server. The caller reports unreadiness before and closes the parts
    after."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        subscriptions: Subscriptions,
        ledger: Ledger,
        settings: ServerSettings,
    ) -> None:
        self._dispatcher = dispatcher
        self._subscriptions = subscriptions
        self._ledger = ledger
        self._settings = settings

    async def run(self, listener: Listener) -> None:
        """Take all steps."""
        deadline = asyncio.get_running_loop().time() + max(
            0.0, self._settings.grace - CLOSE_SECONDS
        )
        await asyncio.gather(
            self._dispatcher.drain(_until(deadline, self._settings.drain)),
            asyncio.sleep(_until(deadline, self._settings.linger)),
        )
        await listener.stop_listening()
        self._subscriptions.close_when_idle()
        await self._wait_for_open_turns(deadline, listener)
        await self._subscriptions.close_all()

    async def _wait_for_open_turns(self, deadline: float, listener: Listener) -> None:
        """Wait while other replicas continue the turns that clients here are subscribed to."""
        loop = asyncio.get_running_loop()
        idle_since = None
        checked_at = -NO_REPLICA_SECONDS
        while loop.time() < deadline and (self._close_idle() or listener.open_requests()):
            if loop.time() - checked_at > NO_REPLICA_SECONDS / 4:
                checked_at = loop.time()
                idle_since = (idle_since or checked_at) if await self._nothing_runs() else None
            if idle_since is not None and loop.time() - idle_since > NO_REPLICA_SECONDS:
                return
            await asyncio.sleep(CLOSE_BATCH_INTERVAL)

    def _close_idle(self) -> bool:
        """Close a batch of the subscriptions without an open turn. Return whether any was left."""
        subscriptions = self._subscriptions.open_subscriptions()
        for subscription in [it for it in subscriptions if not it.has_open_turn][:CLOSE_BATCH]:
            subscription.shutdown()
        return bool(subscriptions)

    async def _nothing_runs(self) -> bool:
        try:
            return not (await self._ledger.queue_depth()).running
        except LedgerUnavailable:
            return False  # it may be available again in time


def _until(deadline: float, seconds: float) -> float:
    """Return ``seconds``, but no more than are left until ``deadline``."""
    return max(0.0, min(seconds, deadline - asyncio.get_running_loop().time()))
