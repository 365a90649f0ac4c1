"""Settings of the A2A client."""

import pydantic

from palaver import PluginSettings, Secret, check_url
from palaver_plugins.networks import Networks
from palaver_plugins.tools.pinned.names import check_names
from palaver_plugins.tools.pinned.source import Kind

NAME = "a2a"
RECORDS = "a2a-client"
"""The name under which the client keeps its records."""
KIND = Kind(name=NAME, records=RECORDS, noun="agent", title="A2A agent")


class AgentSettings(PluginSettings):
    url: str
    """Address of the agent, such as ``https://agent.example.org``. Its card is there at
    ``/.well-known/agent-card.json``."""
    token: Secret | None = None
    """Bearer token for the agent, as a reference."""
    allowed_networks: Networks = ()
    """Networks beside the public internet in which the agent may be, such as ``127.0.0.0/8``; by
    http only these are reached."""
    read_only: bool = False
    """The agent has no effects, in the operator's opinion."""
    idempotent: bool = False
    """The agent knows a message again by its id, in the operator's opinion, as Palaver does.
    Without it, a message is not sent again when it is unknown whether the agent has got it."""
    needs_approval: bool = False
    """Ask the person before each call."""
    timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds in which the agent must answer a request."""
    max_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds in which a task must end; then it is cancelled."""
    refresh: float = pydantic.Field(default=300.0, gt=0)
    """Seconds between two looks at the card."""
    max_description_characters: int = pydantic.Field(default=2_000, ge=1)
    """Most characters of the tool's description, which the card gives; a longer one is cut."""
    max_result_characters: int = pydantic.Field(default=50_000, ge=1)
    """Most characters of a result; longer ones are cut."""
    max_message_bytes: int = pydantic.Field(default=1_000_000, ge=1_000)
    """Most bytes of an answer of the agent; a larger one fails the call."""

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        check_url(value, ("http", "https"), "such as https://agent.example.org", has_query=False)
        return value.rstrip("/")


class A2ASettings(PluginSettings):
    agents: dict[str, AgentSettings] = pydantic.Field(default_factory=dict)
    """A2A agents by name. Each one is a tool, ``ask_NAME``."""

    @pydantic.field_validator("agents")
    @classmethod
    def _have_names(cls, value: dict[str, AgentSettings]) -> dict[str, AgentSettings]:
        check_names(value, KIND.noun)
        return value
