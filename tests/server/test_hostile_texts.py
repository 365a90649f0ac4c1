"""No text keeps the event loop busy: texts that are generated from every pattern of the code."""

import asyncio
import gc
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from tests.server.busy_time import BusyTimeSelector
from tests.server.hostile_texts import (
    RUNS,
    Source,
    calls,
    compiled_patterns,
    modules,
    pumped,
    run_of,
)

from palaver import (
    ChatMessage,
    Conversation,
    Document,
    GenerationRequest,
    Skill,
    compile_pattern,
    new_id,
)
from palaver.config.settings import Settings
from palaver.server import Server
from palaver.testing import ChatClient, ScriptedEngine, converse
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

pytestmark = pytest.mark.slow

MAX_STALL = 0.05
"""Seconds of its processor time for which the event loop may not come back to its clients."""
NOT_OF_CLIENTS = (
    "palaver.config.",  # settings
    "palaver.cli.",
    "palaver.evaluation.",  # the data of an operator
    "palaver.models.",  # model cards
    "palaver.testing.",
    "palaver_plugins.knowledge.",  # documents, in a process with a deadline
    "palaver_plugins.ledgers.redis.",  # the replies of Redis
)
"""Modules whose patterns read nothing that a client has written."""
BOUNDED = {
    "palaver_skills.citations._IDENTIFIER": 100,
    "palaver_skills.citations._WORD_BEFORE": 100,
    "palaver_skills.languages._NAMED": 4_000,
    "palaver_skills.text_splitting._LAST_WORD": 40,
    "palaver_skills.instructions._REFERENCE": 240,
    "palaver_skills.translation._SOURCE": 400,
}
"""Patterns that read less of a text, and how many characters."""
COMPUTED = {
    "palaver_plugins.channels.openai_api.chat_response.annotations": r"\[1\]",
    "palaver_plugins.engines.tool_formats.markup_pattern": r"<\|im_start\|>|<\|im_end\|>",
    "palaver_plugins.engines.vllm_process.__init__": r"<\|im_start\|>|<\|im_end\|>",
}
"""Patterns that are computed in a function: an example of each."""
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[\d,]+\})\+")
LENGTH = 20_000
SKILLS: tuple[type[Skill], ...] = (Chat, QA, Translation, Summarization, Codegen)
MESSAGE_BYTES = Settings().server.max_message_bytes


def sources() -> list[Source]:
    """Return every pattern that reads what a client has written."""
    found: dict[tuple[str, int], Source] = {}
    for module in modules():
        if not module.__name__.startswith(NOT_OF_CLIENTS):
            for source in compiled_patterns(module):
                found.setdefault((source.pattern, source.flags), source)
            for call in calls(module):
                pattern = COMPUTED.get(call.where) if call.pattern is None else call.pattern
                assert pattern, f"{call.where} computes a pattern: add an example to COMPUTED"
                found.setdefault((pattern, 0), Source(call.where, pattern, 0, (call.method,)))
    return list(found.values())


SOURCES = sources()


def test_the_patterns_are_found() -> None:
    names = {source.where for source in SOURCES}
    assert {"palaver_skills.text_splitting._END", "palaver_skills.placeholders._FIXED"} <= names
    assert "palaver_skills.markdown.RAW_END" in names
    assert "palaver_skills.translation.Translation.patterns[0]" in names
    assert len(SOURCES) > 80


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python 3.11.2, which Debian 12 has, finds wrong matches of it (gh-100061)."""
    assert POSSESSIVE_GROUP.search(r"(?:ab?c)*+")
    patterns = [source for module in modules() for source in compiled_patterns(module)]
    assert [each.where for each in patterns if POSSESSIVE_GROUP.search(each.pattern)] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.where)
def test_a_pattern_is_never_busy(source: Source) -> None:
    """One search holds the interpreter's lock, in a thread as well."""
    of_skill = ".patterns[" in source.where
    flags = source.flags
    pattern: Any = (
        compile_pattern(source.pattern) if of_skill else re.compile(source.pattern, flags)
    )
    length = BOUNDED.get(source.where, LENGTH)
    for text in (*pumped(source, length), *(run_of(run, length) + "\0" for run in RUNS)):
        for method in source.methods:
            began = time.thread_time()
            getattr(pattern, method)(text)
            busy = time.thread_time() - began
            assert busy < MAX_STALL, f"{method} of {text[:40]!r}… takes {busy:.3f} s"


