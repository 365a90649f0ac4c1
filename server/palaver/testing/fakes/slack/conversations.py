"""Methods ``conversations.*``, ``users.*``, ``auth.test``: reading what a workspace contains."""

from palaver.testing.fakes.slack.chat import open_direct
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import LIMITED_MESSAGES, TIER_4, RateLimit
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import Channel, Json, Message, User

_READ = {"channel": "channels:read", "group": "groups:read", "im": "im:read", "mpim": "mpim:read"}
_HISTORY = {
    "channel": "channels:history",
    "group": "groups:history",
    "im": "im:history",
    "mpim": "mpim:history",
}
MAX_MESSAGES = 999
"""In one answer."""


class History(Arguments, kw_only=True):
    channel: str
    cursor: str = ""
    inclusive: bool = False
    include_all_metadata: bool = False
    latest: str = ""
    oldest: str = ""
    limit: int = 100


class Replies(History, kw_only=True):
    ts: str
    limit: int = 1000


class ChannelInfo(Arguments, kw_only=True):
    channel: str
    include_locale: bool = False
    include_num_members: bool = False


class OpenConversation(Arguments, kw_only=True):
    channel: str = ""
    users: str = ""
    return_im: bool = False


class UserInfo(Arguments, kw_only=True):
    user: str
    include_locale: bool = False


class BotInfo(Arguments, kw_only=True):
    bot: str = ""


def check_scope(call: Call, channel: Channel, scopes: dict[str, str]) -> None:
    """Raise `SlackError` when the token lacks the scope for a channel of this kind."""
    needed = scopes[channel.kind]
    if needed not in call.token.scopes:
        provided = ",".join(sorted(call.token.scopes))
        raise SlackError("missing_scope", needed=needed, provided=provided)


def history(call: Call, arguments: History) -> Json:
    channel = readable_channel(call, arguments)
    messages = [message for message in channel.main() if not message.ephemeral_to]
    return page(call, arguments, list(reversed(messages)))


def replies(call: Call, arguments: Replies) -> Json:
    channel = readable_channel(call, arguments)
    message = channel.messages.get(arguments.ts)
    root = (message.thread_ts or message.ts) if message else arguments.ts
    messages = [message for message in channel.thread(root) if not message.ephemeral_to]
    if not messages:
        raise SlackError("thread_not_found")
    return page(call, arguments, messages)


def readable_channel(call: Call, arguments: History) -> Channel:
    channel = call.channel(arguments.channel)
    if call.token.user not in channel.members:
        raise SlackError("not_in_channel")
    check_scope(call, channel, _HISTORY)
    if call.app.is_limited:
        call.services.limits.take(RateLimit((call.method, call.app.id, "limited"), 1))
    return channel


def page(call: Call, arguments: History, messages: list[Message]) -> Json:
    """Return the part of the messages, which are in the order of the answer, that was asked for."""
    chosen = [message for message in messages if _is_between(arguments, message.ts)]
    size = min(arguments.limit, LIMITED_MESSAGES if call.app.is_limited else MAX_MESSAGES)
    start = _start(arguments.cursor)
    part = chosen[start : start + size]
    has_more = start + size < len(chosen)
    answer: Json = {
        "messages": [
            call.services.payloads.message(each, with_metadata=arguments.include_all_metadata)
            for each in part
        ],
        "has_more": has_more,
    }
    if has_more:
        answer["response_metadata"] = {"next_cursor": f"start:{start + size}"}
    return answer


def _start(cursor: str) -> int:
    name, _, number = cursor.partition(":")
    if cursor and (name != "start" or not number.isdecimal()):
        raise SlackError("invalid_cursor")
    return int(number or 0)


def _is_between(arguments: History, ts: str) -> bool:
    if ts in (arguments.oldest, arguments.latest):
        return arguments.inclusive
    after = not arguments.oldest or float(ts) > float(arguments.oldest)
    return after and (not arguments.latest or float(ts) < float(arguments.latest))


def channel_info(call: Call, arguments: ChannelInfo) -> Json:
    channel = call.channel(arguments.channel)
    check_scope(call, channel, _READ)
    payload = call.services.payloads.channel(channel)
    is_member = call.token.user in channel.members
    return {"channel": payload | {"is_member": is_member, "num_members": len(channel.members)}}


def open_conversation(call: Call, arguments: OpenConversation) -> Json:
    if arguments.channel:
        channel = call.channel(arguments.channel)
    elif arguments.users in call.world.users:
        channel = open_direct(call, arguments.users)
    else:
        raise SlackError("user_not_found")
    payload = call.services.payloads.channel(channel)
    return {"channel": payload if arguments.return_im else {"id": channel.id}}


def user_info(call: Call, arguments: UserInfo) -> Json:
    return {"user": call.services.payloads.user(find_user(call, arguments.user))}


def find_user(call: Call, id: str) -> User:
    user = call.world.users.get(id)
    if user is None:
        raise SlackError("user_not_found")
    return user


def bot_info(call: Call, arguments: BotInfo) -> Json:
    for user in call.world.users.values():
        if user.bot and user.bot == (arguments.bot or call.token.bot):
            bot = call.services.payloads.bot(call.world.apps[user.app], user.bot)
            return {"bot": bot | {"user_id": user.id}}
    raise SlackError("bot_not_found")


def auth_test(call: Call, arguments: Arguments) -> Json:
    token, installation = call.token, call.installation
    workspace = call.world.workspaces.get(token.team)
    answer = {
        "url": f"{call.services.url}/",
        "team": workspace.name if workspace else "",
        "user": call.world.users[token.user].name,
        "team_id": token.team or token.enterprise,
        "user_id": token.user,
        "bot_id": token.bot,
        "is_enterprise_install": installation.is_org_wide,
    }
    return answer | ({"enterprise_id": token.enterprise} if token.enterprise else {})


METHODS = (
    Method(name="conversations.history", arguments=History, handler=history),
    Method(name="conversations.replies", arguments=Replies, handler=replies),
    Method(name="conversations.info", arguments=ChannelInfo, handler=channel_info),
    Method(
        name="conversations.open",
        arguments=OpenConversation,
        handler=open_conversation,
        scopes=("im:write",),
    ),
    Method(
        name="users.info",
        arguments=UserInfo,
        handler=user_info,
        scopes=("users:read",),
        per_minute=TIER_4,
    ),
    Method(name="bots.info", arguments=BotInfo, handler=bot_info, scopes=("users:read",)),
    Method(name="auth.test", arguments=Arguments, handler=auth_test, per_minute=600),
)
