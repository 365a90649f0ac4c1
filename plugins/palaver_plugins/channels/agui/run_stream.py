"""RunStream: the response to one run, as server-sent events."""

import contextlib
from collections.abc import Iterable

from aiohttp import web

from palaver import PalaverError
from palaver_plugins.channels.agui.reply import AguiReply, Json
from palaver_plugins.channels.agui.run_events import RunEvents
from palaver_plugins.channels.event_stream import EventStream


class RunStream(EventStream):
    """The stream of one run."""

    def __init__(self, request: web.Request, events: RunEvents, comment_interval: float) -> None:
        super().__init__(request, comment_interval)
        self.events = events

    async def follow(self, reply: AguiReply) -> None:
        """Send the reply as it comes, and the end of the run. Raises what `PendingReply.wait`
        raises, and `ConnectionError`."""
        reply.was_reset |= reply.receipt.duplicate
        await self.send([self.events.started()])
        while True:
            reply.changed.clear()
            is_finished = reply.is_finished  # before the text is read: then it is complete
            await self.send(self.events.changes(reply))
            if is_finished:
                break
            await self.wait(reply.changed)
        await self.send_all(self.events.finished(await reply.wait()))

    async def fail(self, error: PalaverError) -> None:
        """End the run with an error."""
        with contextlib.suppress(ConnectionError):  # the client has disconnected
            await self.send_all(self.events.failed(error))

    async def send_all(self, events: Iterable[Json]) -> None:
        """Send the last events of the stream. Raises `ConnectionError`."""
        await self.send(events)
        await self.end()
