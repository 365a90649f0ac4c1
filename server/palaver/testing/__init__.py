"""The kit for authors: talk with a skill in a test as a person would.

::

    from palaver.testing import ScriptedEngine, converse

    async def test_haiku() -> None:
        async with converse(Haiku, engine=ScriptedEngine("Old pond.")) as chat:
            assert "pond" in await chat.say("write a haiku about a frog")
"""

from palaver.testing.engine import ScriptedEngine, ScriptedReply, tool_call
from palaver.testing.harness import ChatClient, Reply, converse
from palaver.testing.installed_engine import installed_engine
from palaver.testing.knowledge import ListKnowledge
from palaver.testing.ledger import MemoryLedger
from palaver.testing.recorded_engine import RecordedEngine
from palaver.testing.recorder import RecordingSubscriber

__all__ = [
    "ChatClient",
    "ListKnowledge",
    "MemoryLedger",
    "RecordedEngine",
    "RecordingSubscriber",
    "Reply",
    "ScriptedEngine",
    "ScriptedReply",
    "converse",
    "installed_engine",
    "tool_call",
]
