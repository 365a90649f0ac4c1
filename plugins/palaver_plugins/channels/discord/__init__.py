"""Discord: people talk to the bot in channels and threads of servers, and in direct messages.

Enable it with ``channels.enabled = ["discord"]``; docs/channels/discord.md tells how to get a bot.
It needs discord.py, which `pip install 'palaver-server[discord]'` brings.
"""

import warnings
from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, hookimpl
from palaver_plugins.channels.discord.places import NAME
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.optional_packages import import_packages


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=DiscordSettings, build=_build)]


def _build(settings: DiscordSettings, context: BuildContext) -> Channel:
    with warnings.catch_warnings():
        # The library's support of voice imports it; nothing uses that here.
        warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
        library, _ = import_packages("channel", NAME, "discord", "nacl.signing")
    library.VoiceClient.warn_nacl = library.VoiceClient.warn_dave = False  # about voice, too
    from palaver_plugins.channels.discord.channel import DiscordChannel  # needs the library

    return DiscordChannel(settings)
