"""What a fake Slack contains: workspaces, users, channels, messages, files, apps and tokens."""

import dataclasses
from typing import Any, Literal

Json = dict[str, Any]
"""A JSON object as Slack's documentation describes it (Any: their shapes are Slack's)."""

ChannelKind = Literal["channel", "group", "im", "mpim"]
"""Slack's ``channel_type``: public and private channel, direct message, group direct message."""

BOT_SCOPES = (
    "app_mentions:read assistant:write channels:history channels:read chat:write commands "
    "files:read files:write groups:history groups:read im:history im:read im:write "
    "mpim:history mpim:read reactions:read reactions:write team:read users:read"
).split()
BOT_EVENTS = (
    "agent_session_stopped app_home_opened app_mention app_uninstalled "
    "assistant_thread_context_changed assistant_thread_started message.channels message.groups "
    "message.im message.mpim reaction_added reaction_removed tokens_revoked"
).split()


@dataclasses.dataclass(slots=True, kw_only=True)
class Workspace:
    """A workspace; ``enterprise`` is the id of its organization (Enterprise Grid), or empty."""

    id: str
    name: str
    enterprise: str = ""


@dataclasses.dataclass(slots=True, kw_only=True)
class User:
    id: str
    name: str
    team: str
    app: str = ""
    """The app whose bot user this is."""
    bot: str = ""
    """The id of the bot, which is another than the user's."""


@dataclasses.dataclass(slots=True, kw_only=True)
class SharedFile:
    id: str
    name: str
    media_type: str
    content: bytes
    user: str
    team: str
    title: str = ""
    ready_at: float = 0.0
    """When Slack has processed it, by the clock."""


StreamMode = Literal["markdown_text", "chunks", ""]
TOMBSTONE_USER, TOMBSTONE_TEXT = "USLACKBOT", "This message was deleted."
STREAM_SECONDS = 300.0
"""Seconds after its start at which a stream ends by itself."""


@dataclasses.dataclass(slots=True, kw_only=True)
class MessageStream:
    """The state of a message that an app streams. ``recipient``: the user who sees it live."""

    mode: StreamMode
    """How its text is sent; empty before the first text."""
    started_at: float
    recipient: str
    state: Literal["live", "stopped", "stopped_by_user"] = "live"
    tasks: dict[str, Json] = dataclasses.field(default_factory=dict)
    plan_title: str = ""

    def is_live(self, now: float) -> bool:
        return self.state == "live" and now < self.started_at + STREAM_SECONDS


@dataclasses.dataclass(slots=True, kw_only=True)
class Message:
    ts: str
    channel: str
    user: str
    text: str = ""
    """As it was written: what people see is made of it."""
    thread_ts: str = ""
    """The ts of the thread's first message; empty outside of threads."""
    app: str = ""
    bot: str = ""
    username: str = ""
    subtype: str = ""
    client_msg_id: str = ""
    is_markdown: bool = False
    """The text is Markdown, and not Slack's mrkdwn."""
    blocks: list[Json] = dataclasses.field(default_factory=list)
    attachments: list[Json] = dataclasses.field(default_factory=list)
    files: list[SharedFile] = dataclasses.field(default_factory=list)
    metadata: Json | None = None
    edited_ts: str = ""
    ephemeral_to: str = ""
    """The only user who sees it."""
    is_broadcast: bool = False
    reactions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    stream: MessageStream | None = None

    def is_streaming(self, now: float) -> bool:
        return self.stream is not None and self.stream.is_live(now)

    def add_preview(self) -> None:
        """Attach the preview of a link."""
        self.attachments = [*self.attachments, {"id": 1, "fallback": "preview of a link"}]

    def make_tombstone(self) -> None:
        """Leave nothing of a deleted message but its place above its replies."""
        self.user, self.app, self.bot, self.username = TOMBSTONE_USER, "", "", ""
        self.subtype, self.text, self.is_markdown = "tombstone", TOMBSTONE_TEXT, False
        self.blocks, self.attachments, self.files = [], [], []
        self.metadata, self.stream = None, None

    def remove_reaction(self, name: str, user: str) -> None:
        self.reactions[name] = [each for each in self.reactions[name] if each != user]
        if not self.reactions[name]:
            del self.reactions[name]


