"""A channel for other agents, by A2A 1.0 (Agent2Agent): JSON-RPC and HTTP+JSON.

``/.well-known/agent-card.json`` tells other agents how to talk to this server: see docs/a2a.md.
"""

from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, hookimpl
from palaver_plugins.channels.a2a.channel import A2AChannel
from palaver_plugins.channels.a2a.contexts import CHANNEL
from palaver_plugins.channels.a2a.settings import Settings


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return A2AChannel(settings)


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=CHANNEL, settings=Settings, build=_build)]
