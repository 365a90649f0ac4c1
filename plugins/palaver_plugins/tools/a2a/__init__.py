"""A2A client: other agents as tools, which skills and models ask.

Enable it with ``tool_sources.enabled = ["a2a"]`` and name the agents; docs/a2a.md shows how.
"""

from collections.abc import Iterable

import click

from palaver import Backend, BuildContext, ToolSource, hookimpl
from palaver_plugins.tools.a2a.settings import KIND, NAME, A2ASettings
from palaver_plugins.tools.a2a.source import A2ASource
from palaver_plugins.tools.pinned.commands import make_commands


def _build(settings: A2ASettings, build_context: BuildContext) -> ToolSource:
    return A2ASource(settings)


@hookimpl
def palaver_register_tool_sources() -> Iterable[Backend[ToolSource]]:
    return [Backend(name=NAME, settings=A2ASettings, build=_build)]


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [make_commands(KIND, A2ASettings, "agents", A2ASource)]
