"""Methods of native streaming: ``chat.startStream``, ``appendStream``, ``stopStream``."""

from collections.abc import Sequence
from typing import Literal

from palaver.testing.fakes.slack.assistant import SessionStatus, end_status, set_session
from palaver.testing.fakes.slack.blocks import check_blocks, check_metadata
from palaver.testing.fakes.slack.chat import MAX_MARKDOWN_TEXT, check_customizing, check_thread
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import TIER_2, TIER_4
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import Channel, Json, Message, MessageStream, StreamMode

_CHUNK_FIELDS = {
    "markdown_text": {"text"},
    "task_update": {"id", "title", "status", "details", "output", "sources"},
    "plan_update": {"title"},
    "blocks": {"blocks"},
}
_REQUIRED = {
    "markdown_text": {"text"},
    "task_update": {"id", "title", "status"},
    "plan_update": {"title"},
    "blocks": {"blocks"},
}
_TASK_STATES = ("pending", "in_progress", "complete", "error")
MAX_TITLE = 256


class StreamContent(Arguments, kw_only=True):
    channel: str
    markdown_text: str = ""
    chunks: list[Json] | None = None


class StartStream(StreamContent, kw_only=True):
    thread_ts: str | None = None
    recipient_team_id: str = ""
    recipient_user_id: str = ""
    task_display_mode: Literal["timeline", "plan"] = "timeline"
    username: str = ""
    icon_emoji: str = ""
    icon_url: str = ""


class AppendStream(StreamContent, kw_only=True):
    ts: str


class StopStream(StreamContent, kw_only=True):
    ts: str
    blocks: list[Json] | None = None
    metadata: Json | None = None
    session_status: SessionStatus | None = None


def start_stream(call: Call, arguments: StartStream) -> Json:
    channel = call.open_channel(arguments.channel)
    check_customizing(call, arguments)
    check_recipients(call, channel, arguments)
    thread = check_thread(call, channel, arguments.thread_ts)
    if not thread and channel.kind == "im":
        raise SlackError("invalid_thread_ts")
    mode = content_mode(arguments)
    message = Message(
        ts=call.world.new_ts(),
        channel=channel.id,
        user=call.token.user,
        app=call.token.app,
        bot=call.token.bot,
        is_markdown=True,
        thread_ts=thread,
        username=arguments.username,
        stream=MessageStream(
            mode=mode,
            started_at=call.world.clock.now(),
            recipient=arguments.recipient_user_id,
        ),
    )
    add_content(message, arguments)
    channel.add(message)
    end_status(call.world, channel.id, thread)
    call.services.events.post(message)
    return {"channel": channel.id, "ts": message.ts}


def check_recipients(call: Call, channel: Channel, arguments: StartStream) -> None:
    """Outside of direct messages, both the recipient and their workspace are needed."""
    rule = call.services.rules.direct_recipients if channel.kind == "im" else "required"
    given = arguments.recipient_user_id, arguments.recipient_team_id
    if rule == "required" and not given[1]:
        raise SlackError("missing_recipient_team_id")
    if rule == "required" and not given[0]:
        raise SlackError("missing_recipient_user_id")
    if rule == "refused" and any(given):
        raise SlackError("invalid_arguments")
    if given[0] and given[0] not in channel.members:
        raise SlackError("user_not_found")
    if given[1] and given[1] != channel.team:
        raise SlackError("team_not_found")


def content_mode(arguments: StreamContent) -> StreamMode:
    """Return how text is sent: both ways at once are refused."""
    if arguments.markdown_text and arguments.chunks:
        raise SlackError("cannot_provide_both_markdown_text_and_chunks")
    if arguments.chunks:
        return "chunks"
    return "markdown_text" if arguments.markdown_text else ""


def append_stream(call: Call, arguments: AppendStream) -> Json:
    message = live_stream(call, arguments)
    if not content_mode(arguments):
        raise SlackError("no_text")
    add_content(message, arguments)
    return {"channel": message.channel, "ts": message.ts}


