"""What a message may look like: the checks and the mentions of a fake Discord."""

import re
from typing import Any

from palaver.testing.fakes.discord.components import (
    VERSION_1,
    find_displays,
    iterate_components,
)
from palaver.testing.fakes.discord.errors import Refusal, invalid_field
from palaver.testing.fakes.discord.forms import AllowedMentions, MessageForm
from palaver.testing.fakes.discord.limits import DiscordLimits
from palaver.testing.fakes.discord.objects import (
    AUDIO_MESSAGE,
    COMPONENTS_V2,
    JSON,
    SUPPRESS_EMBEDS,
    DiscordGuild,
    DiscordMessage,
    DiscordUser,
    Mentions,
)

SUPPRESS_NOTIFICATIONS = 1 << 12
SETTABLE_FLAGS = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS | AUDIO_MESSAGE | COMPONENTS_V2
EMBED_CHARACTERS = 6_000


def measure_text(text: str, limits: DiscordLimits) -> int:
    return len(text.encode("utf-16-le")) // 2 if limits.text_unit == "utf-16" else len(text)


def check_content(content: str, limits: DiscordLimits, *, limit: int) -> None:
    if measure_text(content, limits) > limit:
        message = f"Must be {limit} or fewer in length."
        raise invalid_field("content", "BASE_TYPE_MAX_LENGTH", message)


def check_flags(flags: int, settable: int = SETTABLE_FLAGS) -> None:
    if flags & ~settable:
        raise invalid_field("flags", "MESSAGE_FLAGS_INVALID", f"Cannot set {flags & ~settable}.")


def check_message(message: DiscordMessage, limits: DiscordLimits) -> None:
    """Refuse a message that Discord would not show."""
    check_content(message.content, limits, limit=limits.text)
    check_embeds(message.embeds)
    check_components(message, limits)
    if not (message.content or message.embeds or message.components or message.attachments):
        raise Refusal(50006)


def check_embeds(embeds: list[JSON]) -> None:
    texts = [text for embed in embeds for text in embed_texts(embed)]
    if sum(map(len, texts)) > EMBED_CHARACTERS:
        message = f"Embed size exceeds maximum size of {EMBED_CHARACTERS}"
        raise invalid_field("embeds", "MAX_EMBED_SIZE_EXCEEDED", message)


def embed_texts(embed: JSON) -> list[str]:
    texts = [embed.get("title"), embed.get("description")]
    texts += [embed.get("footer", {}).get("text"), embed.get("author", {}).get("name")]
    for field in embed.get("fields", []):
        texts += [field["name"], field["value"]]
    return [text for text in texts if text]


def check_components(message: DiscordMessage, limits: DiscordLimits) -> None:
    everything = list(iterate_components(message.components))
    if message.has_components_v2:
        check_version_2(message, everything, limits)
    elif any(component["type"] not in VERSION_1 for component in message.components):
        raise invalid_field("components.0.type", "UNION_TYPE_CHOICES", "Value must be one of (1,).")
    elif len(message.components) > 5:
        raise invalid_field("components", "BASE_TYPE_BAD_LENGTH", "Must be 5 or fewer in length.")
    custom_ids = [c["custom_id"] for c in everything if c.get("custom_id")]
    if len(set(custom_ids)) < len(custom_ids):
        message_text = "Component custom id cannot be duplicated"
        raise invalid_field("components", "COMPONENT_CUSTOM_ID_DUPLICATED", message_text)


def check_version_2(message: DiscordMessage, everything: list[JSON], limits: DiscordLimits) -> None:
    if message.content or message.embeds:
        text = "The 'content' and 'embeds' fields cannot be used with MessageFlags.IS_COMPONENTS_V2"
        raise invalid_field("content", "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", text)
    if len(everything) > limits.components:
        text = f"The maximum number of components is {limits.components}"
        raise invalid_field("components", "COMPONENT_MAX_TOTAL_COMPONENTS_EXCEEDED", text)
    length = sum(measure_text(text, limits) for text in find_displays(message.components))
    if length > limits.text_displays:
        text = f"Total text of components exceeds {limits.text_displays} characters"
        raise invalid_field("components", "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED", text)


def dump(parts: list[Any] | None) -> list[JSON]:
    """Return parts of a form as JSON."""
    return [part.model_dump(exclude_none=True) for part in parts or []]


def write_form(message: DiscordMessage, form: MessageForm) -> None:
    """Set what the form contains: a field that it lacks stays as it is."""
    given = form.model_fields_set
    if "content" in given:
        message.content = (form.content or "").strip()
    if "embeds" in given:
        message.embeds = dump(form.embeds)
    if "components" in given:
        message.components = dump(form.components)
    if "flags" in given:
        kept = message.flags & ~SETTABLE_FLAGS | message.flags & COMPONENTS_V2
        message.flags = kept | (form.flags or 0)


def find_mentions(
    text: str,
    allowed: AllowedMentions | None,
    users: dict[int, DiscordUser],
    guild: DiscordGuild | None,
) -> Mentions:
    """Return whom a text notifies. Without ``allowed`` that is everybody whom it mentions.

    A mention counts wherever it stands, in code and after a backslash too: what Discord does there
    is not documented.
    """
    ids = [int(number) for number in re.findall(r"<@!?([0-9]{1,20})>", text)]
    roles = [int(number) for number in re.findall(r"<@&([0-9]{1,20})>", text)]
    everyone = bool(guild) and re.search(r"@(?:everyone|here)", text) is not None
    if allowed is not None:
        parsed = allowed.parse or []
        ids = [i for i in ids if "users" in parsed or i in allowed.users]
        roles = [r for r in roles if "roles" in parsed or r in allowed.roles]
        everyone = everyone and "everyone" in parsed
    mentioned = tuple(users[i] for i in dict.fromkeys(ids) if i in users)
    return Mentions(mentioned, tuple(dict.fromkeys(roles)) if guild else (), everyone)


def add_replied_user(
    mentions: Mentions, allowed: AllowedMentions | None, author: DiscordUser
) -> Mentions:
    """Return the mentions of a reply, which notifies the author of what it answers as well."""
    notifies = allowed is None or allowed.replied_user
    if not notifies or author in mentions.users:
        return mentions
    return Mentions((*mentions.users, author), mentions.roles, mentions.everyone)