def test_a_slow_pattern_is_noticed() -> None:
    source = Source("here", r"[.!?]+[ \t]+", 0)
    with pytest.raises(AssertionError, match="takes"):
        test_a_pattern_is_never_busy(source)


class HostileEngine(ScriptedEngine):
    """Engine that answers with the beginning of the prompt, and counts tokens at no cost."""

    def __init__(self) -> None:
        super().__init__(lambda request: _echo(request), context_window=32_768)

    async def count_tokens(self, messages: Any, tools: Any = ()) -> int:
        return sum(len(message.content) for message in messages) // 4


def _echo(request: GenerationRequest) -> str:
    last: ChatMessage = request.messages[-1]
    return last.content[:3_000] or "Nothing."


def hostile_messages() -> list[str]:
    """Return at least one message for each pattern, of up to the largest size, and other runs."""
    chosen = random.Random(8)
    sizes = (900, 5_000, 40_000, 95_000, MESSAGE_BYTES)
    made = []
    for number, source in enumerate(SOURCES):
        texts = list(pumped(source, sizes[number % len(sizes)])) or [source.pattern]
        made.append(chosen.choice(texts))
    made += [run_of(run, sizes[number % len(sizes)]) + "b" for number, run in enumerate(RUNS)]
    return [*made, "Translate into French: a" + "!" * 45_000 + "b"]


async def talk(selector: BusyTimeSelector) -> list[tuple[float, str]]:
    """Send hostile messages to a server with every skill: routed, by name, as the answer to a
    question, and as arguments. Return those that kept it busy."""
    found: list[tuple[float, str]] = []
    messages = hostile_messages()
    assert len(messages) >= 100
    documents = [Document(id="d", title="Opening hours", text="It opens at ten. " * 50)]
    async with converse(*SKILLS, engine=HostileEngine(), knowledge=documents) as chat:
        await chat.say("hello")
        for number, text in enumerate(messages):
            skill = SKILLS[number % len(SKILLS)]
            command = f"/{skill.name} "
            arguments = dict.fromkeys(skill.Arguments.model_fields, _cut(text))
            for said in (
                [text],
                [command + text],
                ["/translation", text, f"{command} code"],
                [Asked(skill.name, arguments)],
            ):
                selector.longest = 0.0
                await _say(chat.server, said)
                if selector.longest > MAX_STALL:
                    what = f"{str(said)[:60]}… with {text[:40]!r} of {len(text)}"
                    found.append((selector.longest, what))
    return found


class Asked(NamedTuple):
    """A message of a program, which names the skill and gives its arguments."""

    skill: str
    arguments: dict[str, str]


async def _say(server: Server, messages: Sequence[str | Asked]) -> None:
    """Send the messages to a new conversation of a new tenant, each after the reply to the one
    before: quotas are for other tests."""
    chat = ChatClient(server, Conversation(new_id(), "test", "main"), "alice")
    subscription = await server.subscribe(chat.conversation, chat.recorder)
    for message in messages:
        if isinstance(message, Asked):
            await chat.say("go on", skill=message.skill, arguments=message.arguments)
        else:
            await chat.say(_cut(message))
    server.unsubscribe(subscription)


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:MESSAGE_BYTES].decode(errors="ignore")


@pytest.fixture
def frozen() -> Iterator[None]:
    """Keep what other tests have made out of garbage collections, as `palaver serve` does."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
def test_no_message_stalls_a_server() -> None:
    selector = BusyTimeSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(talk(selector)) == []
