"""Conversations in a ledger, with rated replies."""

from palaver.feedback import Feedback, Rating
from palaver.ledger import QUEUE_ALL, Ledger, LogEntry
from palaver.messages import Conversation, Finished, Message, Text


async def say(
    ledger: Ledger, thread: str, person: str, text: str, reply: str, after: str | None = None
) -> str:
    """Let a person ask and get a reply; return the turn."""
    conversation = Conversation("default", "web", thread)
    message = Message(
        conversation=conversation, id=f"{text}{reply}", person=person, text=text, after=after
    )
    turn = (await ledger.accept(message, QUEUE_ALL)).turn
    claim = await ledger.claim("worker", lease=60.0, history=0)
    assert claim is not None
    entries: list[LogEntry] = [
        Text(turn=turn, position=0, text=reply),
        Finished(turn=turn, outcome="done", length=len(reply)),
    ]
    await ledger.settle(claim, entries, expect=0)
    return turn


async def rate(ledger: Ledger, thread: str, person: str, turn: str, rating: Rating) -> None:
    feedback = Feedback(turn=turn, rating=rating)
    await ledger.give_feedback(Conversation("default", "web", thread), person, feedback)
