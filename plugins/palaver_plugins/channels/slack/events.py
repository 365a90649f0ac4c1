"""Events: what Slack tells about messages, validated."""

from collections.abc import Mapping
from typing import Any

import msgspec

from palaver import InvalidInput
from palaver_plugins.channels.slack.addresses import TIMESTAMP

Json = Mapping[str, Any]  # JSON values, of Slack's own form

WRITTEN = frozenset({"", "bot_message", "file_share", "me_message", "thread_broadcast"})
"""Subtypes of messages with text that somebody has written. The others tell of changes, or of what
happens in a channel."""


class SlackFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a message. ``mode`` is ``external`` for a link to another service's file;
    ``file_access`` is ``check_file_info`` where Slack keeps the other fields back."""

    id: str = ""
    name: str = ""
    mimetype: str = ""
    size: int = 0
    mode: str = ""
    file_access: str = ""
    url_private: str = ""
    url_private_download: str = ""


class BotProfile(msgspec.Struct, frozen=True, kw_only=True):
    app_id: str = ""


class SlackMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message. ``thread_ts`` is empty outside of threads, ``bot_id`` and ``app_id`` where a
    person has written it."""

    ts: str
    channel: str
    subtype: str = ""
    thread_ts: str = ""
    user: str = ""
    bot_id: str = ""
    app_id: str = ""
    bot_profile: BotProfile = BotProfile()
    text: str = ""
    client_msg_id: str = ""
    files: tuple[SlackFile, ...] = ()

    def __post_init__(self) -> None:
        for ts in filter(None, (self.ts, self.thread_ts)):
            if not TIMESTAMP.fullmatch(ts):
                raise ValueError("a ts has another form")

    @property
    def is_direct(self) -> bool:
        return self.channel.startswith("D")

    @property
    def apps(self) -> frozenset[str]:
        """Return the apps that have posted it."""
        return frozenset(filter(None, (self.app_id, self.bot_profile.app_id)))

    @property
    def is_of_bot(self) -> bool:
        return bool(self.bot_id or self.apps or self.subtype == "bot_message")


class MessageChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a message; ``after`` is None when it was deleted."""

    before: SlackMessage
    after: SlackMessage | None


def read_message(event: Json) -> SlackMessage:
    """Return the message of an event. Raises `InvalidInput`."""
    try:
        return msgspec.convert(_without_nulls(event), SlackMessage, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"an event of Slack cannot be read: {error}") from error


def read_change(event: Json) -> MessageChange | None:
    """Return what a ``message_changed`` or ``message_deleted`` event tells; None when the text is
    as before, such as when Slack shows a link. Raises `InvalidInput`."""
    place = {"channel": event.get("channel")}
    if not isinstance(event.get("previous_message"), dict):
        return None
    before = read_message({**event["previous_message"], **place})
    if event.get("subtype") == "message_deleted":
        return MessageChange(before=before, after=None)
    after = read_message({**(event.get("message") or {}), **place})
    if after.subtype == "tombstone":  # it was deleted, but its thread remains
        return MessageChange(before=before, after=None)
    return MessageChange(before=before, after=after) if after.text != before.text else None


def _without_nulls(value: Any) -> Any:  # Any: JSON values
    """Return JSON without the nulls that Slack writes for what it has not."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
