"""Clients: who calls, and what the client can do; the sessions and the headers that tell it."""

import base64
import binascii
import dataclasses
import re
from typing import Any

import mcp_types
import msgspec
from aiohttp import web
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from palaver import Principal, Seals, new_id
from palaver_plugins.channels.mcp.protocol import (
    LEGACY,
    MODERN,
    SESSION_HEADER,
    SUPPORTED,
    VERSION_HEADER,
    ClientMessage,
    Json,
    Notification,
    Request,
    RpcError,
)

TASKS = "io.modelcontextprotocol/tasks"
"""The extension for calls that a client asks about later."""
METHOD_HEADER, NAME_HEADER = "Mcp-Method", "Mcp-Name"
NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Methods with a parameter that the header `NAME_HEADER` repeats."""
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")


@dataclasses.dataclass(frozen=True, slots=True)
class Client:
    """The client of one request. ``elicits``: it can ask its person; ``takes_tasks``: it can come
    back for a result. ``session`` is empty in the era without sessions."""

    principal: Principal
    version: str
    elicits: bool = False
    takes_tasks: bool = False
    session: str = ""

    @property
    def person(self) -> str:
        return self.principal.resolve_person(None)

    @property
    def is_modern(self) -> bool:
        return self.version == MODERN


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What a session proves: that this credential has made it with this version."""

    tenant: str
    key: str
    person: str
    version: str
    elicits: bool
    id: str


def open_session(principal: Principal, capabilities: Json, wanted: str) -> Session:
    """Return a new session, with the version that the client wants if it is served."""
    return Session(
        tenant=principal.tenant,
        key=principal.name,
        person=principal.resolve_person(None),
        version=wanted if wanted in LEGACY else LEGACY[0],
        elicits=_can_elicit(capabilities),
        id=new_id(),
    )


def read_session(request: web.Request, principal: Principal, seals: Seals) -> Client:
    """Return the client of a request with a session. Raises `RpcError`: also when the session
    belongs to another credential."""
    sealed = request.headers.get(SESSION_HEADER)
    if not sealed:
        raise RpcError(
            INVALID_REQUEST, f"the header {SESSION_HEADER!r} is missing: initialize", status=400
        )
    session = seals.read(sealed, Session)
    owner = (principal.tenant, principal.name, principal.resolve_person(None))
    if session is None or (session.tenant, session.key, session.person) != owner:
        raise RpcError(INVALID_REQUEST, "there is no such session: initialize anew", status=404)
    version = request.headers.get(VERSION_HEADER, session.version)
    if version != session.version:
        raise RpcError(
            INVALID_REQUEST,
            f"the header {VERSION_HEADER!r} is {version[:40]!r}; the session has the version "
            f"{session.version!r}",
            status=400,
        )
    return Client(principal, session.version, elicits=session.elicits, session=session.id)


def _can_elicit(capabilities: Json) -> bool:
    """Return whether the client shows forms. A capability that says nothing of modes means them."""
    elicitation = capabilities.get("elicitation")
    if not isinstance(elicitation, dict):
        return False
    return "form" in elicitation or "url" not in elicitation


# The era without sessions


def is_modern(request: web.Request, message: ClientMessage) -> bool:
    """Return whether a message is of the era without sessions. Raises `RpcError` for a version that
    is of neither."""
    header = request.headers.get(VERSION_HEADER)
    stated = message.meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(message, Request) else None
    if header is None:
        return stated is not None
    if header in LEGACY and stated is None:
        return False
    if header not in SUPPORTED and stated in (None, header):
        raise _unsupported(header)
    return True


def _unsupported(version: str) -> RpcError:
    return RpcError(
        UNSUPPORTED_PROTOCOL_VERSION,
        f"the protocol version {version[:40]!r} is not served",
        data={"supported": list(SUPPORTED), "requested": version[:40]},
        status=400,
    )


def read_client(request: web.Request, message: Request, principal: Principal) -> Client:
    """Return the client of a request that says everything itself. Raises `RpcError` where it, or
    the headers that repeat it, are wrong."""
    meta = message.meta
    for key in (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY):
        if key not in meta:
            raise RpcError(INVALID_PARAMS, f"params._meta lacks {key!r}")
    version, capabilities = (
        meta[PROTOCOL_VERSION_META_KEY],
        meta[CLIENT_CAPABILITIES_META_KEY],
    )
    _check_header(request, VERSION_HEADER, version)
    _check_header(request, METHOD_HEADER, message.method)
    if name := NAMED.get(message.method):
        _check_header(request, NAME_HEADER, message.params.get(name), is_encoded=True)
    if version != MODERN:
        raise _unsupported(str(version))
    if not isinstance(capabilities, dict):
        raise RpcError(INVALID_PARAMS, f"params._meta[{CLIENT_CAPABILITIES_META_KEY!r}]: no object")
    extensions = capabilities.get("extensions")
    return Client(
        principal,
        MODERN,
        elicits=_can_elicit(capabilities),
        takes_tasks=isinstance(extensions, dict) and TASKS in extensions,
    )


def _check_header(
    request: web.Request,
    name: str,
    value: Any,  # a JSON value
    *,
    is_encoded: bool = False,
) -> None:
    given = request.headers.getall(name, [])
    if len(given) > 1:
        raise RpcError(HEADER_MISMATCH, f"the header {name!r} comes more than once")
    header = given[0] if given else None
    if is_encoded and header is not None:
        header = _decode(header)
    if header != value:
        raise RpcError(
            HEADER_MISMATCH, f"the header {name!r} is missing, or says something else than the body"
        )


def _decode(header: str) -> str | None:
    """Return a value that a header carries as it is, or as base64; None: it is malformed."""
    encoded = _ENCODED.fullmatch(header)
    if encoded is None:
        return header
    try:
        return base64.b64decode(encoded[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def require_tasks(client: Client) -> None:
    """Refuse a client that does not declare the extension. Raises `RpcError`."""
    if not client.takes_tasks:
        raise RpcError(
            mcp_types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"the request does not declare the extension {TASKS!r}",
            data={"requiredCapabilities": {"extensions": {TASKS: {}}}},
        )


def check_media_types(request: web.Request, message: ClientMessage | None = None) -> None:
    """Refuse a client that does not take what the endpoint sends. Raises `RpcError`."""
    wanted = ("application/json", "text/event-stream")
    accepted = {
        part.partition(";")[0].strip().lower()
        for value in request.headers.getall("Accept", [])
        for part in value.split(",")
    }
    if isinstance(message, Notification):
        return
    if not ("*/*" in accepted or all(_takes(accepted, kind) for kind in wanted)):
        raise RpcError(
            INVALID_REQUEST, f"the header 'Accept' must name {' and '.join(wanted)}", status=406
        )


def _takes(accepted: set[str], kind: str) -> bool:
    return kind in accepted or f"{kind.partition('/')[0]}/*" in accepted
