"""AguiChannel: runs of AG-UI's clients, as streams of events."""

from collections.abc import Iterable, Sequence

from aiohttp import web

from palaver import (
    Conflict,
    Conversation,
    ConversationAccess,
    ConversationService,
    PalaverError,
    SentMessage,
    described,
    encode,
    follow_pending_as,
    follow_reply_as,
    requires,
)
from palaver_plugins.channels.agui.client_tools import bring_results, find_results
from palaver_plugins.channels.agui.operations import RUN, STOP, Stopped
from palaver_plugins.channels.agui.reply import AguiReply
from palaver_plugins.channels.agui.run_events import RunEvents, known_messages
from palaver_plugins.channels.agui.run_input import (
    RunInput,
    answer_message,
    conversation_of,
    read_run,
    read_stop,
    results_message,
    user_message,
)
from palaver_plugins.channels.agui.run_stream import RunStream
from palaver_plugins.channels.event_stream import COMMENT_INTERVAL
from palaver_plugins.channels.questions import answer_to, find_question


class AguiChannel:
    """The channel, see `palaver.Channel`."""

    def __init__(self, comment_interval: float = COMMENT_INTERVAL) -> None:
        self._comment_interval = comment_interval
        self._service: ConversationService

    async def start(self, service: ConversationService) -> None:
        self._service = service

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/agui", self._run), web.post("/agui/stop", self._stop))

    @requires("talk")
    @described(STOP)
    async def _stop(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        stop = read_stop(await request.read())
        person = principal.resolve_person(request.query.get("person"))
        conversation = conversation_of(principal.tenant, person, stop.thread_id)
        access = ConversationAccess(self._service, conversation, person)
        state, turn = await access.stop(stop.message_id)
        return web.Response(
            body=encode(Stopped(state=state, message_id=turn)),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    @requires("talk")
    @described(RUN)
    async def _run(self, request: web.Request) -> web.StreamResponse:
        """Run until the reply is complete. The turn goes on when the client disconnects."""
        principal = self._service.authenticate(request)
        run = read_run(await request.read())
        person = principal.resolve_person(request.query.get("person"))
        conversation = conversation_of(principal.tenant, person, run.thread_id)
        stream = RunStream(request, RunEvents(run), self._comment_interval)
        try:
            if run.resume:
                await self._resume(stream, conversation, person, run)
            elif results := find_results(run.messages):
                await self._continue(stream, conversation, person, run, results)
            elif run.user_message is None:
                await self._restore(stream, conversation, person)
            else:
                await self._answer(stream, conversation, person, run)
        except PalaverError as error:
            if not stream.has_begun:
                raise
            await stream.fail(error)
        except ConnectionError:
            pass  # the client has disconnected
        return stream.response

    async def _answer(
        self, stream: RunStream, conversation: Conversation, person: str, run: RunInput
    ) -> None:
        """Answer the newest message of the user. One whose turn has failed is tried again."""
        for retry in (False, True):
            message = user_message(conversation, person, run, retry=retry)
            async with follow_reply_as(AguiReply, self._service, message) as reply:
                if not retry and reply.receipt.duplicate and await _has_failed(reply):
                    continue
                await stream.follow(reply)
                return

    async def _continue(
        self,
        stream: RunStream,
        conversation: Conversation,
        person: str,
        run: RunInput,
        results: Sequence[SentMessage],
    ) -> None:
        """Bring the results of the client's tools. Raises `InvalidInput` and `Conflict`."""
        message = results_message(conversation, person, run, results)
        message = await bring_results(self._service, message, results)
        async with follow_reply_as(AguiReply, self._service, message) as reply:
            await stream.follow(reply)

    async def _resume(
        self, stream: RunStream, conversation: Conversation, person: str, run: RunInput
    ) -> None:
        """Answer the question of an interrupt. Raises `InvalidInput` and `Conflict`."""
        entries = run.resume or []
        if len(entries) > 1:
            raise Conflict("resume: there is one open interrupt at most")
        (entry,) = entries
        question = await find_question(self._service, conversation, entry.interrupt_id)
        answer = entry.read_answer(question)
        if not answer:
            await stream.send_all(stream.events.abandoned())
            return
        message = answer_message(conversation, person, run, entry.interrupt_id, answer)
        message = await answer_to(self._service, message, entry.interrupt_id)
        async with follow_reply_as(AguiReply, self._service, message) as reply:
            await stream.follow(reply)

    async def _restore(self, stream: RunStream, conversation: Conversation, person: str) -> None:
        """Send the messages of a thread to a client that has none, and the reply that is due."""
        access = ConversationAccess(self._service, conversation, person)
        snapshot = await access.snapshot()
        stream.events.messages = known_messages(snapshot)
        if not snapshot.pending:
            await stream.send_all(stream.events.restored(snapshot.history))
            return
        async with follow_pending_as(
            AguiReply, self._service, conversation, snapshot.pending[-1], person=person
        ) as reply:
            await stream.follow(reply)


async def _has_failed(reply: AguiReply) -> bool:
    return reply.is_finished and (await reply.wait()).outcome == "failed"
