"""Histories that a chat template refuses are answered, whichever template the model has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.support import TextCollector, request
from tests.plugins.engines.templated_engine import (
    STYLES,
    STYLES_WITHOUT_SYSTEM,
    TemplatedEngine,
    load_template,
    make_silent_engine,
    take_turns_without_a_reply,
)
from tests.server.skills_under_test import Parrot

from palaver.config.settings import LedgerSettings, RoutingSettings, Settings
from palaver.engine import ChatMessage, Role
from palaver.engines.boundary import EngineBoundary
from palaver.engines.normalization import normalize_messages
from palaver.errors import InvalidInput
from palaver.testing import converse

pytestmark = pytest.mark.slow

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
message_lists = st.lists(
    st.builds(ChatMessage, st.sampled_from(ROLES), st.sampled_from(["", " ", "one", "two words"])),
    max_size=8,
)
REFUSED: dict[str, list[tuple[Role, str]]] = {
    "two users": [("user", "a"), ("user", "b")],
    "assistant first": [("system", "s"), ("assistant", "a"), ("user", "b")],
    "empty reply": [("user", "a"), ("assistant", ""), ("user", "b")],
    "system in the middle": [("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")],
    "system at the end": [("user", "a"), ("assistant", "b"), ("system", "c")],
    "two systems": [("system", "a"), ("system", "b"), ("user", "c")],
    "system alone": [("system", "a")],
    "developer": [("developer", "a"), ("user", "b")],
    "result of a tool": [("user", "a"), ("assistant", ""), ("tool", "b")],
    "two assistants": [("user", "a"), ("assistant", "b"), ("assistant", "c"), ("user", "d")],
    "assistant last": [("user", "a"), ("assistant", "b")],
    "nothing": [],
}


def said(pairs: list[tuple[Role, str]]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role, text) for role, text in pairs)


@pytest.mark.parametrize("messages", REFUSED.values(), ids=REFUSED)
def test_some_template_refuses_each_of_them(messages: list[tuple[Role, str]]) -> None:
    refusals = 0
    for style in STYLES:
        try:
            load_template(style).render(said(messages))
        except InvalidInput:
            refusals += 1
    assert refusals


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("messages", REFUSED.values(), ids=REFUSED)
async def test_every_template_takes_them(style: str, messages: list[tuple[Role, str]]) -> None:
    plugin = TemplatedEngine(style, "Yes.")
    engine = EngineBoundary(plugin)
    await engine.start()
    generation = await engine.generate(request(said(messages)), TextCollector())
    assert generation.text == "Yes."
    assert await engine.count_tokens(said(messages)) == len(plugin.prompts[0].split())
    for _, text in messages:
        assert text in plugin.prompts[0]


@given(st.sampled_from(STYLES), message_lists)
def test_every_template_takes_any_list(style: str, messages: list[ChatMessage]) -> None:
    has_system = style not in STYLES_WITHOUT_SYSTEM
    prompt = load_template(style).render(normalize_messages(messages, system_role=has_system))
    for message in messages:
        assert message.content.strip() in prompt


@pytest.mark.parametrize("style", [style for style in STYLES if style != "mistral"])
def test_a_prompt_begins_as_the_prompt_before_it(style: str) -> None:
    """So the engine's prefix cache holds what was computed for the messages before."""
    has_system = style not in STYLES_WITHOUT_SYSTEM
    messages = list(said([("system", "S"), ("user", "stopped"), ("user", "one")]))
    template = load_template(style)
    shorter = template.render(normalize_messages(messages, system_role=has_system))
    messages += said([("assistant", "reply"), ("system", "more"), ("user", "two")])
    longer = template.render(normalize_messages(messages, system_role=has_system))
    common = shorter[: shorter.index("one") + 3]
    assert longer.startswith(common)


@pytest.mark.parametrize("style", STYLES)
async def test_the_system_role_is_tried_out_at_the_start(style: str) -> None:
    plugin = TemplatedEngine(style, "Yes.")
    engine = EngineBoundary(plugin)
    await engine.start()
    messages = said([("system", "be kind"), ("user", "Hi")])
    await engine.generate(request(messages), TextCollector())
    roles = [message.role for message in plugin.requests[0].messages]
    assert roles == (["user"] if style in STYLES_WITHOUT_SYSTEM else ["system", "user"])
    assert "be kind" in plugin.prompts[0]


@pytest.mark.parametrize("style", STYLES)
async def test_a_conversation_goes_on_after_turns_without_a_reply(style: str) -> None:
    async with converse(Parrot, engine=(engine := make_silent_engine(style))) as chat:
        await take_turns_without_a_reply(chat, engine)
    assert "first\n\nsecond\n\nthird\n\nfourth\n\nAre you there?" in engine.prompts[-1]


async def test_a_conversation_goes_on_after_its_beginning_was_cut() -> None:
    """A history of one entry begins with the assistant."""
    settings = Settings(
        routing=RoutingSettings(default="parrot"), ledger=LedgerSettings(use="memory", history=1)
    )
    engine = TemplatedEngine("gemma", "Hello.", "Bye.")
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        assert await chat.say("hi") == "Hello."
        assert await chat.say("see you") == "Bye."
    assert [message.role for message in engine.requests[1].messages] == [
        "user",
        "assistant",
        "user",
    ]
