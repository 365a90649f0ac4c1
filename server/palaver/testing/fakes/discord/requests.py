"""Requests to the HTTP API of a fake Discord: their record, and reading their bodies."""

import dataclasses
import json
import re
from typing import Any

from aiohttp import BodyPartReader, web

from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.forms import FormType, UnknownFields, parse_form
from palaver.testing.fakes.discord.objects import JSON, DiscordFile


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordRequest:
    """One request, as it arrived and as it was answered.

    ``path`` is without ``/api/v10``. ``status`` and ``code`` are 0 until there is an answer, and
    ``code`` without a refusal. ``is_lost``: the client got no answer; the request took effect
    all the same when ``is_committed``.
    """

    method: str
    path: str
    query: dict[str, str]
    time: float
    token: str = ""
    body: Any = None
    files: dict[int, DiscordFile] = dataclasses.field(default_factory=dict)
    status: int = 0
    code: int = 0
    is_committed: bool = False
    is_lost: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@dataclasses.dataclass(slots=True)
class Call:
    """A request with the ids of its path, for the function that answers it."""

    request: DiscordRequest
    ids: dict[str, str]

    def id(self, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", self.ids[name]):
            raise Refusal(50035)
        return int(self.ids[name])

    def form(self, form: type[FormType]) -> FormType:
        return parse_form(form, {} if self.request.body is None else self.request.body)

    def number(self, name: str, default: int) -> int:
        """Return a number of the query."""
        value = self.request.query.get(name, str(default))
        if not re.fullmatch(r"[0-9]{1,20}", value):
            raise Refusal(50035)
        return int(value)

    def check_query(self, known: frozenset[str]) -> None:
        if unknown := self.request.query.keys() - known:
            raise UnknownFields([f"?{name}" for name in sorted(unknown)])


async def read_body(request: web.Request, record: DiscordRequest) -> None:
    """Read a body of JSON, or a form with files beside ``payload_json``."""
    if request.content_type == "multipart/form-data":
        await read_multipart(request, record)
    elif data := await request.read():
        if request.content_type != "application/json":
            raise Refusal(50035)
        record.body = parse_json(data)


async def read_multipart(request: web.Request, record: DiscordRequest) -> None:
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise Refusal(50035)
        content = bytes(await part.read())
        number = re.fullmatch(r"files\[([0-9]{1,2})\]", part.name or "")
        if part.name == "payload_json":
            record.body = parse_json(content)
        elif number:
            media_type = part.headers.get("Content-Type", "application/octet-stream")
            file = DiscordFile(part.filename or "unknown", content, media_type)
            record.files[int(number.group(1))] = file
        else:
            raise UnknownFields([str(part.name)])


def parse_json(data: bytes) -> JSON | list[JSON]:
    try:
        body: JSON | list[JSON] = json.loads(data)
    except ValueError as error:
        raise Refusal(50109) from error
    return body
