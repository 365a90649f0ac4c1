"""A real server in this process, and a person who talks with its skills."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from palaver.config.settings import LedgerSettings, PluginSettings, RoutingSettings, Settings
from palaver.engine import Engine
from palaver.hooks import Interceptor
from palaver.knowledge import Document, KnowledgeBase
from palaver.ledger import Ledger
from palaver.messages import (
    Asked,
    Attached,
    Attachment,
    Citation,
    Cited,
    Conversation,
    Event,
    Finished,
    Message,
    Problem,
    Routed,
    ToolCalled,
    new_id,
)
from palaver.plugins import check_skill
from palaver.server import Server
from palaver.skills import Skill
from palaver.testing.engine import ScriptedEngine
from palaver.testing.knowledge import ListKnowledge
from palaver.testing.ledger import MemoryLedger
from palaver.testing.recorder import RecordingSubscriber
from palaver.tool_sources import ToolSource
from palaver.tools import Tool


class Reply(str):
    """The text of a reply, with the other output of its turn."""

    turn: str
    skill: str
    reason: str
    model: str
    """The model that wrote it; empty: none did."""
    outcome: str
    problem: Problem | None
    question: Asked | None
    citations: list[Citation]
    attachments: list[Attachment]
    tools: list[ToolCalled]
    """The last state of each call of a tool, in the order of the calls."""
    events: list[Event]


class ChatClient:
    """One person in one conversation of a running server."""

    def __init__(self, server: Server, conversation: Conversation, person: str) -> None:
        self.server = server
        self.conversation = conversation
        self.person = person
        self.recorder = RecordingSubscriber()

    async def say(self, text: str, **about: Any) -> Reply:  # Any: fields of Message
        """Send a message and wait for the reply. ``about``: further fields of `Message`."""
        return await self.reply(await self.send(text, **about))

    async def send(self, text: str, **about: Any) -> str:
        """Send a message; returns the id of its turn at once. While a turn runs this may be that
        one, see `Skill.concurrency_policy`."""
        about.setdefault("id", new_id())
        message = Message(conversation=self.conversation, person=self.person, text=text, **about)
        # The test decides who writes, as the platform of a group does.
        return (await self.server.accept(message, members_only=False)).turn

    async def upload(self, name: str, content: bytes) -> Attachment:
        """Upload a file and return it as an attachment, for the field ``attachments`` of a
        message."""

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        files = self.server.files
        file = await files.upload(self.conversation.tenant, self.person, name, pieces())
        return file.attachment

    async def reply(self, turn: str) -> Reply:
        """Wait for a turn to finish."""
        await self.recorder.wait_for(turn)
        reply = Reply(self.recorder.texts[turn])
        finished: Finished = self.recorder.events_of(turn, Finished)[-1]
        assert finished.length == len(reply), f"{finished} closes a reply of {len(reply)}"
        routed = self.recorder.events_of(turn, Routed)
        reply.turn = turn
        reply.outcome, reply.problem = finished.outcome, finished.problem
        reply.model = finished.model or ""
        reply.skill = routed[-1].skill if routed else ""
        reply.reason = routed[-1].reason if routed else ""
        reply.question = next(iter(self.recorder.events_of(turn, Asked)), None)
        reply.citations = [event.citation for event in self.recorder.events_of(turn, Cited)]
        reply.attachments = [event.attachment for event in self.recorder.events_of(turn, Attached)]
        calls = {event.call: event for event in self.recorder.events_of(turn, ToolCalled)}
        reply.tools = list(calls.values())
        reply.events = self.recorder.events[turn]
        return reply

    async def stop(self, turn: str | None = None) -> str:
        """Stop a turn, or the one that runs; returns the `StopState`."""
        return (await self.server.stop(self.conversation, turn))[0]


@contextlib.asynccontextmanager
async def converse(
    *skills: type[Skill] | Skill,
    engine: Engine | None = None,
    models: Mapping[str, Engine] | None = None,
    ledger: Ledger | None = None,
    knowledge: KnowledgeBase | Sequence[Document] = (),
    tools: Sequence[Tool] = (),
    tool_sources: Sequence[ToolSource] = (),
    interceptors: Sequence[Interceptor] = (),
    settings: Settings | None = None,
    skill_settings: Mapping[str, Any] | None = None,  # Any: TOML values, by key
    person: str = "alice",
    thread: str = "main",
) -> AsyncIterator[ChatClient]:
    """Run a server with these skills, and a person who talks to it::

        async with converse(Haiku, engine=ScriptedEngine("Old pond.")) as chat:
            assert "pond" in await chat.say("write a haiku about a frog")

    Everything between the message and the skill is real; the engine is scripted and the ledger is
    in memory, unless others are given. ``models`` are the engines of the further models that
    ``settings`` may bind skills to (``skills.NAME.model``). The tools that the skills' modules
    define or import work, and those in ``tools``, which replace others of the same name.
    """
    built = [_build_skill(skill, skill_settings or {}) for skill in skills]
    server = Server(
        settings or _default_settings(built),
        ledger=ledger or MemoryLedger(),
        engine=engine or ScriptedEngine(),
        models=models,
        knowledge=ListKnowledge(*knowledge) if isinstance(knowledge, Sequence) else knowledge,
        skills={skill.name: skill for skill in built},
        tools={tool.name: tool for tool in [*_find_tools(built), *tools]},
        tool_sources={f"source-{n}": source for n, source in enumerate(tool_sources)},
        interceptors=interceptors,
    )
    async with server:
        chat = ChatClient(server, Conversation("default", "test", thread), person)
        subscription = await server.subscribe(chat.conversation, chat.recorder)
        try:
            yield chat
        finally:
            server.unsubscribe(subscription)


def _build_skill(skill: type[Skill] | Skill, values: Mapping[str, Any]) -> Skill:
    if isinstance(skill, Skill):
        return skill
    settings: PluginSettings = check_skill(skill).Settings.model_validate(dict(values))
    return skill(settings)


def _find_tools(skills: Sequence[Skill]) -> Iterator[Tool]:
    for name in dict.fromkeys(type(skill).__module__ for skill in skills):
        module = sys.modules[name]
        yield from (value for value in vars(module).values() if isinstance(value, Tool))


def _default_settings(skills: Sequence[Skill]) -> Settings:
    names = [skill.name for skill in skills]
    default = "chat" if "chat" in names else names[0]
    return Settings(
        routing=RoutingSettings(default=default, consult_engine=False),
        ledger=LedgerSettings(use="memory"),
    )
