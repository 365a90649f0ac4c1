"""Manifest of the Slack app: what `palaver channels slack manifest` prints, and Slack reads."""

from typing import Any

from palaver_plugins.channels.slack.settings import SlackSettings

Json = dict[str, Any]  # JSON values, of Slack's own form

EVENTS_PATH = "/slack/events"
INSTALL_PATH = "/slack/install"
REDIRECT_PATH = "/slack/oauth_redirect"
BOT_SCOPES = (
    "app_mentions:read",
    "assistant:write",
    "channels:history",
    "chat:write",
    "commands",
    "files:read",
    "files:write",
    "groups:history",
    "im:history",
    "mpim:history",
    "users:read",
)
"""What the bot must be allowed to do."""
BOT_EVENTS = (
    "agent_session_stopped",
    "app_home_opened",
    "app_mention",
    "app_uninstalled",
    "message.channels",
    "message.groups",
    "message.im",
    "message.mpim",
    "tokens_revoked",
)
AGENT_EVENTS = frozenset({"agent_session_stopped"})
"""Events that only agents get."""
DESCRIPTION = "Answers questions in messages, threads and channels."


def make_manifest(settings: SlackSettings, url: str) -> Json:
    """Return the manifest. ``url`` is the address of this server as Slack reaches it; with Socket
    Mode only the installation by OAuth needs it."""
    is_socket = settings.mode == "socket"
    events = [name for name in BOT_EVENTS if settings.agent or name not in AGENT_EVENTS]
    request_url = {} if is_socket else {"request_url": f"{url}{EVENTS_PATH}"}
    oauth: Json = {"scopes": {"bot": list(BOT_SCOPES)}}
    if settings.client_id:
        oauth["redirect_urls"] = [f"{url}{REDIRECT_PATH}"]
    return {
        "display_information": {"name": settings.display_name, "description": DESCRIPTION},
        "features": _features(settings, "" if is_socket else url),
        "oauth_config": oauth,
        "settings": {
            "event_subscriptions": {**request_url, "bot_events": events},
            "interactivity": {"is_enabled": True, **request_url},
            "org_deploy_enabled": bool(settings.client_id),
            "socket_mode_enabled": is_socket,
            "token_rotation_enabled": bool(settings.client_id),
        },
    }


def _features(settings: SlackSettings, url: str) -> Json:
    command: Json = {
        "command": settings.command,
        "description": "Ask, or name a skill and what it shall do",
        "usage_hint": "[skill] question",
        "should_escape": True,
    }
    if url:
        command["url"] = f"{url}{EVENTS_PATH}"
    features: Json = {
        "app_home": {
            "home_tab_enabled": True,
            "messages_tab_enabled": True,
            "messages_tab_read_only_enabled": False,
        },
        "bot_user": {"display_name": settings.display_name, "always_online": True},
        "slash_commands": [command],
    }
    if settings.agent:
        features["agent_view"] = {"agent_description": DESCRIPTION}
    return features
