"""Methods ``chat.*``: posting, updating and deleting messages."""

import re
from typing import Protocol

from palaver.testing.fakes.slack.assistant import end_status
from palaver.testing.fakes.slack.blocks import check_blocks, check_metadata
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import POSTS_PER_MINUTE, TIER_3, TIER_4, RateLimit
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import Channel, Json, Message
from palaver.testing.fakes.slack.text import has_link

MAX_TEXT = 40_000
"""Characters after which Slack cuts a new message."""
MAX_UPDATE_TEXT = 4_000
MAX_MARKDOWN_TEXT = 12_000
SECONDS_BETWEEN_POSTS = 1.0
"""In one channel."""
_NAMES = re.compile(r"@(here|channel|everyone)\b")


class Content(Arguments, kw_only=True):
    """What a message consists of."""

    channel: str
    text: str = ""
    markdown_text: str = ""
    blocks: list[Json] | None = None
    attachments: list[Json] | None = None
    metadata: Json | None = None
    parse: str = ""
    link_names: bool = False
    as_user: bool = False


class PostMessage(Content, kw_only=True):
    thread_ts: str | None = None
    reply_broadcast: bool = False
    unfurl_links: bool = True
    unfurl_media: bool = True
    mrkdwn: bool = True
    username: str = ""
    icon_emoji: str = ""
    icon_url: str = ""
    client_msg_id: str = ""


class PostEphemeral(Content, kw_only=True):
    user: str
    thread_ts: str | None = None
    username: str = ""
    icon_emoji: str = ""
    icon_url: str = ""


class UpdateMessage(Content, kw_only=True):
    ts: str
    reply_broadcast: bool = False
    file_ids: str = ""


class DeleteMessage(Arguments, kw_only=True):
    channel: str
    ts: str
    as_user: bool = False


def check_content(call: Call, content: Content) -> None:
    """Raise `SlackError` for content that Slack refuses."""
    if content.markdown_text and (content.text or content.blocks):
        raise SlackError("markdown_text_conflict")
    if len(content.markdown_text) > MAX_MARKDOWN_TEXT:
        raise SlackError("msg_too_long")
    if not (content.text.strip() or content.markdown_text or content.blocks or content.attachments):
        raise SlackError("no_text")
    check_blocks(content.blocks or [])
    check_metadata(content.metadata)


def check_thread(call: Call, channel: Channel, thread_ts: str | None) -> str:
    """Return the ts of the thread's first message. Raises `SlackError` for a ts that has no
    thread."""
    if thread_ts is None:
        return ""
    if not thread_ts:
        raise call.violate("`thread_ts` is empty: leave it out, or send the thread's ts")
    root = channel.messages.get(thread_ts)
    if root is not None and root.thread_ts:
        raise call.violate(f"`thread_ts` {thread_ts} is a reply: send that of its parent")
    if (root is None and thread_ts not in channel.threads) or (root and root.ephemeral_to):
        raise SlackError("cannot_reply_to_message")
    return thread_ts


class Customized(Protocol):
    """What posts under another name or picture than the app's."""

    username: str
    icon_emoji: str
    icon_url: str


def check_customizing(call: Call, content: Customized) -> None:
    customizes = content.username or content.icon_emoji or content.icon_url
    if customizes and "chat:write.customize" not in call.token.scopes:
        raise SlackError("missing_scope", needed="chat:write.customize")


def take_post(call: Call, channel: Channel) -> None:
    """Count a post. Raises `RateLimitExceeded`."""
    call.services.limits.take(
        RateLimit(("posts", call.token.app, channel.id), 1, SECONDS_BETWEEN_POSTS),
        RateLimit(("posts", call.token.app, channel.team), POSTS_PER_MINUTE),
    )


def new_message(call: Call, channel: Channel, content: Content, thread: str) -> Message:
    return Message(
        ts=call.world.new_ts(),
        channel=channel.id,
        user=call.token.user,
        app=call.token.app,
        bot=call.token.bot,
        text=_linked(content)[:MAX_TEXT],
        is_markdown=bool(content.markdown_text),
        thread_ts=thread,
        blocks=list(content.blocks or ()),
        attachments=list(content.attachments or ()),
        metadata=content.metadata,
    )


def _linked(content: Content) -> str:
    """Return the text. Slack makes mentions of names in it when the app asks for that."""
    if content.link_names or content.parse == "full":
        return _NAMES.sub(r"<!\1>", content.text)
    return content.markdown_text or content.text


