"""An app's manifest, as Slack reads it: what it knows, and what has to go together."""

import msgspec

from palaver.testing.fakes.slack.objects import App, Json


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Slack refuses fields that it does not know."""


class _Display(_Part, kw_only=True):
    name: str
    description: str = ""
    long_description: str = ""
    background_color: str = ""


class _Home(_Part, kw_only=True):
    home_tab_enabled: bool = False
    messages_tab_enabled: bool = False
    messages_tab_read_only_enabled: bool = False


class _Bot(_Part, kw_only=True):
    display_name: str
    always_online: bool = False


class _Command(_Part, kw_only=True):
    command: str
    description: str
    url: str = ""
    usage_hint: str = ""
    should_escape: bool = False


class _Features(_Part, kw_only=True):
    app_home: _Home = msgspec.field(default_factory=_Home)
    bot_user: _Bot | None = None
    slash_commands: list[_Command] = []
    agent_view: Json | None = None
    assistant_view: Json | None = None


class _Scopes(_Part, kw_only=True):
    bot: list[str] = []
    user: list[str] = []


class _OAuth(_Part, kw_only=True):
    scopes: _Scopes
    redirect_urls: list[str] = []


class _Events(_Part, kw_only=True):
    bot_events: list[str] = []
    user_events: list[str] = []
    request_url: str = ""


class _Interactivity(_Part, kw_only=True):
    is_enabled: bool
    request_url: str = ""
    message_menu_options_url: str = ""


class _Settings(_Part, kw_only=True):
    event_subscriptions: _Events = msgspec.field(default_factory=_Events)
    interactivity: _Interactivity | None = None
    org_deploy_enabled: bool = False
    socket_mode_enabled: bool = False
    token_rotation_enabled: bool = False


class _Metadata(_Part, kw_only=True):
    major_version: int = 1
    minor_version: int = 1


class _Manifest(_Part, kw_only=True):
    display_information: _Display
    features: _Features
    oauth_config: _OAuth
    settings: _Settings
    _metadata: _Metadata | None = None


_EVENT_SCOPES = {
    "app_mention": "app_mentions:read",
    "assistant_thread_context_changed": "assistant:write",
    "assistant_thread_started": "assistant:write",
    "message.channels": "channels:history",
    "message.groups": "groups:history",
    "message.im": "im:history",
    "message.mpim": "mpim:history",
    "reaction_added": "reactions:read",
    "reaction_removed": "reactions:read",
}
MAX_NAME, MAX_DESCRIPTION, MAX_LONG_DESCRIPTION, MAX_COMMANDS = 35, 140, 4_000, 50


def apply_manifest(app: App, manifest: Json) -> None:
    """Give an app the settings of a manifest. Raises `ValueError` with all that Slack refuses."""
    try:
        read = msgspec.convert(manifest, _Manifest)
    except msgspec.ValidationError as error:
        raise ValueError(f"invalid_manifest: {error}") from error
    problems = _problems(read)
    if problems:
        raise ValueError("invalid_manifest: " + "; ".join(problems))
    features, settings = read.features, read.settings
    app.name = features.bot_user.display_name if features.bot_user else app.name
    app.scopes = list(read.oauth_config.scopes.bot)
    app.redirect_urls = list(read.oauth_config.redirect_urls)
    app.events = list(settings.event_subscriptions.bot_events)
    app.has_interactivity = settings.interactivity is not None and settings.interactivity.is_enabled
    app.is_agent = features.agent_view is not None
    app.has_home_tab = features.app_home.home_tab_enabled
    app.has_messages_tab = (
        features.app_home.messages_tab_enabled
        and not features.app_home.messages_tab_read_only_enabled
    )
    app.uses_socket_mode = settings.socket_mode_enabled
    app.rotates_tokens = settings.token_rotation_enabled
    app.commands = frozenset(each.command for each in features.slash_commands)


def _problems(manifest: _Manifest) -> list[str]:
    display, features = manifest.display_information, manifest.features
    scopes, settings = manifest.oauth_config.scopes.bot, manifest.settings
    events = settings.event_subscriptions
    found = [
        f"the event {event!r} needs the scope {_EVENT_SCOPES[event]!r}"
        for event in events.bot_events
        if event in _EVENT_SCOPES and _EVENT_SCOPES[event] not in scopes
    ]
    found += [
        f"{name!r} is no command: it begins with a slash and has no space"
        for name in (each.command for each in features.slash_commands)
        if not name.startswith("/") or " " in name
    ]
    limits = {
        "the name is too long": len(display.name) > MAX_NAME,
        "the description is too long": len(display.description) > MAX_DESCRIPTION,
        "there are too many commands": len(features.slash_commands) > MAX_COMMANDS,
        "commands need the scope 'commands'": features.slash_commands and "commands" not in scopes,
        "scopes of a bot need a bot_user": scopes and features.bot_user is None,
        "agent_view and assistant_view exclude each other": features.agent_view
        and features.assistant_view,
        "an agent needs the scope 'assistant:write'": features.agent_view is not None
        and "assistant:write" not in scopes,
        "org_deploy_enabled needs a bot_user": settings.org_deploy_enabled
        and features.bot_user is None,
    }
    found += [problem for problem, is_there in limits.items() if is_there]
    return found + (_missing_urls(manifest) if not settings.socket_mode_enabled else [])


def _missing_urls(manifest: _Manifest) -> list[str]:
    """Without Socket Mode, Slack needs to know where the app is."""
    settings = manifest.settings
    events, interactivity = settings.event_subscriptions, settings.interactivity
    missing = {
        "event_subscriptions": events.bot_events and not events.request_url,
        "interactivity": interactivity is not None
        and interactivity.is_enabled
        and not interactivity.request_url,
        "slash_commands": any(not each.url for each in manifest.features.slash_commands),
    }
    return [
        f"{name} need a URL without Socket Mode" for name, is_there in missing.items() if is_there
    ]