@dataclasses.dataclass(slots=True, kw_only=True)
class Channel:
    """A conversation. ``refusal``: the error with which Slack refuses each post of an app."""

    id: str
    name: str
    kind: ChannelKind
    team: str
    members: set[str]
    is_archived: bool = False
    refusal: str = ""
    messages: dict[str, Message] = dataclasses.field(default_factory=dict)
    """By ts, in their order."""
    threads: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """For the ts of each thread's first message, the ts of the others."""

    def add(self, message: Message) -> None:
        self.messages[message.ts] = message
        if message.thread_ts:
            self.threads.setdefault(message.thread_ts, []).append(message.ts)

    def remove(self, ts: str) -> Message:
        message = self.messages.pop(ts)
        if message.thread_ts:
            self.threads[message.thread_ts].remove(ts)
        return message

    def thread(self, root: str) -> list[Message]:
        """Return a thread's messages, the first one included unless it is deleted."""
        parent = [self.messages[root]] if root in self.messages else []
        return parent + [self.messages[ts] for ts in self.threads.get(root, ())]

    def main(self) -> list[Message]:
        """Return the messages outside of threads, and replies that are shown here as well."""
        return [each for each in self.messages.values() if not each.thread_ts or each.is_broadcast]


@dataclasses.dataclass(slots=True, kw_only=True)
class App:
    """An app, with what its settings page shows."""

    id: str
    name: str
    client_id: str
    client_secret: str
    signing_secret: str
    verification_token: str
    app_token: str
    scopes: list[str] = dataclasses.field(default_factory=lambda: list(BOT_SCOPES))
    events: list[str] = dataclasses.field(default_factory=lambda: list(BOT_EVENTS))
    """Bot events to which the app subscribes."""
    redirect_urls: list[str] = dataclasses.field(default_factory=list)
    commands: frozenset[str] | None = None
    """The names of its slash commands; None: any."""
    has_interactivity: bool = True
    """Buttons can be pressed."""
    has_home_tab: bool = True
    has_messages_tab: bool = True
    """People can write direct messages to the app."""
    is_agent: bool = True
    """The app is declared an agent (``agent_view``)."""
    uses_socket_mode: bool = False
    rotates_tokens: bool = False
    is_limited: bool = False
    """The app is distributed outside of the Marketplace: one call a minute with 15 messages of
    ``conversations.history`` and ``conversations.replies``."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Token:
    """``error``: what every call with it is answered, such as ``token_revoked``."""

    value: str
    kind: Literal["bot", "app", "user"]
    app: str
    team: str = ""
    enterprise: str = ""
    user: str = ""
    bot: str = ""
    scopes: frozenset[str] = frozenset()
    expires_at: float | None = None
    error: str = ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Installation:
    """An app in a workspace, or in a whole organization; then ``team`` is empty."""

    app: str
    team: str
    enterprise: str
    user: str
    """The id of the bot's user."""
    bot: str
    is_org_wide: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStatus:
    """What ``assistant.threads.setStatus`` shows in a thread."""

    text: str
    loading_messages: tuple[str, ...]
    set_at: float


@dataclasses.dataclass(slots=True, kw_only=True)
class Session:
    """An agent's session in a thread."""

    status: str = ""
    title: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that an app is about to upload."""

    file: SharedFile
    length: int
    expires_at: float


@dataclasses.dataclass(slots=True, kw_only=True)
class Grant:
    """A code of OAuth, which an app exchanges for a token."""

    app: str
    team: str
    user: str
    org_wide: bool
    scopes: tuple[str, ...]
    redirect_uri: str
    expires_at: float
    is_used: bool = False


Thread = tuple[str, str]
"""A channel and the ts of a thread's first message."""
