"""A channel for user interfaces that speak AG-UI 1.0, such as those built with CopilotKit.

``POST /agui`` runs the server's skills for a client of the protocol, ``POST /agui/stop`` stops a
run. docs/agui.md shows both.
"""

from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, PluginSettings, hookimpl
from palaver_plugins.channels.agui.channel import AguiChannel
from palaver_plugins.channels.agui.run_input import CHANNEL


class Settings(PluginSettings):
    """No settings."""


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return AguiChannel()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=CHANNEL, settings=Settings, build=_build)]