def live_stream(call: Call, arguments: AppendStream | StopStream) -> Message:
    """Return the app's own live stream, whose mode is that of the content."""
    channel = call.open_channel(arguments.channel)
    message = call.own_message(channel, arguments.ts, "message_not_owned_by_app")
    stream = message.stream
    if stream is not None and stream.state == "stopped_by_user":
        raise SlackError("stopped_by_user")
    if stream is None or not stream.is_live(call.world.clock.now()):
        raise SlackError("message_not_in_streaming_state")
    mode = content_mode(arguments)
    if mode and stream.mode and mode != stream.mode:
        raise SlackError("streaming_mode_mismatch")
    stream.mode = stream.mode or mode
    return message


def add_content(message: Message, arguments: StreamContent) -> None:
    """Append text, tasks and blocks to a stream, or nothing of them when one is refused."""
    if len(arguments.markdown_text) > MAX_MARKDOWN_TEXT:
        raise SlackError("msg_too_long")
    check_chunks(arguments.chunks or ())
    message.text += arguments.markdown_text
    for chunk in arguments.chunks or ():
        _add_chunk(message, chunk)


def check_chunks(chunks: Sequence[Json]) -> None:
    for chunk in chunks:
        kind = chunk.get("type")
        fields = set(chunk) - {"type"}
        if kind not in _CHUNK_FIELDS or fields - _CHUNK_FIELDS[kind] or _REQUIRED[kind] - fields:
            raise SlackError("invalid_chunks")
        if kind == "task_update" and chunk["status"] not in _TASK_STATES:
            raise SlackError("invalid_chunks")
        if len(str(chunk.get("title", ""))) > MAX_TITLE:
            raise SlackError("msg_too_long")
        if len(str(chunk.get("text", ""))) > MAX_MARKDOWN_TEXT:
            raise SlackError("msg_too_long")
        check_blocks(chunk.get("blocks", ()))


def _add_chunk(message: Message, chunk: Json) -> None:
    stream = message.stream
    if stream is None:
        return
    match chunk["type"]:
        case "markdown_text":
            message.text += chunk["text"]
        case "plan_update":
            stream.plan_title = chunk["title"]
        case "blocks":
            message.blocks += chunk["blocks"]
        case _:
            _update_task(stream.tasks, chunk)


def _update_task(tasks: dict[str, Json], chunk: Json) -> None:
    """Replace title, status and output of a task; details are appended."""
    before = tasks.get(chunk["id"], {})
    details = before.get("details", "") + chunk.get("details", "")
    tasks[chunk["id"]] = before | chunk | {"details": details}


def stop_stream(call: Call, arguments: StopStream) -> Json:
    message = live_stream(call, arguments)
    check_blocks(arguments.blocks or ())
    check_metadata(arguments.metadata)
    before = call.services.payloads.message(message)
    add_content(message, arguments)
    if message.stream is not None:
        message.stream.state = "stopped"
    message.blocks += arguments.blocks or ()
    message.metadata = arguments.metadata or message.metadata
    if arguments.session_status:
        set_session(call, message.channel, message.thread_ts, arguments.session_status)
    call.services.events.change(message, before)
    payload = call.services.payloads.message(message, with_metadata=True)
    return {"channel": message.channel, "ts": message.ts, "message": payload}


METHODS = (
    Method(
        name="chat.startStream",
        arguments=StartStream,
        handler=start_stream,
        scopes=("chat:write",),
        per_minute=TIER_2,
    ),
    Method(
        name="chat.appendStream",
        arguments=AppendStream,
        handler=append_stream,
        scopes=("chat:write",),
        per_minute=TIER_4,
    ),
    Method(
        name="chat.stopStream",
        arguments=StopStream,
        handler=stop_stream,
        scopes=("chat:write",),
        per_minute=TIER_2,
    ),
)
