"""TaskReader: tasks as the ledger has them.

A task is a turn and, when that ended with a question, the next turn of the conversation, which
answers it, and so on.
"""

import dataclasses
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from palaver import (
    Attachment,
    Citation,
    Conversation,
    ConversationAccess,
    ConversationFilter,
    ConversationService,
    HistoryEntry,
    Outcome,
    PendingTurn,
    Question,
)
from palaver_plugins.channels.a2a.contexts import CHANNEL, Caller, TaskName, context_of
from palaver_plugins.channels.a2a.errors import TaskNotFound
from palaver_plugins.channels.a2a.shapes import (
    Artifact,
    Json,
    Part,
    ProtocolMessage,
    Role,
    Task,
    TaskState,
    TaskStatus,
)

PAGE_ENTRIES = 100
HISTORY_PAGES = 100
"""Pages of a conversation's history that are searched for a task."""
MAX_CONVERSATIONS = 200
"""Newest conversations of a person whose tasks are listed."""
_STATES: dict[Outcome, TaskState] = {
    "done": "TASK_STATE_COMPLETED",
    "asked": "TASK_STATE_INPUT_REQUIRED",
    "stopped": "TASK_STATE_CANCELED",
    "failed": "TASK_STATE_FAILED",
}


@dataclasses.dataclass(slots=True)
class TurnView:
    """A turn of a conversation: what people wrote, and the reply or that it is due."""

    turn: str
    requests: list[str]
    reply: HistoryEntry | None = None
    pending: PendingTurn | None = None

    @property
    def has_asked(self) -> bool:
        return self.reply is not None and self.reply.outcome == "asked"

    @property
    def question(self) -> Question | None:
        return (self.reply.question or None) if self.reply else None

    @property
    def state(self) -> TaskState:
        if self.pending is not None:
            return "TASK_STATE_WORKING" if self.pending.running else "TASK_STATE_SUBMITTED"
        return _STATES[(self.reply.outcome if self.reply else None) or "done"]

    @property
    def at(self) -> float:
        if self.reply is not None:
            return self.reply.at
        return self.pending.at if self.pending else 0.0

    @property
    def text(self) -> str:
        if self.reply is not None:
            return self.reply.text
        return self.pending.reply if self.pending else ""


class TaskView:
    """A task as it is now."""

    def __init__(self, context_id: str, turns: Sequence[TurnView]) -> None:
        self.name = TaskName(context_id, turns[0].turn)
        self.turns = turns

    @property
    def newest(self) -> TurnView:
        """Return the turn whose state is the task's."""
        return self.turns[-1]

    @property
    def state(self) -> TaskState:
        return self.newest.state

    def shape(self, *, history_length: int | None = None, has_artifacts: bool = True) -> Task:
        """Return the task for a client, with the newest ``history_length`` messages; None: all."""
        history = [message for turn in self.turns for message in self._messages(turn)]
        if history_length is not None:
            history = history[len(history) - min(history_length, len(history)) :]
        artifacts = (artifact_of(turn) for turn in self.turns) if has_artifacts else ()
        return Task(
            id=str(self.name),
            context_id=self.name.context_id,
            status=self.status,
            artifacts=[artifact for artifact in artifacts if artifact is not None],
            history=history,
        )

    @property
    def status(self) -> TaskStatus:
        return TaskStatus(
            state=self.state, message=self._status_message(), timestamp=_time(self.newest.at)
        )

    def _status_message(self) -> ProtocolMessage | None:
        reply = self.newest.reply
        if reply is None:
            return None
        if self.newest.has_asked and reply.question:
            parts = [Part(text=reply.question.text), *_choices(reply.question)]
            return self._message(f"{reply.turn}.question", "ROLE_AGENT", parts)
        if reply.problem:
            text = reply.problem.message
            return self._message(f"{reply.turn}.problem", "ROLE_AGENT", [Part(text=text)])
        return None

    def _messages(self, turn: TurnView) -> Iterator[ProtocolMessage]:
        for number, text in enumerate(turn.requests):
            id = f"{turn.turn}.user" + (f".{number}" if number else "")
            yield self._message(id, "ROLE_USER", [Part(text=text)])
        if turn.has_asked and turn is not self.newest and turn.reply and turn.reply.question:
            parts = [Part(text=turn.reply.question.text)]
            yield self._message(f"{turn.turn}.question", "ROLE_AGENT", parts)

    def _message(self, id: str, role: Role, parts: list[Part]) -> ProtocolMessage:
        return ProtocolMessage(
            message_id=id,
            role=role,
            parts=parts,
            context_id=self.name.context_id,
            task_id=str(self.name),
        )


def artifact_of(turn: TurnView) -> Artifact | None:
    """Return the reply of a turn; None while there is nothing of it."""
    parts = [Part(text=turn.text)] if turn.text else []
    if turn.reply is not None:
        parts += extra_parts(turn.reply.citations or (), turn.reply.attachments or ())
    return Artifact(artifact_id=turn.turn, name="reply", parts=parts) if parts else None


