"""Conversations with the code skill."""

import pytest

from palaver.testing import ScriptedEngine, converse
from palaver_skills import prompts
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen, find_programming_language

ADD = "```python\ndef add(a, b):\n    return a + b\n```\nIt adds two numbers."


@pytest.mark.parametrize(
    ("message", "language"),
    [
        ("write a function that adds two numbers", "Python"),
        ("write a JavaScript function that adds two numbers", "JavaScript"),
        ("implement quicksort in Go", "Go"),
        ("write a short go program that says hello", "Go"),
        ("please go and write a script", "Python"),
        ("a bash script that renames files", "Shell"),
        ("C++ class for a matrix", "C++"),
        ("write a C program", "C"),
        ("用Rust写一个排序函数", "Rust"),
        ("Schreibe eine Funktion in Kotlin, die zählt", "Kotlin"),
    ],
)
async def test_the_language_is_told_from_the_message(message: str, language: str) -> None:
    engine = ScriptedEngine("```\n```\nDone.")
    async with converse(Codegen, engine=engine) as chat:
        await chat.say(message)
        assert engine.requests[0].messages[0].content == prompts.build_codegen_system(language)


async def test_the_language_may_be_an_argument() -> None:
    engine = ScriptedEngine("```cobol\nSTOP RUN.\n```\nIt stops.")
    async with converse(Codegen, engine=engine) as chat:
        await chat.say("stop", skill="codegen", arguments={"language": "COBOL"})
        assert engine.requests[0].messages[0].content == prompts.build_codegen_system("COBOL")
        wrong = await chat.say("stop", skill="codegen", arguments={"language": "x\ny"})
        assert wrong.problem is not None


async def test_a_follow_up_goes_on_from_the_code_before() -> None:
    engine = ScriptedEngine("Hello.", "```ruby\nputs 1\n```\nIt prints 1.", ADD)
    async with converse(Chat, Codegen, engine=engine) as chat:
        await chat.say("hello")
        await chat.say("/code print one in Ruby")
        await chat.say("/code make it shorter")
        request = engine.requests[2]
        assert request.messages[0].content == prompts.build_codegen_system("Ruby")
        assert [m.content for m in request.messages[1:]] == [
            "/code print one in Ruby",
            "```ruby\nputs 1\n```\nIt prints 1.",
            "make it shorter",
        ]


async def test_good_python_is_left_as_it_is() -> None:
    async with converse(Codegen, engine=ScriptedEngine(ADD)) as chat:
        assert await chat.say("write a function that adds") == ADD


async def test_python_that_does_not_parse_is_said_to_be_so() -> None:
    broken = "```python\ndef add(a, b)\n    return a\n```\nIt adds."
    async with converse(Codegen, engine=ScriptedEngine(broken)) as chat:
        reply = await chat.say("write a function that adds")
        assert reply.startswith(broken)
        assert "not well-formed Python (line 1: expected ':')" in reply


async def test_a_fence_that_the_model_left_open_is_closed() -> None:
    settings = {"max_tokens": 6}
    async with converse(Codegen, engine=ScriptedEngine(ADD), skill_settings=settings) as chat:
        reply = await chat.say("write a function that adds")
        assert reply.startswith("```python\ndef add(a, b):\n    return a\n```\n\nNote: the code")


async def test_an_open_fence_of_a_finished_reply_is_closed_without_a_note() -> None:
    async with converse(Codegen, engine=ScriptedEngine("```python\nx = 1")) as chat:
        assert await chat.say("write a program") == "```python\nx = 1\n```"


async def test_python_is_checked_by_the_name_of_its_block() -> None:
    engine = ScriptedEngine("```python\nx = (\n```", "```js\nx = (\n```", "```python\n$ ls (\n```")
    async with converse(Codegen, engine=engine) as chat:
        assert "'(' was never closed" in str(await chat.say("write a Go program"))
        assert await chat.say("write a Python program") == "```js\nx = (\n```"
        assert await chat.say("write a Python program") == "```python\n$ ls (\n```"


def test_a_word_is_not_taken_for_a_language() -> None:
    assert find_programming_language("let us go and see what is in C for R users") == "C"
    assert find_programming_language("go home") is None
    assert find_programming_language("a swift reply") is None
