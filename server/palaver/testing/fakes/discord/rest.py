"""The HTTP API of a fake Discord (version 10): what happens to every request."""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.faults import Faults
from palaver.testing.fakes.discord.forms import UnknownFields
from palaver.testing.fakes.discord.limits import RateLimited, RateLimits
from palaver.testing.fakes.discord.requests import Call, DiscordRequest, read_body
from palaver.testing.fakes.discord.state import DiscordState

PREFIX = "/api/v10"
VIA = {"Via": "1.1 google"}
SCOPE = "X-RateLimit-Scope"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None


DiscordError = Refusal | UnknownFields | RateLimited
Hook = Callable[[DiscordRequest], Awaitable[None]]

Handler = Callable[[Call], Any]
"""Answers a request: with JSON (status 200), with None (204) or with an `Answer`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path of the API. ``bucket`` names the routes that share a rate limit; routes of an
    interaction's token need no token of the bot."""

    method: str
    path: str
    handler: Handler
    query: frozenset[str] = frozenset()
    bucket: str = ""
    needs_token: bool = True

    def match(self, request: DiscordRequest) -> dict[str, str] | None:
        if request.method != self.method:
            return None
        found = compile_path(self.path).fullmatch(request.path)
        return found.groupdict() if found else None


@functools.cache
def compile_path(path: str) -> re.Pattern[str]:
    """Return a pattern for a path in which names of ids stand in braces."""
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


class RestApi:
    """Records, checks, limits and answers each request; faults come between."""

    def __init__(
        self, state: DiscordState, faults: Faults, rate_limits: RateLimits, violations: list[str]
    ) -> None:
        self._state = state
        self._faults = faults
        self._rate_limits = rate_limits
        self._violations = violations
        self._routes: list[Route] = []
        self.before_call: Hook = ignore
        self.after_call: Hook = ignore
        self.requests: list[DiscordRequest] = []

    def add_routes(self, routes: Iterable[Route]) -> None:
        self._routes += routes

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request, or cut its connection."""
        record = DiscordRequest(
            method=request.method,
            path=request.rel_url.raw_path.removeprefix(PREFIX),
            query=dict(request.query),
            time=self._state.clock.now(),
            token=request.headers.get("Authorization", "").removeprefix("Bot "),
        )
        self.requests.append(record)
        headers: dict[str, str] = {}
        answer = await self._process(request, record, headers)
        if answer is None:
            return self._cut(request, record)
        record.status = answer.status
        if record.is_committed and self._faults.loses(record):
            return self._cut(request, record)
        return make_response(answer, headers)

    async def _process(
        self, request: web.Request, record: DiscordRequest, headers: dict[str, str]
    ) -> Answer | None:
        """Return the answer to a request; None: there is none."""
        problem = await self._read(request, record)
        if self._faults.take(record, "drop"):
            return None
        await self.before_call(record)
        try:
            self._rate_limits.check_ban()
            await self._take_fault(record)
            if problem:
                raise problem
            answer = self._route(record, headers)
        except (Refusal, UnknownFields, RateLimited) as error:
            answer = self._refuse(record, error, headers)
        self._rate_limits.count_invalid(answer.status, headers.get(SCOPE, ""))
        if record.is_committed:
            await self.after_call(record)
            if fault := self._faults.take(record, "hang after"):
                await fault.hang()
        return answer

    async def _read(self, request: web.Request, record: DiscordRequest) -> DiscordError | None:
        """Read the body into the record; return what is wrong with it."""
        try:
            await read_body(request, record)
        except (Refusal, UnknownFields) as error:
            return error
        return None

    async def _take_fault(self, record: DiscordRequest) -> None:
        if fault := self._faults.take(record, "hang"):
            await fault.hang()
        if (fault := self._faults.take(record, "raise")) and fault.error:
            raise fault.error

    def _route(self, record: DiscordRequest, headers: dict[str, str]) -> Answer:
        route, ids = self._find_route(record)
        if route.needs_token and record.token != self._state.application.token:
            raise Refusal(40001)
        call = Call(record, ids)
        self._count(route, call, headers)
        call.check_query(route.query)
        self._check_size(record)
        result = route.handler(call)
        record.is_committed = True
        if isinstance(result, Answer):
            return result
        return Answer(204) if result is None else Answer(200, result)

    def _refuse(
        self, record: DiscordRequest, error: DiscordError, headers: dict[str, str]
    ) -> Answer:
        """Return the answer to a request that is not granted."""
        if isinstance(error, RateLimited):
            record.code = error.code
            return self._refuse_for_now(error, headers)
        if isinstance(error, UnknownFields):
            self._violations.append(f"{record.name}: unknown fields {error}")
            error = Refusal(50035)
        record.code = error.code
        return Answer(error.status, error.body)

    def _find_route(self, record: DiscordRequest) -> tuple[Route, dict[str, str]]:
        for route in self._routes:
            ids = route.match(record)
            if ids is not None:
                return route, ids
        self._violations.append(f"{record.name}: unknown route")
        raise Refusal(0)

    def _count(self, route: Route, call: Call, headers: dict[str, str]) -> None:
        """Count the request for its bucket, which is one per channel, server or webhook."""
        bucket = route.bucket or f"{route.method} {route.path}"
        majors = ("channel_id", "guild_id", "webhook_id", "token")
        resource = "+".join(call.ids[name] for name in majors if name in call.ids)
        try:
            self._rate_limits.take(bucket, resource, is_global=route.needs_token)
        finally:
            headers |= self._rate_limits.headers(bucket, resource)

    def _check_size(self, record: DiscordRequest) -> None:
        size = sum(len(file.content) for file in record.files.values())
        if size > self._state.limits.request_bytes:
            raise Refusal(40005)

    def _cut(self, request: web.Request, record: DiscordRequest) -> web.Response:
        record.is_lost = True
        if request.transport:
            request.transport.close()
        return web.Response()

    def _refuse_for_now(self, limited: RateLimited, headers: dict[str, str]) -> Answer:
        """Return 429. In front of Discord stands a network that answers with a page."""
        self._rate_limits.refused += 1
        headers["Retry-After"] = str(math.ceil(limited.retry_after))
        if not limited.has_via:
            return Answer(429, "<html>You are being rate limited. (1015)</html>")
        headers[SCOPE] = limited.scope
        if limited.scope == "global":
            headers["X-RateLimit-Global"] = "true"
        body = {
            "message": "You are being rate limited.",
            "retry_after": round(limited.retry_after, 3),
            "global": limited.scope == "global",
        }
        if limited.code:
            body |= {"code": limited.code, "message": Refusal(limited.code).message}
        return Answer(429, body)


async def ignore(request: DiscordRequest) -> None:
    """Do nothing at a request."""


def make_response(answer: Answer, headers: dict[str, str]) -> web.Response:
    """Return a response whose type is exactly ``application/json``: clients compare it so."""
    if isinstance(answer.body, str):
        return web.Response(
            status=answer.status, text=answer.body, content_type="text/html", headers=headers
        )
    headers = headers | VIA
    if answer.status == 204:
        return web.Response(status=204, headers=headers)
    headers["Content-Type"] = "application/json"
    body = json.dumps(answer.body).encode()
    return web.Response(status=answer.status, body=body, headers=headers)
