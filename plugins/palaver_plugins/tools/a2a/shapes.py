"""Shapes of what other agents answer, as far as the client reads them.

They are lenient: what an agent leaves out has its default, as ProtoJSON says.
"""

from typing import Annotated, Any

import msgspec

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]


class Shape(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A message of the protocol."""


class Part(Shape):
    """Part of a message or an artifact: one of text, raw (base64), url, data."""

    text: str | None = None
    raw: str | None = None
    url: str | None = None
    data: Any = msgspec.UNSET  # a JSON value
    filename: str = ""
    media_type: str = ""


class Interface(Shape):
    url: str
    protocol_binding: str = ""
    protocol_version: str = ""
    tenant: str = ""


class Capabilities(Shape):
    streaming: bool = False
    extended_agent_card: bool = False


class AgentSkill(Shape):
    id: str = ""
    name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


class AgentCard(Shape):
    name: str
    description: str = ""
    supported_interfaces: tuple[Interface, ...] = ()
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    skills: tuple[AgentSkill, ...] = ()


class RemoteMessage(Shape):
    message_id: str = ""
    parts: tuple[Part, ...] = ()


class RemoteStatus(Shape):
    state: str = ""
    message: RemoteMessage | None = None
    timestamp: str = ""


class RemoteArtifact(Shape):
    parts: tuple[Part, ...] = ()


class RemoteTask(Shape):
    id: Id
    context_id: str = ""
    status: RemoteStatus = msgspec.field(default_factory=RemoteStatus)
    artifacts: tuple[RemoteArtifact, ...] = ()


class SendResult(Shape):
    """What a message becomes: a task, or a message that answers it at once."""

    task: RemoteTask | None = None
    message: RemoteMessage | None = None
