"""The HTTP API of the model's setup: the page connects another model with it."""

import asyncio
import ipaddress
from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver.authentication import principal_of, requires
from palaver.errors import Forbidden, NotFound
from palaver.models.choices import SetupChoice
from palaver.models.registry import ModelRegistry
from palaver.models.servers import USUAL_PORTS, find_model_servers, list_models
from palaver.models.setup_job import ModelSetup
from palaver.openapi import described
from palaver.origins import find_origin_of_page, is_origin_of_host
from palaver.server import Server
from palaver.web import setup_operations as operations
from palaver.web.bodies import (
    ModelListRequest,
    ModelListResponse,
    ModelServersResponse,
    ModelSetupState,
)
from palaver.web.requests import decode_body
from palaver.web.responses import json_response

FORWARDING_HEADERS = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
)  # fmt: skip
"""Headers that a reverse proxy adds."""

_decode_choice = msgspec.json.Decoder(SetupChoice).decode
_decode_list = msgspec.json.Decoder(ModelListRequest).decode


class SetupHandler:
    """The routes of the model's setup, for those who may administer the server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/v1/setup", self._state, allow_head=False),
            web.post("/v1/setup", self._start),
            web.delete("/v1/setup", self._cancel),
            web.get("/v1/setup/servers", self._servers, allow_head=False),
            web.post("/v1/setup/models", self._list_models),
        )

    @requires("operate")
    @described(operations.STATE)
    async def _state(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(self._setup(request))

    @requires("operate")
    @described(operations.START)
    async def _start(self, request: web.Request) -> web.StreamResponse:
        setup = self._setup(request)
        setup.start(decode_body(_decode_choice, await request.read()))
        return await self._respond(setup, 202)

    @requires("operate")
    @described(operations.CANCEL)
    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        setup = self._setup(request)
        await setup.cancel()
        return await self._respond(setup)

    @requires("operate")
    @described(operations.SERVERS)
    async def _servers(self, request: web.Request) -> web.StreamResponse:
        self._setup(request)
        ports = self._server.settings.models.server_ports or tuple(USUAL_PORTS)
        servers = await find_model_servers(ports, own_port=_own_port(request))
        return json_response(ModelServersResponse(servers=tuple(servers)))

    @requires("operate")
    @described(operations.MODELS)
    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        self._setup(request)
        body = decode_body(_decode_list, await request.read())
        url, models = await list_models(body.url, body.key)
        return json_response(ModelListResponse(url=url, models=models))

    def _setup(self, request: web.Request) -> ModelSetup:
        """Return the setup of this server. Raises `NotFound` and `Forbidden`."""
        if not self._server.authenticator.has_keys:
            _check_is_local(request)
        if self._server.model_setup is None:
            raise NotFound("this server cannot restart itself: it was not started by palaver serve")
        return self._server.model_setup

    def _added(self) -> tuple[str, ...]:
        return tuple(ModelRegistry(self._server.settings.server.data).models())

    async def _respond(self, setup: ModelSetup, status: int = 200) -> web.Response:
        info = self._server.engine_info
        state = ModelSetupState(
            instance=setup.instance,
            model=info.model,
            demonstration=info.demonstration,
            settings_file=str(setup.settings_file),
            added=await asyncio.to_thread(self._added),
            progress=setup.progress,
        )
        return json_response(state, status)


def may_set_up(server: Server, request: web.Request) -> bool:
    """Return whether the caller may connect another model to this server."""
    if server.model_setup is None or "operate" not in principal_of(request).rights:
        return False
    try:
        if not server.authenticator.has_keys:
            _check_is_local(request)
    except Forbidden:
        return False
    return True


def _check_is_local(request: web.Request) -> None:
    """Refuse what may come from elsewhere, where no key proves who calls. Raises `Forbidden`.

    A reverse proxy that names the server `localhost` would let everybody in.
    """
    peer = request.transport.get_extra_info("peername") if request.transport else None
    address = str(peer[0]).partition("%")[0] if peer else "0.0.0.0"
    is_forwarded = any(name in request.headers for name in FORWARDING_HEADERS)
    if is_forwarded or not ipaddress.ip_address(address).is_loopback:
        raise Forbidden(
            "without auth.keys, only this machine may change the model, and not through a proxy"
        )
    origin = request.headers.get("Origin", "")
    if origin and not is_origin_of_host(find_origin_of_page(origin), request.headers["Host"]):
        raise Forbidden("without auth.keys, only the server's own page may change the model")


def _own_port(request: web.Request) -> int:
    """Return the port at which this server listens."""
    assert request.transport is not None
    return int(request.transport.get_extra_info("sockname")[1])
