"""Conversations with the chat skill."""

import pytest

from palaver.testing import ScriptedEngine, converse
from palaver_plugins.tools.arithmetic import calculate
from palaver_skills import prompts
from palaver_skills.chat import Chat


async def test_chat_remembers_the_conversation() -> None:
    engine = ScriptedEngine("Hello Ada.", "You are Ada.")
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("I am Ada.") == "Hello Ada."
        assert await chat.say("Who am I?") == "You are Ada."
        assert [(m.role, m.content) for m in engine.requests[1].messages] == [
            ("system", prompts.CHAT),
            ("user", "I am Ada."),
            ("assistant", "Hello Ada."),
            ("user", "Who am I?"),
        ]


async def test_its_settings_reach_the_engine() -> None:
    engine = ScriptedEngine("Ahoy.")
    settings = {"system": "You are a pirate.", "temperature": 0.2, "max_tokens": 7}
    async with converse(Chat, engine=engine, skill_settings=settings) as chat:
        await chat.say("hello")
        request = engine.requests[0]
        assert request.messages[0].content == "You are a pirate."
        assert (request.sampling.temperature, request.sampling.max_tokens) == (0.2, 7)


async def test_a_small_context_window_leaves_room_for_the_prompt() -> None:
    engine = ScriptedEngine("Hello.", context_window=100)
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("hello") == "Hello."
        assert engine.requests[0].sampling.max_tokens == 50


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ("what is 12*7?", "12*7 = 84"),
        ("What's (3 + 4) / 2", "(3 + 4) / 2 = 3.5"),
        ("how much is 2^10", "2^10 = 1024"),
        ("was ist 1,000 × 3?", "1,000 × 3 = 3000"),
        ("100 - 1 =", "100 - 1 = 99"),
    ],
)
async def test_arithmetic_is_worked_out_by_the_tool(message: str, reply: str) -> None:
    engine = ScriptedEngine()
    async with converse(Chat, engine=engine, tools=(calculate,)) as chat:
        assert await chat.say(message) == reply
        assert not engine.requests


async def test_without_the_tool_the_model_has_to_try() -> None:
    async with converse(Chat, engine=ScriptedEngine("About 80.")) as chat:
        assert await chat.say("what is 12*7?") == "About 80."


async def test_what_the_tool_refuses_goes_to_the_model() -> None:
    engine = ScriptedEngine("That has no result.")
    async with converse(Chat, engine=engine, tools=(calculate,)) as chat:
        assert await chat.say("what is 1/0?") == "That has no result."


@pytest.mark.parametrize("message", ["I was born on 2024-05-01", "call 555-1234", "what is love"])
async def test_not_every_number_is_arithmetic(message: str) -> None:
    engine = ScriptedEngine("I see.")
    async with converse(Chat, engine=engine, tools=(calculate,)) as chat:
        assert await chat.say(message) == "I see."