def post_message(call: Call, content: PostMessage) -> Json:
    channel = call.open_channel(_channel_id(call, content.channel))
    check_content(call, content)
    check_customizing(call, content)
    thread = check_thread(call, channel, content.thread_ts)
    take_post(call, channel)
    message = new_message(call, channel, content, thread)
    message.username = content.username
    message.is_broadcast = content.reply_broadcast and bool(thread)
    message.subtype = "thread_broadcast" if message.is_broadcast else ""
    channel.add(message)
    end_status(call.world, channel.id, thread)
    call.services.events.post(message)
    if has_link(message.text) and (content.unfurl_links or content.unfurl_media):
        unfurl(call, message)
    return posted(call, message, cut=len(content.text) > MAX_TEXT)


def _channel_id(call: Call, id: str) -> str:
    """Return the id of a channel, also for that of a user, whose direct message is meant."""
    if id not in call.world.users:
        return id
    return open_direct(call, id).id


def open_direct(call: Call, user: str) -> Channel:
    """Return the channel for direct messages between the app and a user."""
    members = {user, call.token.user}
    for channel in call.world.channels.values():
        if channel.kind == "im" and channel.members == members:
            return channel
    team = call.token.team or call.world.users[user].team
    channel = Channel(id=call.world.new_id("D"), name=user, kind="im", team=team, members=members)
    call.world.channels[channel.id] = channel
    return channel


def unfurl(call: Call, message: Message) -> None:
    """Attach a preview of a link, which changes the message."""
    before = call.services.payloads.message(message)
    message.add_preview()
    call.services.events.change(message, before)


def posted(call: Call, message: Message, *, cut: bool = False) -> Json:
    payload = call.services.payloads.message(message, with_metadata=True)
    answer = {"channel": message.channel, "ts": message.ts, "message": payload}
    return answer | ({"warning": "message_truncated"} if cut else {})


def post_ephemeral(call: Call, content: PostEphemeral) -> Json:
    channel = call.open_channel(content.channel)
    check_content(call, content)
    check_customizing(call, content)
    if content.user not in channel.members:
        raise SlackError("user_not_in_channel")
    thread = check_thread(call, channel, content.thread_ts)
    message = new_message(call, channel, content, thread)
    message.ephemeral_to = content.user
    channel.add(message)
    return {"message_ts": message.ts}


def update_message(call: Call, content: UpdateMessage) -> Json:
    channel = call.open_channel(content.channel)
    message = call.own_message(channel, content.ts, "cant_update_message")
    if message.is_streaming(call.world.clock.now()):
        raise SlackError("streaming_state_conflict")
    if message.stream is not None and call.services.rules.refuses_update_of_stream:
        raise SlackError("block_mismatch")
    check_content(call, content)
    if len(content.text) > MAX_UPDATE_TEXT:
        raise SlackError("msg_too_long")
    before = call.services.payloads.message(message)
    replace_content(call, message, content)
    call.services.events.change(message, before)
    return {"channel": channel.id, "ts": message.ts, "text": message.text} | {
        "message": call.services.payloads.message(message, with_metadata=True)
    }


def replace_content(call: Call, message: Message, content: UpdateMessage) -> None:
    """Replace what is given. Without blocks the old ones go; attachments and metadata stay."""
    message.text = content.markdown_text or content.text
    message.is_markdown = bool(content.markdown_text)
    message.blocks = list(content.blocks or ())
    if content.attachments is not None:
        message.attachments = list(content.attachments)
    if content.metadata is not None:
        message.metadata = content.metadata or None
    message.edited_ts = call.world.new_ts()


def delete_message(call: Call, arguments: DeleteMessage) -> Json:
    channel = call.open_channel(arguments.channel)
    message = call.own_message(channel, arguments.ts, "cant_delete_message")
    call.services.events.delete(message)
    return {"channel": channel.id, "ts": message.ts}


METHODS = (
    Method(
        name="chat.postMessage",
        arguments=PostMessage,
        handler=post_message,
        scopes=("chat:write",),
        per_minute=POSTS_PER_MINUTE,
    ),
    Method(
        name="chat.postEphemeral",
        arguments=PostEphemeral,
        handler=post_ephemeral,
        scopes=("chat:write",),
        per_minute=TIER_4,
    ),
    Method(
        name="chat.update",
        arguments=UpdateMessage,
        handler=update_message,
        scopes=("chat:write",),
        per_minute=TIER_3,
    ),
    Method(
        name="chat.delete",
        arguments=DeleteMessage,
        handler=delete_message,
        scopes=("chat:write",),
        per_minute=TIER_3,
    ),
)
