"""Card: what an agent says about itself, as the definition of a tool."""

import dataclasses
import hashlib
from urllib.parse import urlsplit

import msgspec

from palaver import encode
from palaver_plugins.tools.a2a.settings import AgentSettings
from palaver_plugins.tools.a2a.shapes import AgentCard
from palaver_plugins.tools.pinned.definition import Definition, Json
from palaver_plugins.tools.pinned.texts import clean_line

TOOL = "ask"
JSON_RPC, REST = "JSONRPC", "HTTP+JSON"
BINDINGS, VERSION = (JSON_RPC, REST), "1."
MAX_DEFINITION_BYTES = 65_536
_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an agent takes requests, and by which binding."""

    url: str
    binding: str
    tenant: str
    has_streams: bool


def tool_name(agent: str) -> str:
    """Return the name of the tool that asks an agent of the settings."""
    return f"{TOOL}_{agent}"


def find_endpoint(card: AgentCard, url: str) -> Endpoint | None:
    """Return where an agent at ``url`` speaks A2A 1.x, by the first binding that it names. A card
    cannot send the token to another origin."""
    for each in card.supported_interfaces:
        is_spoken = each.protocol_binding in BINDINGS and each.protocol_version.startswith(VERSION)
        if is_spoken and _origin(each.url) == _origin(url):
            streams = card.capabilities.streaming
            return Endpoint(each.url, each.protocol_binding, each.tenant, streams)
    return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None


def read_definition(agent: str, settings: AgentSettings, card: AgentCard) -> Definition:
    """Return the tool that a card describes. Its digest covers all that a model or an operator
    sees, and the address that requests go to."""
    endpoint, problem = find_endpoint(card, settings.url), ""
    address = (endpoint.url, endpoint.binding, endpoint.tenant) if endpoint else ()
    hashed = encode((card.name, card.description, card.skills, address))
    if endpoint is None:
        spoken = " or ".join(BINDINGS)
        problem = f"its card names no {spoken} interface of A2A 1.x at the origin of its url"
    elif len(hashed) > MAX_DEFINITION_BYTES:
        problem = f"its card is larger than {MAX_DEFINITION_BYTES} bytes"
    return Definition(
        tool=TOOL,
        name=tool_name(agent),
        description=_describe(card, settings.max_description_characters),
        schema=_SCHEMA,
        digest=hashlib.sha256(hashed).hexdigest()[:32],
        problem=problem,
        read_only=settings.read_only,
        idempotent=settings.idempotent or settings.read_only,
        needs_approval=settings.needs_approval,
    )


def _describe(card: AgentCard, limit: int) -> str:
    """Return the description of the tool. Each part is bounded: a card may be long."""
    skills = "; ".join(
        f"{clean_line(skill.name or skill.id, 100)}: {clean_line(skill.description, limit)}"
        for skill in card.skills[:100]
    )
    about = f"Ask the agent {clean_line(card.name, 100)}: {clean_line(card.description, limit)}"
    return clean_line(f"{about} Skills: {skills}" if skills else about, limit)


_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "message": {
            "type": "string",
            "description": "What the agent is to do or to answer, with all that it has to know: it "
            "sees nothing of this conversation.",
        },
        "task": {
            "type": "string",
            "description": "To answer a question of the agent: the task that the question named.",
        },
    },
    "required": ["message"],
    "additionalProperties": False,
}


def decode_card(body: bytes) -> AgentCard:
    """Return a card. Raises `msgspec.DecodeError`, `RecursionError`."""
    return msgspec.json.decode(body, type=AgentCard)
