"""Agent card: how other agents talk to this one."""

import hashlib
from collections.abc import Iterable

from aiohttp import web

from palaver import ConversationService, __version__, encode
from palaver_plugins.channels.a2a.settings import Settings
from palaver_plugins.channels.a2a.shapes import OUTPUT_MODES, Json

RPC_PATH = "/a2a"
REST_PATH = "/a2a/v1"
PROTOCOL_VERSION = "1.0"
CARD_SECONDS = 300
INPUT_MODES = ("text/plain", "application/json", "image/*", "application/*", "text/*")


def make_card(settings: Settings, request: web.Request, skills: Iterable[Json]) -> Json:
    """Return the card of the agent with ``skills``."""
    base = settings.url or f"{request.scheme}://{request.host}"
    bindings = (("JSONRPC", RPC_PATH), ("HTTP+JSON", REST_PATH))
    return {
        "name": settings.name,
        "description": settings.description,
        "version": __version__,
        "supportedInterfaces": [
            {"url": base + path, "protocolBinding": name, "protocolVersion": PROTOCOL_VERSION}
            for name, path in bindings
        ],
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": True},
        "defaultInputModes": list(INPUT_MODES),
        "defaultOutputModes": list(OUTPUT_MODES),
        "securitySchemes": {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}},
        "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
        "skills": list(skills),
    }


def public_skills(settings: Settings) -> list[Json]:
    """Return what everybody may know: that the agent talks."""
    return [_skill("conversation", settings.description, ["conversation"], ())]


def all_skills(service: ConversationService) -> list[Json]:
    """Return the server's skills, for callers with a key."""
    return [
        _skill(name, description, ["skill"], service.prompts(name))
        for name, description in sorted(service.skills().items())
    ]


def _skill(name: str, description: str, tags: list[str], examples: Iterable[str]) -> Json:
    return {
        "id": name,
        "name": name,
        "description": description or name,
        "tags": tags,
        "examples": list(examples),
    }


def card_response(request: web.Request, card: Json) -> web.Response:
    """Return the public card, or that the client has it already."""
    body = encode(card)
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers = {
        "Cache-Control": f"public, max-age={CARD_SECONDS}",
        "ETag": f'"{etag}"',
        "X-Content-Type-Options": "nosniff",
    }
    known = request.if_none_match or ()
    if any(each.value in (etag, "*") for each in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)
