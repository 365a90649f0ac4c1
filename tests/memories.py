"""A memory that a turn writes, as `Turn.remember` does."""

from palaver.ledger import Ledger, MemoryWrite
from palaver.messages import Conversation, Finished, Message, new_id


async def remember(ledger: Ledger, tenant: str, person: str, key: str, value: str | None) -> None:
    """Store a memory by a turn in a conversation of its own. Nothing else may be due."""
    conversation = Conversation(tenant, "web", f"memories-of-{person}")
    await ledger.accept(
        Message(conversation=conversation, id=new_id(), person=person, text="remember this")
    )
    claim = await ledger.claim("worker", lease=30.0, history=0)
    assert claim is not None
    assert claim.conversation == conversation
    memory = MemoryWrite(person=person, key=key, value=value)
    finished = Finished(turn=claim.turn, outcome="done", length=0)
    await ledger.settle(claim, (memory, finished), expect=0)
