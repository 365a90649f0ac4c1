"""A channel for clients of the Model Context Protocol: skills as tools, documents as resources.

``/mcp`` serves both eras of the protocol: 2025-11-25 with sessions, and 2026-07-28 without. Enable
it with ``channels.enabled = ["mcp"]``; docs/mcp.md tells how clients use it. The extra ``mcp``
installs the models of the protocol, which are imported only when the channel is built.

Every call of a tool is a message, and its answer a turn of the ledger. No replica keeps anything
about a client: sessions, tasks, questions and positions in streams are sealed texts that the client
brings back.
"""

from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, hookimpl
from palaver_plugins.channels.mcp.settings import NAME, Settings
from palaver_plugins.optional_packages import import_packages


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    import_packages("channel", NAME, "mcp_types")
    from palaver_plugins.channels.mcp.channel import McpChannel

    return McpChannel(settings)


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=Settings, build=_build)]
