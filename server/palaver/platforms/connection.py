"""Connection: keeps a channel connected with its platform."""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from palaver.errors import ConfigurationError, contained, describe_error
from palaver.platforms.platform import PostingError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionTimes:
    """Times of a connection, in seconds."""

    pauses: tuple[float, ...] = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
    """Before it is opened again; the last one repeats."""
    stable: float = 10.0
    """After it a connection counts as one that works."""


class Connection:
    """Calls ``connect`` until it is closed, again after a pause whenever it ends or fails.

    It ends for good with `ConfigurationError`. ``problem`` is why there is no connection.
    """

    def __init__(
        self, channel: str, connect: Callable[[], Awaitable[None]], times: ConnectionTimes
    ) -> None:
        self.problem = ""
        self._channel = channel
        self._connect = connect
        self._times = times
        self._failures = 0
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._connect_once()
                self.problem = ""
            except ConfigurationError as error:
                self.problem = str(error)
                log.error("the channel %s does not receive: %s", self._channel, error)
                return
            except Exception as error:  # noqa: BLE001  the barrier of a connection
                reason = str(error) if isinstance(error, PostingError) else describe_error(error)
                self.problem = f"the connection to the platform fails: {reason}"
                log.warning("the channel %s: %s", self._channel, self.problem)
            pauses = self._times.pauses
            await asyncio.sleep(pauses[min(self._failures, len(pauses) - 1)])
            self._failures += 1

    async def _connect_once(self) -> None:
        """Await the end of a connection. One that lasts ends the problem."""
        connecting = asyncio.create_task(self._connect_contained())
        try:
            await asyncio.wait({connecting}, timeout=self._times.stable)
            if not connecting.done():
                self._failures, self.problem = 0, ""
            await connecting
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    async def _connect_contained(self) -> None:
        with contained("the connection"):
            await self._connect()
