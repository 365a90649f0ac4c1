"""The kit for authors: talk with a skill in a test as a person would.

::

    from palaver.testing import ScriptedEngine, converse

    async def test_haiku() -> None:
        async with converse(Haiku, engine=ScriptedEngine("Old pond.")) as chat:
            assert "pond" in await chat.say("write a haiku about a frog")
"""

from palaver.testing.engine import Line, ScriptedEngine
from palaver.testing.harness import Chat, Reply, converse
from palaver.testing.history import Findings, HistoryChecker
from palaver.testing.knowledge import ListKnowledge
from palaver.testing.ledger import MemoryLedger
from palaver.testing.proxy import Cut, CuttingProxy
from palaver.testing.screen import Screen

__all__ = [
    "Chat",
    "Cut",
    "CuttingProxy",
    "Findings",
    "HistoryChecker",
    "Line",
    "ListKnowledge",
    "MemoryLedger",
    "Reply",
    "Screen",
    "ScriptedEngine",
    "converse",
]
