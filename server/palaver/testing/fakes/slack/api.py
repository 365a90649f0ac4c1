"""The Web API of the fake Slack: it records calls, checks and limits them, and injects faults."""

import asyncio
import base64
import dataclasses
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from aiohttp import web

from palaver.testing.fakes.slack.errors import RateLimitExceeded, SlackError
from palaver.testing.fakes.slack.faults import Fault, Faults
from palaver.testing.fakes.slack.methods import Call, Method, Services
from palaver.testing.fakes.slack.objects import Json, Token


@dataclasses.dataclass(slots=True, kw_only=True)
class ApiRequest:
    """A call of the Web API. ``answer`` is None while it has none, and when nothing was
    committed; ``is_lost``: the app did not get the answer."""

    method: str
    arguments: Json
    token: str
    at: float
    status: int = 0
    answer: Json | None = None
    is_lost: bool = False

    @property
    def is_ok(self) -> bool:
        return self.answer is not None and bool(self.answer.get("ok"))


_LOSSES = ("disconnect", "hang", "status")
Hook = Callable[[ApiRequest], Awaitable[None]]


class WebApi:
    """Answers ``/api/{method}``.

    ``before_call`` is awaited before a call takes effect, ``after_call`` between its effect and
    its answer.
    """

    def __init__(self, services: Services, methods: Iterable[Method], faults: Faults) -> None:
        self._services = services
        self._methods = {method.name: method for method in methods}
        self._faults = faults
        self._changes = services.world.changes
        self.requests: list[ApiRequest] = []
        self.finished: dict[str, list[ApiRequest]] = defaultdict(list)
        """By method: those that have an answer, or get none."""
        self.before_call: Hook | None = None
        self.after_call: Hook | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = await self._record(request)
        if self.before_call is not None:
            await self.before_call(call)
        fault = self._faults.next_for(call.method)
        if fault is None or fault.is_committed:
            self._commit(call)
        elif fault.action in ("rate_limit", "refuse"):
            self._refuse(call, fault)
        if self.after_call is not None:
            await self.after_call(call)
        call.is_lost = fault is not None and fault.action in _LOSSES
        self.finished[call.method].append(call)
        self._changes.notify()
        if fault is not None and call.is_lost:
            return await self._lose(fault, request)
        return self._response(call)

    async def _record(self, request: web.Request) -> ApiRequest:
        try:
            arguments = await _read_arguments(request)
        except ValueError as error:  # of JSON and base64
            self._services.world.violate(f"a body or a header cannot be read: {error}")
            arguments = {}
        token = _read_token(request) or str(arguments.pop("token", ""))
        call = ApiRequest(
            method=request.match_info["method"],
            arguments=arguments,
            token=token,
            at=self._services.world.clock.now(),
        )
        self.requests.append(call)
        return call

    async def _lose(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        if fault.action == "status":
            return web.Response(status=fault.status, text="The service is not available")
        if fault.action == "hang":
            await asyncio.Event().wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _refuse(self, call: ApiRequest, fault: Fault) -> None:
        if fault.action == "rate_limit":
            self._limit(call, fault.retry_after)
        else:
            call.status, call.answer = 200, {"ok": False, "error": fault.error}

    def _limit(self, call: ApiRequest, retry_after: int) -> None:
        call.status = 429
        call.answer = {"ok": False, "error": "ratelimited", "retry_after": retry_after}

    def _commit(self, call: ApiRequest) -> None:
        """Let a call take effect."""
        try:
            call.status, call.answer = 200, {"ok": True} | self._run(call)
        except SlackError as error:
            call.status, call.answer = 200, error.answer
        except RateLimitExceeded as error:
            self._limit(call, error.retry_after)

    def _run(self, call: ApiRequest) -> Json:
        method = self._methods.get(call.method)
        if method is None:
            self._services.world.violate(f"unknown method {call.method!r}")
            raise SlackError("unknown_method", req_method=call.method)
        token = self._authorize(method, call)
        context = Call(self._services, token, call.method)
        try:
            arguments = method.parse(call.arguments)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise context.violate(str(error)) from error
        self._services.limits.take(method.limit(token))
        return method.handler(context, arguments)

    def _authorize(self, method: Method, call: ApiRequest) -> Token:
        """Return the token of a call, whose scopes must be those that the method needs."""
        if method.token == "none":
            return Token(value="", kind="app", app="")
        if not call.token:
            raise SlackError("not_authed")
        token = self._services.world.tokens.get(call.token)
        if token is None:
            raise SlackError("invalid_auth")
        if token.error:
            raise SlackError(token.error)
        if token.expires_at is not None and token.expires_at <= self._services.world.clock.now():
            raise SlackError("token_expired")
        if (token.kind == "app") != (method.token == "app"):
            raise SlackError("not_allowed_token_type")
        missing = [scope for scope in method.scopes if scope not in token.scopes]
        if missing:
            provided = ",".join(sorted(token.scopes))
            raise SlackError("missing_scope", needed=",".join(missing), provided=provided)
        return token

    def _response(self, call: ApiRequest) -> web.Response:
        answer = dict(call.answer or {})
        headers = {"x-slack-req-id": f"req{len(self.requests)}"}
        if (token := self._services.world.tokens.get(call.token)) is not None:
            headers["x-oauth-scopes"] = ",".join(sorted(token.scopes))
        if call.status == 429:
            headers["Retry-After"] = str(answer.pop("retry_after"))
        return web.json_response(answer, status=call.status, headers=headers)


async def _read_arguments(request: web.Request) -> Json:
    arguments: Json = dict(request.query) | _read_client(request)
    if request.content_type == "application/json":
        return arguments | msgspec.json.decode(await request.read() or b"{}", type=Json)
    return arguments | dict(await request.post())


def _read_client(request: web.Request) -> Json:
    """Return client id and secret of HTTP Basic authentication, as `oauth.v2.access` takes them."""
    value = request.headers.get("Authorization", "")
    if not value.startswith("Basic "):
        return {}
    name, _, secret = base64.b64decode(value.removeprefix("Basic ")).decode().partition(":")
    return {"client_id": name, "client_secret": secret}


def _read_token(request: web.Request) -> str:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value if kind.lower() == "bearer" else ""
