"""Slack: people talk to the bot in channels, in direct messages and in the agent's own view.

Enable it with ``channels.enabled = ["slack"]``; docs/channels/slack.md tells how to get a bot. The
extra ``slack`` installs its libraries, which are imported only when the channel is built.
"""

from collections.abc import Iterable

import click

from palaver import Backend, BuildContext, Channel, hookimpl
from palaver_plugins.channels.slack.commands import slack
from palaver_plugins.channels.slack.settings import NAME, SlackSettings
from palaver_plugins.optional_packages import import_packages


def _build(settings: SlackSettings, build_context: BuildContext) -> Channel:
    import_packages("channel", NAME, "slack_sdk", "slack_bolt")
    from palaver_plugins.channels.slack.channel import SlackChannel
    from palaver_plugins.channels.slack.platform import SlackPlatform

    return SlackChannel(
        settings, lambda installations: SlackPlatform(installations, is_agent=settings.agent)
    )


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=SlackSettings, build=_build)]


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [slack]
