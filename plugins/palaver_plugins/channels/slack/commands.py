"""Commands ``palaver channels slack``."""

import json
from typing import Any

import click

from palaver import Console, echo
from palaver_plugins.channels.slack.manifest import make_manifest
from palaver_plugins.channels.slack.settings import NAME, SlackSettings


@click.group()
def slack() -> None:
    """Set up the Slack app."""


@slack.command()
@click.option("--url", default="", help="Address of this server as Slack reaches it, with https.")
@click.option(
    "--mode",
    type=click.Choice(["http", "socket"]),
    help="How Slack delivers. Default: that of the settings.",
)
@click.pass_obj
def manifest(console: Console, url: str, mode: str | None) -> None:
    """Print the manifest of the Slack app, to paste at https://api.slack.com/apps.

    It is JSON, which Slack takes as it does YAML. The settings of the channel decide about the
    name, the slash command and the mode; what they lack has its default.
    """
    given: dict[str, Any] = {"mode": mode} if mode else {}  # Any: values of settings
    settings = console.plugin_settings("channels", NAME, SlackSettings).model_copy(update=given)
    url = (url or settings.public_url).rstrip("/")
    if (settings.mode == "http" or settings.client_id) and not url.startswith("https://"):
        raise click.UsageError(
            "Slack needs the address at which it reaches this server: --url https://…; or connect "
            "to Slack instead, with --mode socket"
        )
    echo(json.dumps(make_manifest(settings, url), indent=2, ensure_ascii=False), keep_lines=True)
