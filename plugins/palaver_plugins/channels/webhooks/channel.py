"""WebhookChannel: takes messages of endpoints over HTTP, and answers what they ask."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from palaver import (
    ConfigurationError,
    ConversationService,
    Message,
    NotFound,
    TooLarge,
    described,
    encode,
    public,
)
from palaver.platforms import Times
from palaver_plugins.channels.questions import answer_to
from palaver_plugins.channels.webhooks.bodies import (
    MAX_BODY_BYTES,
    Accepted,
    MessageData,
    PostedMessage,
    ReadData,
    Unfinished,
    decode_posted,
)
from palaver_plugins.channels.webhooks.callbacks import Callbacks
from palaver_plugins.channels.webhooks.deliveries import RETRY_SECONDS
from palaver_plugins.channels.webhooks.endpoint import (
    CHANNEL,
    Endpoint,
    MakeClient,
    check_callback,
    load_endpoints,
    make_client,
)
from palaver_plugins.channels.webhooks.events import find_reply, make_event
from palaver_plugins.channels.webhooks.operations import POST
from palaver_plugins.channels.webhooks.settings import Settings

TIMES = Times(retries=RETRY_SECONDS)


class WebhookChannel:
    """The channel, see `palaver.Channel`."""

    def __init__(
        self,
        settings: Settings,
        *,
        times: Times = TIMES,
        make_client: MakeClient = make_client,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._times = times
        self._make_client = make_client
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._service: ConversationService
        self._callbacks: Callbacks
        self._stack = contextlib.AsyncExitStack()

    async def start(self, service: ConversationService) -> None:
        endpoints = await asyncio.to_thread(
            load_endpoints, self._settings.endpoints, self._make_client, self._clock
        )
        async with contextlib.AsyncExitStack() as stack:
            for endpoint in endpoints.values():
                await stack.enter_async_context(endpoint.client)
            self._callbacks = Callbacks(service, endpoints, self._times)
            self._callbacks.start()
            stack.push_async_callback(self._callbacks.close)
            self._stack = stack.pop_all()
        self._endpoints, self._service = endpoints, service

    async def close(self) -> None:
        await self._stack.aclose()

    async def check(self) -> Sequence[str]:
        """See `palaver.CheckableChannel.check`."""
        settings = self._settings.endpoints
        if not settings:
            return [f"channels.{CHANNEL}.endpoints is empty: nobody can send messages"]
        try:
            await asyncio.to_thread(load_endpoints, settings, self._make_client, self._clock)
        except ConfigurationError as error:
            return str(error).splitlines()
        checks = [
            check_callback(name, each, self._make_client(each)) for name, each in settings.items()
        ]
        return [problem for problem in await asyncio.gather(*checks) if problem]

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.post("/webhooks/{name}", self._receive)]

    @public
    @described(POST)
    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """Take a message of an endpoint, or answer what it asks; its signature proves who calls."""
        endpoint = self._endpoints.get(request.match_info["name"])
        if endpoint is None:
            raise NotFound(f"there is no endpoint {request.match_info['name'][:60]!r}")
        body = await _read_body(request)
        id = endpoint.verify(request.headers, body)
        posted = decode_posted(body)
        if isinstance(posted, PostedMessage):
            return await self._accept(endpoint, id, posted.data)
        return await _read_reply(self._service, endpoint, posted.data)

    async def _accept(self, endpoint: Endpoint, id: str, data: MessageData) -> web.Response:
        """Store a message, and answer 202 when it is stored."""
        message = Message(
            conversation=endpoint.conversation(data.thread),
            id=id,
            person=endpoint.person(data.person),
            text=data.text,
            skill=data.skill,
            arguments=data.arguments,
        )
        if data.answer_to is not None:
            message = await answer_to(self._service, message, data.answer_to)
        receipt = await self._service.accept(
            message,
            members_only=False,  # the endpoint decides who writes to its conversations
            outbox=True,
        )
        self._callbacks.wake()
        return _json(Accepted(turn=receipt.turn, duplicate=receipt.duplicate), status=202)


async def _read_body(request: web.Request) -> bytes:
    """Return a body as it was sent. Raises `TooLarge`."""
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"a webhook may have {MAX_BODY_BYTES} bytes")
    return bytes(body)


async def _read_reply(
    service: ConversationService, endpoint: Endpoint, data: ReadData
) -> web.Response:
    """Return the whole reply of a turn, or that it has not ended. Raises `NotFound`."""
    conversation = endpoint.conversation(data.thread)
    if reply := await find_reply(service, conversation, data.turn):
        return _json(make_event(endpoint.name, conversation, reply))
    snapshot = await service.snapshot(conversation)
    if any(pending.turn == data.turn for pending in snapshot.pending):
        return _json(Unfinished(turn=data.turn), status=202)
    raise NotFound(f"the thread has no turn {data.turn[:60]!r}")


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
