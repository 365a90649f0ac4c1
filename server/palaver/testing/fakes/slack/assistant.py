"""Methods of agents and assistants: status, sessions, titles, prompts, and the App Home."""

from typing import Literal

from palaver.testing.fakes.slack.blocks import check_blocks
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import TIER_3, TIER_4
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import Json, Session, ThreadStatus
from palaver.testing.fakes.slack.world import World

MAX_LOADING_MESSAGES = 10
MAX_PROMPTS = 4
MAX_HOME_BLOCKS = 100
MAX_SESSION_TITLE = 200

SessionStatus = Literal["processing", "active", "suspended", "closed"]


class SetStatus(Arguments, kw_only=True):
    channel_id: str
    thread_ts: str
    status: str
    loading_messages: tuple[str, ...] = ()
    username: str = ""
    icon_emoji: str = ""
    icon_url: str = ""


class SetTitle(Arguments, kw_only=True):
    channel_id: str
    thread_ts: str
    title: str


class SetSuggestedPrompts(Arguments, kw_only=True):
    channel_id: str
    prompts: list[dict[str, str]]
    thread_ts: str = ""
    title: str = ""


class SetSessionStatus(Arguments, kw_only=True):
    channel_id: str
    status: SessionStatus
    thread_ts: str = ""
    title: str = ""
    initiator_user_id: str = ""
    username: str = ""
    icon_emoji: str = ""
    icon_url: str = ""


class RenameSession(Arguments, kw_only=True):
    channel_id: str
    title: str
    thread_ts: str = ""


class PublishView(Arguments, kw_only=True):
    user_id: str
    view: Json
    hash: str = ""


def end_status(world: World, channel: str, thread: str) -> None:
    """Remove a thread's status, as a post of the app does."""
    world.statuses.pop((channel, thread), None)


def set_status(call: Call, arguments: SetStatus) -> Json:
    channel = call.channel(arguments.channel_id)
    if len(arguments.loading_messages) > MAX_LOADING_MESSAGES:
        raise SlackError("too_many_loading_messages")
    status = ThreadStatus(
        text=arguments.status,
        loading_messages=arguments.loading_messages,
        set_at=call.world.clock.now(),
    )
    call.world.statuses[channel.id, arguments.thread_ts] = status
    return {}


def set_title(call: Call, arguments: SetTitle) -> Json:
    channel = call.channel(arguments.channel_id)
    call.world.titles[channel.id, arguments.thread_ts] = arguments.title
    return {}


def set_prompts(call: Call, arguments: SetSuggestedPrompts) -> Json:
    channel = call.channel(arguments.channel_id)
    if not arguments.thread_ts and not call.app.is_agent:
        raise SlackError("invalid_thread_ts")
    if len(arguments.prompts) > MAX_PROMPTS:
        raise SlackError("too_many_prompts")
    if any(set(prompt) != {"title", "message"} for prompt in arguments.prompts):
        raise call.violate("each prompt has `title` and `message`, and nothing else")
    call.world.prompts[channel.id, arguments.thread_ts] = arguments.prompts
    return {}


def set_session_status(call: Call, arguments: SetSessionStatus) -> Json:
    channel = call.channel(arguments.channel_id)
    if not call.app.is_agent:
        raise SlackError("feature_disabled")
    if len(arguments.title) > MAX_SESSION_TITLE:
        raise call.violate(f"`title` has more than {MAX_SESSION_TITLE} characters")
    session = set_session(call, channel.id, arguments.thread_ts, arguments.status)
    session.title = session.title or arguments.title
    answer: Json = {
        "status": session.status,
        "agent_status": session.status,
        "title": session.title,
    }
    if "agent_session_stopped" not in call.app.events:
        warning = "missing_agent_session_stopped_event_subscription"
        answer |= {"warning": warning, "response_metadata": {"warnings": [warning]}}
    return answer


def set_session(call: Call, channel: str, thread: str, status: SessionStatus) -> Session:
    session = call.world.sessions.setdefault((channel, thread), Session())
    session.status = status
    return session


def rename_session(call: Call, arguments: RenameSession) -> Json:
    channel = call.channel(arguments.channel_id)
    session = call.world.sessions.get((channel.id, arguments.thread_ts))
    if session is None:
        raise SlackError("not_authorized")
    session.title = arguments.title
    return {"title": session.title}


def publish_view(call: Call, arguments: PublishView) -> Json:
    if arguments.user_id not in call.world.users:
        raise SlackError("user_not_found")
    if not call.app.has_home_tab:
        raise SlackError("not_enabled")
    view = arguments.view
    if view.get("type") != "home":
        raise SlackError("invalid_arguments")
    check_blocks(view.get("blocks", ()), MAX_HOME_BLOCKS)
    before = call.world.homes.get(arguments.user_id)
    if arguments.hash and (before is None or before["hash"] != arguments.hash):
        raise SlackError("hash_conflict")
    stored = view | {
        "id": before["id"] if before else call.world.new_id("V"),
        "hash": call.world.new_ts(),
        "team_id": call.world.users[arguments.user_id].team,
        "app_id": call.app.id,
    }
    call.world.homes[arguments.user_id] = stored
    return {"view": stored}


METHODS = (
    Method(
        name="assistant.threads.setStatus",
        arguments=SetStatus,
        handler=set_status,
        scopes=("assistant:write",),
        per_minute=600,
    ),
    Method(
        name="assistant.threads.setTitle",
        arguments=SetTitle,
        handler=set_title,
        scopes=("assistant:write",),
        per_minute=TIER_3,
    ),
    Method(
        name="assistant.threads.setSuggestedPrompts",
        arguments=SetSuggestedPrompts,
        handler=set_prompts,
        scopes=("assistant:write",),
        per_minute=TIER_3,
    ),
    Method(
        name="agents.sessions.setStatus",
        arguments=SetSessionStatus,
        handler=set_session_status,
        scopes=("chat:write",),
        per_minute=TIER_3,
    ),
    Method(
        name="agents.sessions.rename",
        arguments=RenameSession,
        handler=rename_session,
        scopes=("chat:write",),
        per_minute=TIER_3,
    ),
    Method(name="views.publish", arguments=PublishView, handler=publish_view, per_minute=TIER_4),
)