def _choices(question: Question) -> Iterator[Part]:
    """Yield what a program needs to answer a question beside its text."""
    data: Json = {}
    if question.options:
        data["options"] = list(question.options)
    if question.approval:
        approval = question.approval
        data["approval"] = {
            "tool": approval.tool,
            "description": approval.description,
            "arguments": approval.arguments,
            "expiresAt": _time(approval.expires_at),
        }
    if data:
        yield Part(data=data, media_type="application/json")


def extra_parts(citations: Iterable[Citation], attachments: Iterable[Attachment]) -> Iterator[Part]:
    """Yield what a reply has beside its text."""
    found = [
        {"number": it.number, "title": it.title, "document": it.document, "passage": it.passage}
        for it in citations
    ]
    if found:
        yield Part(data={"citations": found}, media_type="application/json")
    for each in attachments:
        head, _, content = each.url.partition(",")
        if head.startswith("data:") and head.endswith(";base64"):
            yield Part(raw=content, filename=each.name, media_type=each.media_type)
        else:
            yield Part(url=each.url, filename=each.name, media_type=each.media_type)


class TaskReader:
    """Reads the tasks of callers."""

    def __init__(self, service: ConversationService) -> None:
        self._service = service

    async def read(self, caller: Caller, task_id: str) -> TaskView:
        """Return a task. Raises `TaskNotFound`, also for another person's."""
        name = TaskName.parse(task_id)
        turns = await self._turns(caller, caller.conversation(name.context_id), name.turn)
        at = next((at for at, each in enumerate(turns) if each.turn == name.turn), None)
        if at is None:
            raise TaskNotFound
        return TaskView(name.context_id, _chain(turns[at:]))

    async def task_with(self, caller: Caller, conversation: Conversation, turn: str) -> TaskView:
        """Return the task that a turn belongs to. Raises `TaskNotFound`."""
        for task in await self._tasks(caller, conversation, turn):
            if any(each.turn == turn for each in task.turns):
                return task
        raise TaskNotFound

    async def list_tasks(self, caller: Caller, context_id: str) -> list[TaskView]:
        """Return the newest tasks of a caller, of one context or of all, newest first."""
        if context_id:
            found = await self._tasks(caller, caller.conversation(context_id), "")
        else:
            found = []
            async for conversation in self._conversations(caller):
                found += await self._tasks(caller, conversation, "")
        return sorted(found, key=lambda task: task.newest.at, reverse=True)

    async def _conversations(self, caller: Caller) -> AsyncIterator[Conversation]:
        """Yield the newest conversations of the caller."""
        before, count = "", 0
        while count < MAX_CONVERSATIONS:
            part = await self._service.list_conversations(
                caller.tenant,
                caller.person,
                ConversationFilter(channel=CHANNEL),
                before=before,
                limit=MAX_CONVERSATIONS - count,
            )
            for summary in part.conversations:
                yield summary.conversation
            count += len(part.conversations) or 1
            before = part.next
            if not before:
                return

    async def _tasks(self, caller: Caller, conversation: Conversation, turn: str) -> list[TaskView]:
        """Return the tasks of a conversation, at least back to that with ``turn``."""
        turns = await self._turns(caller, conversation, turn)
        context_id, tasks = context_of(conversation), []
        while turns:
            chain = _chain(turns)
            tasks.append(TaskView(context_id, chain))
            turns = turns[len(chain) :]
        return tasks

    async def _turns(self, caller: Caller, conversation: Conversation, turn: str) -> list[TurnView]:
        """Return the turns of a conversation, oldest first, at least from the turn before that with
        the id ``turn`` on; the newest ones when it is empty."""
        access = ConversationAccess(self._service, conversation, caller.person)
        snapshot = await access.snapshot()
        entries, earlier = list(snapshot.history), snapshot.earlier
        pending = [
            TurnView(each.turn, [it.text for it in each.messages], pending=each)
            for each in snapshot.pending
        ]
        is_known = any(each.turn == turn for each in pending)
        for _ in range(HISTORY_PAGES):
            if not (turn and earlier) or is_known or _begins_before(entries, turn):
                break
            page = await access.history(earlier, PAGE_ENTRIES)
            entries, earlier = [*page.history, *entries], page.earlier
        return [*_group(entries), *pending]


def _begins_before(entries: Sequence[HistoryEntry], turn: str) -> bool:
    """Return whether the entries have a turn, and the reply before it."""
    at = next((at for at, entry in enumerate(entries) if entry.turn == turn), -1)
    return at > 0 and any(entry.role == "assistant" for entry in entries[:at])


def _group(entries: Iterable[HistoryEntry]) -> Iterator[TurnView]:
    """Yield the turns of a history that have a reply."""
    for turn, group in itertools.groupby(entries, key=lambda entry: entry.turn):
        own = list(group)
        reply = next((entry for entry in own if entry.role == "assistant"), None)
        if reply is not None:
            yield TurnView(turn, [it.text for it in own if it.role == "user"], reply)


def _chain(turns: Sequence[TurnView]) -> list[TurnView]:
    """Return the first turn, and those that answer its questions."""
    chain: list[TurnView] = []
    for turn in turns:
        chain.append(turn)
        if not turn.has_asked:
            break
    return chain


def _time(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
