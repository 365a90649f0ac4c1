"""A receiver of requests on loopback, and a name service whose answers a test gives."""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiohttp import web


class CountingServer(web.Server):
    """A server that counts its connections."""

    opened = 0

    def __call__(self) -> web.RequestHandler:
        self.opened += 1
        return super().__call__()


class Receiver:
    """A receiver of requests on loopback."""

    def __init__(self) -> None:
        self.server = CountingServer(self._handle)
        self.requests: list[web.BaseRequest] = []
        self.respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = accept
        self.port = 0

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/secret-path"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        self.requests.append(request)
        return await self.respond(request)


async def accept(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=202, headers={"Retry-After": "7"})


@contextlib.asynccontextmanager
async def receiving(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(receiver.server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        receiver.port = runner.addresses[0][1]
        yield receiver
    finally:
        await runner.cleanup()


class Names:
    """A name service whose answers a test gives, one after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if not self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.answers.pop(0)
