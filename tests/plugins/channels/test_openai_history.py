"""The messages of a request are its history: exactly what was sent, and nothing from elsewhere."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.plugins.channels.openai_support import (
    MODEL,
    NamedEngine,
    ask,
    assistant,
    message,
    open_openai_server,
    prompt_of,
    seen,
    user,
)
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AuthKey, Secret
from palaver.exports import collect_export
from palaver.ledger import Ledger
from palaver.messages import Conversation
from palaver.testing import MemoryLedger
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow


async def test_two_chats_with_the_same_beginning_stay_apart() -> None:
    async with open_openai_server() as (_, client):
        for _ in range(2):
            await ask(client, user("hi"), model="parrot")
        beginning = (user("hi"), assistant("hi "))
        await ask(client, *beginning, user("my code is 7351"), model="parrot")
        shown = await seen(client, *beginning, user("what is my code?"))
    assert shown == {
        "history": [["user", "hi"], ["assistant", "hi "]],
        "message": "what is my code?",
    }


async def test_an_edited_message_leaves_nothing_of_the_discarded_branch() -> None:
    async with open_openai_server() as (_, client):
        beginning = (user("hi"), assistant("hi "))
        for text in ("one", "two", "two"):  # edited, and then regenerated
            shown = await seen(client, *beginning, user(text))
            assert shown["history"] == [["user", "hi"], ["assistant", "hi "]]
            assert shown["message"] == text


async def test_every_role_and_every_space_arrives_as_it_was_sent() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"c":1}'}}
    sent = (
        message("system", "  Be brief.\n"),
        message("developer", "Answer in verse."),
        user("Weather?"),
        message("assistant", None, tool_calls=[call]),
        message("tool", '{"degrees": 15}', tool_call_id="c"),
        assistant("15 degrees. "),
        user("And\ntomorrow? "),
    )
    async with open_openai_server() as (_, client):
        shown = await seen(client, *sent)
    assert shown == {
        "history": [
            ["system", "  Be brief.\n"],
            ["developer", "Answer in verse."],
            ["user", "Weather?"],
            ["assistant", '{"c":1}'],
            ["tool", '{"degrees": 15}'],
            ["assistant", "15 degrees. "],
        ],
        "message": "And\ntomorrow? ",
    }


async def test_instructions_of_the_request_follow_those_of_the_skill() -> None:
    engine = NamedEngine("fine")
    async with open_openai_server(engine=engine) as (_, client):
        await ask(
            client,
            message("system", "You are a pirate."),
            message("developer", "Be brief."),
            user("hi"),
            assistant("Arr."),
            user("again"),
            model="talker",
        )
    assert prompt_of(engine) == [
        ("system", "Be kind.\n\nYou are a pirate.\n\nBe brief."),
        ("user", "hi"),
        ("assistant", "Arr."),
        ("user", "again"),
    ]


async def test_instructions_stay_when_old_messages_do_not_fit() -> None:
    engine = NamedEngine("fine", context_window=120)
    old = [each for n in range(40) for each in (user(f"question {n}"), assistant(f"answer {n}"))]
    async with open_openai_server(engine=engine) as (_, client):
        await ask(client, message("system", "Pirate!"), *old, user("last"), model="talker")
    first, *_, last = prompt_of(engine)
    assert first == ("system", "Be kind.\n\nPirate!")
    assert last == ("user", "last")
    assert len(engine.requests[-1].messages) < 40


@pytest.mark.parametrize(
    ("ending", "history", "answered"),
    [
        ([assistant("Once upon")], [["assistant", "Once upon"]], "Tell a story"),
        ([message("system", "In French.")], [["system", "In French."]], "Tell a story"),
        ([message("developer", "Now.")], [["developer", "Now."]], "Tell a story"),
        (
            [message("tool", "15", tool_call_id="c"), message("tool", "16", tool_call_id="d")],
            [["tool", "15"], ["tool", "16"]],
            "Tell a story",
        ),
    ],
)
async def test_a_request_may_end_in_any_role(
    ending: list[Any], history: list[Any], answered: str
) -> None:
    async with open_openai_server() as (_, client):
        shown = await seen(client, user("Tell a story"), *ending)
    assert shown == {"history": history, "message": answered}


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool"])
async def test_a_request_without_a_user_is_answered(role: str) -> None:
    engine = NamedEngine("ahoy", "ahoy")
    sent = message(role, "Greet everybody.", tool_call_id="c")
    async with open_openai_server(engine=engine) as (_, client):
        for model in ("talker", MODEL):
            answer = await ask(client, sent, model=model)
            assert answer.choices[0].message.content == "ahoy"
        assert (await seen(client, sent)) == {"history": [], "message": "Greet everybody."}


async def test_parts_that_are_not_text_block_only_the_message_that_is_new() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    file = {"type": "file", "file": {"file_id": "f"}}
    text = {"type": "text", "text": "what is this? "}
    async with open_openai_server() as (_, client):
        shown = await seen(client, user([text, image, audio, file]), assistant("A cat."), user("?"))
        assert shown["history"][0] == ["user", "what is this? [image][audio][file]"]
        for part in (image, audio, file):
            problem = "sees no images" if part is image else str(part["type"])
            with pytest.raises(openai.BadRequestError, match=problem) as refused:
                await ask(client, user("hi"), assistant("hi"), user([text, part]))
            assert refused.value.param == "messages[2].content[1].type"


# The identity of a request


async def reply_ids(client: AsyncOpenAI, *texts: str, key: str = "k", **fields: Any) -> list[str]:
    headers = {"Idempotency-Key": key}
    return [(await ask(client, user(text), extra_headers=headers, **fields)).id for text in texts]


async def test_two_users_with_one_idempotency_key_make_two_requests() -> None:
    async with open_openai_server() as (live_server, client):
        (first,) = await reply_ids(client, "I am Ada", user="ada")
        (second,) = await reply_ids(client, "I am Bob", user="bob")
        assert first != second
        assert await reply_ids(client, "I am Ada", user="ada") == [first]
        assert await people_of(live_server, first) == {"ada"}


async def people_of(live_server: LiveServer, id: str) -> set[str]:
    """Return who has conversations in which the turn of a reply was answered."""
    turn = id.removeprefix("chatcmpl-")
    found = set()
    for person in ("ada", "bob"):
        export = await collect_export(live_server.server.ledger.export("default", person))
        turns = {entry.turn for entries in export.conversations.values() for entry in entries}
        found |= {person} if turn in turns else set()
    return found


async def test_two_keys_with_one_idempotency_key_make_two_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {}
    for name in ("one", "two"):
        monkeypatch.setenv(f"KEY_{name}", f"the secret key number {name}")
        keys[name] = AuthKey(secret=Secret(f"env:KEY_{name}"), person="ada")
    async with open_live_server(keys=keys, channels=(OpenAIChannel(),)) as live_server:
        answers = []
        for name in ("one", "two"):
            async with AsyncOpenAI(
                base_url=live_server.url("/v1"), api_key=f"the secret key number {name}"
            ) as client:
                answers += await reply_ids(client, f"I am {name}", model="parrot")
        assert len(set(answers)) == 2


async def test_a_repeated_request_gets_the_reply_of_the_first() -> None:
    async with open_openai_server("one", "two") as (_, client):
        sent = (message("system", "x"), user("hi"))
        headers = {"Idempotency-Key": "k"}
        answers = [
            await ask(client, *sent, model="talker", extra_headers=headers) for _ in range(2)
        ]
        assert [answer.choices[0].message.content for answer in answers] == ["one", "one"]
        assert answers[0].usage == answers[1].usage
        streamed = await ask(client, *sent, model="talker", extra_headers=headers, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in streamed]) == "one"
        for other in (
            (message("system", "y"), user("hi")),
            (user("hi"),),
            (*sent, user("more")),
        ):
            with pytest.raises(openai.ConflictError, match="Idempotency-Key was used"):
                await ask(client, *other, model="talker", extra_headers=headers)
        with pytest.raises(openai.ConflictError, match="Idempotency-Key was used"):
            await ask(client, *sent, model="talker", extra_headers=headers, temperature=1)


async def test_a_replica_that_takes_over_sees_the_same_history() -> None:
    ledger: Ledger = MemoryLedger()
    async with open_openai_server("unused", ledger=ledger) as (first, client):
        asking = asyncio.create_task(
            ask(
                client,
                message("system", "Pirate."),
                user("hi"),
                assistant("Arr."),
                user("go"),
                model="scripted",
                extra_headers={"Idempotency-Key": "k"},
                stream=True,
            )
        )
        first.scripted.emit("one ", end=False)
        async for chunk in await asking:
            if chunk.choices[0].delta.content:
                break
        engine = NamedEngine("two")
        async with open_openai_server(engine=engine, ledger=ledger) as (second, other):
            again = asyncio.create_task(
                ask(
                    other,
                    message("system", "Pirate."),
                    user("hi"),
                    assistant("Arr."),
                    user("go"),
                    model="scripted",
                    extra_headers={"Idempotency-Key": "k"},
                )
            )
            await first.server._dispatcher.drain(0)
            second.scripted.emit("one two")
            assert (await again).choices[0].message.content == "one two"


async def test_a_client_that_may_ask_again_finds_the_whole_reply() -> None:
    async with open_openai_server() as (live_server, client):
        headers = {"Idempotency-Key": "k"}
        stream = await ask_after_text(live_server, client, headers)
        await stream.close()
        live_server.scripted.emit("two")
        answer = await ask(client, user("go"), model="scripted", extra_headers=headers)
        assert answer.choices[0].message.content == "one two"


async def ask_after_text(live_server: LiveServer, client: AsyncOpenAI, headers: Any) -> Any:
    """Return a stream of which a part has come."""
    live_server.scripted.emit("one ", end=False)
    stream = await ask(client, user("go"), model="scripted", extra_headers=headers, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    return stream


# What is stored


async def test_requests_are_exported_while_they_wait_and_erased_with_the_person() -> None:
    ledger = MemoryLedger()
    async with open_openai_server(ledger=ledger) as (live_server, client):
        sent = (message("system", "my code is 7351"), user("go"))
        asking = asyncio.create_task(ask(client, *sent, model="scripted", user="ada"))

        async def exported() -> str:
            return str(await collect_export(ledger.export("default", "ada")))

        async with asyncio.timeout(5):
            while "7351" not in await exported():  # noqa: ASYNC110  a test waits for the ledger
                await asyncio.sleep(0.01)
        live_server.scripted.emit("done")
        await asking
        assert "'go'" in await exported()
        await live_server.server.erase("default", "ada")
        assert "'go'" not in await exported()


async def test_conversations_of_requests_do_not_pile_up() -> None:
    now = [1_000_000.0]
    ledger = MemoryLedger(clock=lambda: now[0], monotonic=lambda: now[0])
    async with open_openai_server(ledger=ledger) as (live_server, client):
        for number in range(3):
            await ask(client, user(f"{number}"), model="parrot", user="ada")
        await reply_ids(client, "kept for a day", user="ada")
        await ask(
            client,
            user("kept"),
            model="parrot",
            user="ada",
            extra_headers={"X-Palaver-Thread": "kitchen"},
        )
        usage = await ledger.storage_usage("default", "ada")
        assert usage.conversations == 5
        for seconds, left in ((400.0, 2), (90_000.0, 1)):
            now[0] += seconds
            await ledger.queue_depth()
            assert (await ledger.storage_usage("default", "ada")).conversations == left
        kitchen = Conversation("default", "openai_api", "kitchen")
        history = (await live_server.server.snapshot(kitchen)).history
        assert [entry.text for entry in history] == ["kept", "kept "]


async def test_a_named_thread_keeps_the_servers_history() -> None:
    async with open_openai_server() as (_, client):
        headers = {"X-Palaver-Thread": "kitchen"}
        await ask(client, user("first"), model="parrot", extra_headers=headers)
        shown = await seen(
            client, user("invented"), assistant("too"), user("second"), extra_headers=headers
        )
    assert shown == {
        "history": [["user", "first"], ["assistant", "first "]],
        "message": "second",
    }


async def test_a_question_of_a_skill_leaves_no_copy_of_what_was_sent() -> None:
    ledger = MemoryLedger()
    async with open_openai_server(ledger=ledger) as (_, client):
        answer = await ask(
            client, message("system", "my code is 7351"), user("please"), model="waiter"
        )
        assert answer.choices[0].message.content == "Tea or coffee?"
    (state,) = ledger._conversations.values()
    assert state.pending_question is not None
    assert "7351" not in json.dumps(str(state.pending_question))
