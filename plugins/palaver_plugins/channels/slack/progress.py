"""Progress: what Slack shows while nothing of a reply is posted, and Slack's own stop button.

Both belong to threads of apps that are agents. The *session* of a thread is ``processing`` while a
turn runs, and the app has to set it back; a *status* says what the bot does.
"""

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable

from slack_sdk.web.async_slack_response import AsyncSlackResponse

from palaver.platforms import TurnReply
from palaver_plugins.channels.slack.addresses import Thread, user_of
from palaver_plugins.channels.slack.api import Installations, RefusedCall, call
from palaver_plugins.channels.slack.blocks import shorten

STATUS_SECONDS = 90.0
"""Seconds after which a status is set again: Slack removes it after 120."""
MAX_TITLE = 200
MAX_TOOL = 40
NOT_SUBSCRIBED = "missing_agent_session_stopped_event_subscription"
"""Slack's warning that it shows no stop button."""
NO_AGENT = frozenset({"feature_disabled", "missing_scope", "unknown_method", "access_denied"})
"""Errors of a workspace where the app is no agent."""
NO_AGENT_SECONDS = 600.0
"""Seconds until the next attempt there."""
MAX_THREADS = 10_000


@dataclasses.dataclass(slots=True)
class _Shown:
    """What a thread shows of a turn. ``status`` is empty when Slack has removed it."""

    turn: str
    has_stop: bool = False
    is_processing: bool = True
    status: str = ""
    status_at: float = 0.0


class Progress:
    """``is_agent`` as the setting ``agent``; ``clock``: in seconds."""

    def __init__(
        self, installations: Installations, *, is_agent: bool, clock: Callable[[], float]
    ) -> None:
        self._installations = installations
        self._is_agent = is_agent
        self._clock = clock
        self._shown: OrderedDict[Thread, _Shown] = OrderedDict()
        self._retry_at: dict[str, float] = {}
        """When to ask again in workspaces where the app is no agent."""

    def has_stop(self, thread: Thread, reply: TurnReply) -> bool:
        """Return whether Slack shows a button that stops the turn, see `begin`."""
        shown = self._shown.get(thread)
        return shown is not None and shown.turn == reply.turn and shown.has_stop

    async def begin(self, thread: Thread, reply: TurnReply) -> bool:
        """Set the thread's session to ``processing``. Return whether Slack shows a button that
        stops the turn. Raises `RateLimited` and `Unreachable`."""
        shown = self._shown.get(thread)
        if shown is None or shown.turn != reply.turn:
            if not self._may_have_session(thread):
                return False
            shown = self._remember(thread, _Shown(reply.turn))
            shown.has_stop = await self._set_session(thread, reply, "processing")
        return shown.has_stop

    async def show(self, thread: Thread, reply: TurnReply) -> None:
        """Show what the bot does. Raises `PostingError`."""
        if not await self.begin(thread, reply):
            return
        shown, now = self._shown[thread], self._clock()
        tool = shorten(reply.status, MAX_TOOL)
        status = f"is using {tool}…" if tool else "is thinking…"
        if status != shown.status or now > shown.status_at + STATUS_SECONDS:
            shown.status, shown.status_at = status, now
            await self._set_status(thread, status)

    def posted(self, thread: Thread) -> None:
        """Note that something is posted, which removes the status."""
        if shown := self._shown.get(thread):
            shown.status = ""

    def ended(self, thread: Thread, reply: TurnReply) -> None:
        """Note that the session was set to ``active`` by another call."""
        self._remember(thread, _Shown(reply.turn, is_processing=False))

    async def end(self, thread: Thread, reply: TurnReply) -> None:
        """Take back what is shown; this process need not have shown it. Raises `RateLimited` and
        `Unreachable`."""
        shown = self._shown.get(thread) or _Shown(reply.turn)
        if shown.status:
            await self._set_status(thread, "")
            shown.status = ""
        if self._may_have_session(thread) and (shown.is_processing or shown.turn != reply.turn):
            await self._set_session(thread, reply, "active")
        self._shown.pop(thread, None)

    def _may_have_session(self, thread: Thread) -> bool:
        retry_at = self._retry_at.get(thread.team)
        is_known = retry_at is None or self._clock() > retry_at
        return self._is_agent and bool(thread.root) and is_known

    async def _set_session(self, thread: Thread, reply: TurnReply, status: str) -> bool:
        """Return whether Slack shows its button while the session is ``processing``."""
        client = await self._installations.client(thread.team)
        try:
            answer = await call(
                client.agents_sessions_setStatus(
                    channel_id=thread.channel,
                    thread_ts=thread.root,
                    status=status,
                    title=shorten(" ".join(reply.request.split()), MAX_TITLE) or None,
                    initiator_user_id=user_of(reply.person)[1] if reply.person else None,
                )
            )
        except RefusedCall as error:
            if error.code in NO_AGENT:
                self._retry_at[thread.team] = self._clock() + NO_AGENT_SECONDS
            return False
        return NOT_SUBSCRIBED not in _warnings(answer)

    async def _set_status(self, thread: Thread, status: str) -> None:
        client = await self._installations.client(thread.team)
        with contextlib.suppress(RefusedCall):  # a reply is posted without it
            await call(
                client.assistant_threads_setStatus(
                    channel_id=thread.channel, thread_ts=thread.root, status=status
                )
            )

    def _remember(self, thread: Thread, shown: _Shown) -> _Shown:
        self._shown[thread] = shown
        while len(self._shown) > MAX_THREADS:
            self._shown.popitem(last=False)
        return shown


def _warnings(answer: AsyncSlackResponse) -> list[str]:
    more = answer.get("response_metadata") or {}
    return [*(more.get("warnings") or ()), answer.get("warning") or ""]
