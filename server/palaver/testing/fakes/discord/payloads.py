"""The objects of a fake Discord in the form of its API (version 10)."""

import datetime
from typing import Any

from palaver.testing.fakes.discord.objects import (
    JSON,
    DiscordAttachment,
    DiscordChannel,
    DiscordGuild,
    DiscordMessage,
    DiscordUser,
)

VIEW, POST, POST_IN_THREADS = 1 << 10, 1 << 11, 1 << 38
EVERYDAY = sum(1 << bit for bit in (6, 14, 15, 16, 17, 31, 35, 36))
"""Permissions to react, embed links, attach files, read the history, mention everyone, use commands
and create threads."""
OWNER = 1
"""The id of whoever owns the application and its servers: a member without other meaning."""


def format_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def user_payload(user: DiscordUser) -> JSON:
    return {
        "id": str(user.id),
        "username": user.name.lower().replace(" ", "_"),
        "global_name": user.name,
        "discriminator": "0",
        "avatar": None,
        "bot": user.is_bot,
        "public_flags": 0,
    }


def member_payload(user: DiscordUser | None = None) -> JSON:
    """Return what a server knows of a member; messages carry it without the user."""
    member: JSON = {
        "nick": None,
        "avatar": None,
        "roles": [],
        "joined_at": "2026-01-01T00:00:00+00:00",
        "premium_since": None,
        "deaf": False,
        "mute": False,
        "flags": 0,
        "pending": False,
    }
    return member | ({"user": user_payload(user)} if user else {})


def channel_payload(channel: DiscordChannel) -> JSON:
    if channel.is_thread:
        return thread_payload(channel)
    if channel.recipient:
        recipients = [user_payload(channel.recipient)]
        return {"id": str(channel.id), "type": channel.kind, "recipients": recipients} | last_id(
            channel
        )
    assert channel.guild
    return {
        "id": str(channel.id),
        "type": channel.kind,
        "guild_id": str(channel.guild.id),
        "name": channel.name,
        "position": 0,
        "permission_overwrites": overwrites(channel),
        "parent_id": None,
        "topic": None,
        "nsfw": False,
        "rate_limit_per_user": 0,
    } | last_id(channel)


def overwrites(channel: DiscordChannel) -> list[JSON]:
    """Return what the channel denies to everybody, and so to the bot."""
    denied = (VIEW if not channel.bot_may_view else 0) | (
        POST | POST_IN_THREADS if not channel.bot_may_post else 0
    )
    assert channel.guild
    overwrite = {"id": str(channel.guild.id), "type": 0, "allow": "0", "deny": str(denied)}
    return [overwrite] if denied else []


def bot_permissions(channel: DiscordChannel) -> str:
    """Return what the bot may do in a channel."""
    place = channel.parent or channel
    allowed = EVERYDAY
    allowed |= VIEW if place.bot_may_view else 0
    allowed |= POST | POST_IN_THREADS if place.bot_may_post else 0
    return str(allowed)


def thread_payload(thread: DiscordChannel) -> JSON:
    assert thread.guild
    assert thread.parent
    assert thread.owner
    return {
        "id": str(thread.id),
        "type": thread.kind,
        "guild_id": str(thread.guild.id),
        "parent_id": str(thread.parent.id),
        "owner_id": str(thread.owner.id),
        "name": thread.name,
        "message_count": len(thread.messages),
        "total_message_sent": len(thread.messages),
        "member_count": 1,
        "rate_limit_per_user": 0,
        "thread_metadata": {
            "archived": thread.is_archived,
            "locked": thread.is_locked,
            "auto_archive_duration": thread.auto_archive_minutes,
            "archive_timestamp": format_time(thread.created),
            "create_timestamp": format_time(thread.created),
        },
    } | last_id(thread)


def last_id(channel: DiscordChannel) -> JSON:
    return {"last_message_id": str(max(channel.messages)) if channel.messages else None}


def guild_payload(guild: DiscordGuild, channels: list[DiscordChannel], bot: DiscordUser) -> JSON:
    """Return what GUILD_CREATE carries."""
    everyone = {
        "id": str(guild.id),
        "name": "@everyone",
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "position": 0,
        "permissions": str(EVERYDAY | VIEW | POST | POST_IN_THREADS),
        "managed": False,
        "mentionable": False,
        "flags": 0,
    }
    return {
        "id": str(guild.id),
        "name": guild.name,
        "unavailable": False,
        "owner_id": str(OWNER),
        "member_count": len(guild.members),
        "large": False,
        "joined_at": "2026-01-01T00:00:00+00:00",
        "roles": [everyone],
        "members": [member_payload(bot)],
        "channels": [channel_payload(c) for c in channels if not c.is_thread],
        "threads": [channel_payload(c) for c in channels if c.is_thread and not c.is_archived],
        "emojis": [],
        "stickers": [],
        "features": [],
        "voice_states": [],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
        "premium_tier": 0,
        "preferred_locale": "en-US",
        "nsfw_level": 0,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "mfa_level": 0,
        "system_channel_id": None,
        "icon": None,
    }


