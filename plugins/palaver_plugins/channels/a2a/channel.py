"""A2AChannel: the routes of both bindings, and what they share."""

import contextlib
from collections.abc import Iterable, Sequence

from aiohttp import web

from palaver import ConversationService, OutboundClient, described, public, requires
from palaver_plugins.channels.a2a import operations
from palaver_plugins.channels.a2a.agent import Agent
from palaver_plugins.channels.a2a.card import (
    REST_PATH,
    RPC_PATH,
    all_skills,
    card_response,
    make_card,
    public_skills,
)
from palaver_plugins.channels.a2a.json_rpc import JsonRpcBinding, rpc_error_response
from palaver_plugins.channels.a2a.push import POLL_SECONDS, RETRY_SECONDS, PushNotifications
from palaver_plugins.channels.a2a.rest import RestBinding
from palaver_plugins.channels.a2a.settings import Settings
from palaver_plugins.channels.a2a.shapes import Json
from palaver_plugins.channels.event_stream import COMMENT_INTERVAL


class A2AChannel:
    """The channel, see `palaver.Channel`."""

    def __init__(
        self,
        settings: Settings,
        *,
        comment_interval: float = COMMENT_INTERVAL,
        pauses: Sequence[float] = RETRY_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._settings = settings
        self._pauses = pauses
        self._poll_seconds = poll_seconds
        self._service: ConversationService
        self._stack = contextlib.AsyncExitStack()
        self._json_rpc = JsonRpcBinding(self.extended_card, comment_interval)
        self._rest = RestBinding(self.extended_card, comment_interval)

    async def start(self, service: ConversationService) -> None:
        self._service = service
        async with contextlib.AsyncExitStack() as stack:
            client = OutboundClient(allowed_networks=self._settings.allowed_networks)
            await stack.enter_async_context(client)
            push = PushNotifications(
                service, client, pauses=self._pauses, poll_seconds=self._poll_seconds
            )
            push.start()
            stack.push_async_callback(push.close)
            agent = Agent(service, push)
            self._json_rpc.start(service, agent)
            self._rest.start(service, agent)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    def routes(self) -> Iterable[web.RouteDef]:
        card = web.get("/.well-known/agent-card.json", self._card, allow_head=False)
        return (card, web.post(RPC_PATH, self._call), *self._rest.routes(REST_PATH))

    def extended_card(self, request: web.Request) -> Json:
        """Return the card with all skills."""
        return make_card(self._settings, request, all_skills(self._service))

    @public
    @described(operations.CARD)
    async def _card(self, request: web.Request) -> web.StreamResponse:
        card = make_card(self._settings, request, public_skills(self._settings))
        return card_response(request, card)

    @requires("talk", error_response=rpc_error_response)
    @described(operations.CALL)
    async def _call(self, request: web.Request) -> web.StreamResponse:
        return await self._json_rpc.call(request)
