"""Questions: whether a message answers the question that is open, for channels that name it."""

import msgspec

from palaver import (
    Conflict,
    Conversation,
    ConversationService,
    Cursor,
    Event,
    Message,
    Question,
    Received,
    Snapshot,
)


async def answer_to(service: ConversationService, message: Message, turn: str) -> Message:
    """Return the message as the answer to a turn's question, and to no other approval.

    Refuses an answer to a question that is not the newest: it could be taken for the answer to
    another one. Raises `Conflict`, unless the message was accepted before.
    """
    snapshot = await service.snapshot(message.conversation)
    question = _question_of(snapshot, turn)
    if question is not None and question.approval:
        message = msgspec.structs.replace(message, answers=question.approval.id)
    newest = snapshot.history[-1] if snapshot.history and not snapshot.pending else None
    if newest is not None and newest.turn == turn and newest.outcome == "asked":
        return message
    if not await was_accepted(service, message):
        raise Conflict(f"the question of the turn {turn[:60]!r} is no longer open")
    return message


async def find_question(
    service: ConversationService, conversation: Conversation, turn: str
) -> Question | None:
    """Return the question with which a turn of the newest history has ended."""
    return _question_of(await service.snapshot(conversation), turn)


def _question_of(snapshot: Snapshot, turn: str) -> Question | None:
    questions = (entry.question for entry in snapshot.history if entry.turn == turn)
    return next((question for question in questions if question), None)


async def was_accepted(service: ConversationService, message: Message) -> bool:
    """Return whether the conversation has the message already, as far as its stream tells."""
    accepted = _AcceptedIds()
    latest = await service.latest(message.conversation)
    subscription = await service.subscribe(message.conversation, accepted, Cursor(latest.epoch, 0))
    service.unsubscribe(subscription)
    return message.id in accepted.ids


class _AcceptedIds:
    """Subscriber that collects the ids of messages."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Received):
            self.ids.add(event.id)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.ids.update(message.id for turn in snapshot.pending for message in turn.messages)

    def on_shutdown(self) -> None: ...