def attachment_payload(attachment: DiscordAttachment) -> JSON:
    file = attachment.file
    payload: JSON = {
        "id": str(attachment.id),
        "filename": file.name,
        "size": len(file.content),
        "url": attachment.url,
        "proxy_url": attachment.url,
        "content_type": file.media_type,
    }
    if attachment.description:
        payload["description"] = attachment.description
    if file.audio_seconds:
        payload |= {"duration_secs": file.audio_seconds, "waveform": "AAAA"}
    return payload


def message_payload(
    message: DiscordMessage,
    *,
    reader: DiscordUser,
    has_content: bool = True,
    has_nonce: bool = False,
) -> JSON:
    """Return a message as ``reader`` gets it; without the intent its content fields are empty.

    Discord tells the nonce only as the message is created: it does not store it.
    """
    payload: JSON = {
        "id": str(message.id),
        "channel_id": str(message.channel.id),
        "type": message.kind,
        "author": user_payload(message.author),
        "timestamp": format_time(message.created),
        "edited_timestamp": None if message.edited is None else format_time(message.edited),
        "tts": False,
        "pinned": False,
        "flags": message.flags,
        "mention_everyone": message.mentions.everyone,
        "mentions": [user_payload(user) for user in message.mentions.users],
        "mention_roles": [str(role) for role in message.mentions.roles],
    }
    payload |= content_fields(message) if has_content else NO_CONTENT
    if has_nonce and message.nonce is not None and message.author is reader:
        payload["nonce"] = message.nonce
    return payload | optional_fields(message, reader, has_content=has_content)


NO_CONTENT: JSON = {"content": "", "attachments": [], "embeds": [], "components": []}


def content_fields(message: DiscordMessage) -> JSON:
    return {
        "content": message.content,
        "attachments": [attachment_payload(a) for a in message.attachments],
        "embeds": message.embeds,
        "components": message.components,
    }


def optional_fields(message: DiscordMessage, reader: DiscordUser, *, has_content: bool) -> JSON:
    fields: dict[str, Any] = {
        "webhook_id": str(message.webhook_id) if message.webhook_id else None,
        "interaction_metadata": message.interaction,
        "thread": channel_payload(message.thread) if message.thread else None,
        "reactions": reaction_payloads(message, reader),
    }
    if message.snapshot and has_content:
        fields["message_snapshots"] = [{"message": message.snapshot}]
    fields |= reference_fields(message, reader, has_content=has_content)
    return {name: value for name, value in fields.items() if value is not None}


def reference_fields(message: DiscordMessage, reader: DiscordUser, *, has_content: bool) -> JSON:
    reference = message.reference
    if reference is None:
        return {}
    fields: JSON = {
        "message_reference": {
            "type": int(reference.is_forward),
            "message_id": str(reference.message_id),
            "channel_id": str(reference.channel.id),
        }
    }
    if reference.channel.guild:
        fields["message_reference"]["guild_id"] = str(reference.channel.guild.id)
    original = reference.channel.messages.get(reference.message_id)
    if original and not reference.is_forward:
        fields["referenced_message"] = message_payload(
            original, reader=reader, has_content=has_content or original.author is reader
        )
        fields["referenced_message"].pop("referenced_message", None)
    return fields


def reaction_payloads(message: DiscordMessage, reader: DiscordUser) -> list[JSON] | None:
    return [
        {
            "emoji": emoji_payload(emoji),
            "count": len(users),
            "count_details": {"burst": 0, "normal": len(users)},
            "me": reader in users,
            "me_burst": False,
            "burst_colors": [],
        }
        for emoji, users in message.reactions.items()
    ] or None


def emoji_payload(emoji: str) -> JSON:
    """Return a Unicode emoji, or one of a server's own, given as ``name:id``."""
    name, _, identifier = emoji.partition(":")
    return {"id": identifier or None, "name": name}


def snapshot_payload(message: DiscordMessage) -> JSON:
    """Return the part of a message that a forward carries."""
    return {
        "type": message.kind,
        "timestamp": format_time(message.created),
        "edited_timestamp": None,
        "flags": message.flags,
        "mentions": [],
        "mention_roles": [],
    } | content_fields(message)
