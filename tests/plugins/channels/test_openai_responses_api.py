"""The Responses API, with OpenAI's own client and its strict schemas."""

import asyncio
import base64
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.plugins.channels.openai_support import MODEL, NamedEngine, open_openai_server
from tests.plugins.channels.test_openai_parameters import LogprobEngine
from tests.server.web.live_server import LiveServer, eventually, open_live_server

from palaver import Skill, ToolCall, Turn
from palaver.config.settings import AuthKey, Secret
from palaver.testing import ScriptedReply, tool_call
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

THERMOMETER: Any = {
    "type": "function",
    "name": "weather",
    "description": "How warm it is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = ScriptedReply(
    text="Let me see.", tool_calls=(ToolCall("call_1", "weather", '{"city": "Rome"}'),)
)


async def create(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    fields.setdefault("model", MODEL)
    return await client.responses.create(input=input, **fields)


async def test_a_response_in_one_piece() -> None:
    engine = NamedEngine("Hello Ada.")
    async with open_openai_server(engine=engine) as (_, client):
        answer = await create(
            client, "I am Ada", instructions="Be kind.", metadata={"a": "b"}, temperature=0.5
        )
        again = await client.responses.retrieve(answer.id)
    assert (answer.status, answer.output_text) == ("completed", "Hello Ada.")
    assert (answer.model, answer.instructions, answer.metadata) == (MODEL, "Be kind.", {"a": "b"})
    assert answer.usage.output_tokens == 2
    assert again == answer
    request = engine.requests[-1]
    assert [(it.role, it.content) for it in request.messages] == [
        ("system", "Be kind."),
        ("user", "I am Ada"),
    ]
    assert request.sampling.temperature == 0.5


async def test_the_events_of_a_stream_have_the_order_of_the_protocol() -> None:
    async with open_openai_server(CALL) as (_, client):
        stream = await create(client, "How warm?", tools=[THERMOMETER], stream=True)
        events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in events[-1].response.output] == ["message", "function_call"]


async def test_the_stream_helper_of_the_client_accepts_the_stream() -> None:
    async with (
        open_openai_server(CALL) as (_, client),
        client.responses.stream(model=MODEL, input="How warm?", tools=[THERMOMETER]) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == "Let me see."
    assert final.output[1].type == "function_call"


async def test_the_result_of_a_call_continues_the_response() -> None:
    engine = NamedEngine(CALL, "15 degrees.")
    async with open_openai_server(engine=engine) as (_, client):
        first = await create(client, "How warm?", tools=[THERMOMETER])
        output: Any = [
            {"type": "function_call_output", "call_id": "call_1", "output": '{"degrees": 15}'}
        ]
        second = await create(client, output, tools=[THERMOMETER], previous_response_id=first.id)
        items = [item async for item in client.responses.input_items.list(second.id)]
    assert second.output_text == "15 degrees."
    assert second.previous_response_id == first.id
    assert [item.type for item in items] == ["function_call_output"]
    asked, called, result = engine.requests[-1].messages
    assert asked.content == "How warm?"
    (call,) = called.tool_calls  # the engine gets ids of its own
    assert (called.content, call.name) == (CALL.text, "weather")
    assert (result.role, result.tool_call_id) == ("tool", call.id)
    assert result.content == '{"degrees": 15}'


async def test_a_response_may_be_followed_twice_at_once() -> None:
    engine = NamedEngine(lambda request: f"after {len(request.messages)}")
    async with open_openai_server(engine=engine) as (_, client):
        first = await create(client, "one")
        two, other = await asyncio.gather(
            create(client, "two", previous_response_id=first.id),
            create(client, "other", previous_response_id=first.id),
        )
        third = await create(client, "three", previous_response_id=two.id)
        assert [it.output_text for it in (first, two, other, third)] == [
            "after 1", "after 3", "after 3", "after 5",
        ]  # fmt: skip
        contents = [message.content for message in engine.requests[-1].messages]
        assert contents == ["one", "after 1", "two", "after 3", "three"]
        for response in (first, two, other, third):
            assert (await client.responses.retrieve(response.id)).id == response.id


async def test_the_whole_conversation_may_be_the_input() -> None:
    engine = NamedEngine("15 degrees.", "Fine.")
    sent: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "How warm?"}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "15"},
    ]
    async with open_openai_server(engine=engine) as (_, client):
        answer = await create(client, sent, tools=[THERMOMETER])
        follow = await create(client, "And you?", previous_response_id=answer.id)
    assert follow.status == "completed"
    roles = [message.role for message in engine.requests[-1].messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_an_item_may_be_named_by_its_id() -> None:
    engine = NamedEngine(CALL, "15 degrees.")
    async with open_openai_server(engine=engine) as (_, client):
        first = await create(client, "How warm?", tools=[THERMOMETER])
        sent: Any = [
            {"role": "user", "content": "How warm?"},
            *({"type": "item_reference", "id": item.id} for item in first.output),
            {"type": "function_call_output", "call_id": "call_1", "output": "15"},
        ]
        await create(client, sent, tools=[THERMOMETER])
    asked, called, result = engine.requests[-1].messages
    (call,) = called.tool_calls
    assert (called.content, call.name) == (CALL.text, "weather")
    assert result.tool_call_id == call.id
    assert asked.role == "user"


async def test_a_background_response_is_streamed_again_from_any_number() -> None:
    engine = NamedEngine(ScriptedReply(text="one two three four", pause_after=2))
    async with open_openai_server(engine=engine) as (_, client):
        created = await create(client, "count", background=True)
        assert created.status in ("queued", "in_progress")
        first = await client.responses.retrieve(created.id, stream=True)
        seen: list[Any] = []
        async for event in first:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await first.close()
        engine.resume()
        rest = await client.responses.retrieve(
            created.id, stream=True, starting_after=seen[-1].sequence_number
        )
        seen += [event async for event in rest]
        again = [event async for event in await client.responses.retrieve(created.id, stream=True)]
    assert [event.type for event in seen][:3] == [
        "response.created", "response.queued", "response.in_progress",
    ]  # fmt: skip
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in seen]
    assert seen[-1].response.output_text == "one two three four"


async def test_a_background_response_is_cancelled() -> None:
    engine = NamedEngine(ScriptedReply(text="one two three", pause_after=1))
    async with open_openai_server(engine=engine) as (_, client):
        created = await create(client, "count", background=True)
        await eventually(lambda: bool(engine.requests))
        for _ in range(2):
            cancelled = await client.responses.cancel(created.id)
            assert cancelled.status == "cancelled"
        plain = await create(client, "hi", model="parrot")
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(plain.id)


async def test_a_conversation_has_its_responses_one_after_the_other() -> None:
    engine = NamedEngine("Hello Bob.", "You are Bob.")
    async with open_openai_server(engine=engine) as (_, client):
        conversation = await client.conversations.create()
        first = await create(client, "I am Bob", conversation=conversation.id)
        second = await create(client, "Who am I?", conversation={"id": conversation.id})
        assert (await client.conversations.retrieve(conversation.id)).created_at > 0
        items: list[Any] = [
            item async for item in client.conversations.items.list(conversation.id, order="asc")
        ]
        page = await client.conversations.items.list(conversation.id, limit=1)
        one = await client.conversations.items.retrieve(
            items[1].id or "", conversation_id=conversation.id
        )
        assert (await client.responses.retrieve(first.id)).output == first.output
    assert first.conversation is not None
    assert second.output_text == "You are Bob."
    texts = [item.content[0].text for item in items]
    assert texts == ["I am Bob", "Hello Bob.", "Who am I?", "You are Bob."]
    assert page.data[0].id == items[-1].id
    assert page.has_more
    assert one.id == items[1].id
    assert [it.content for it in engine.requests[-1].messages] == [
        "I am Bob",
        "Hello Bob.",
        "Who am I?",
    ]


async def test_a_question_of_a_skill_is_answered_by_the_next_response() -> None:
    async with open_openai_server("x") as (_, client):
        question = await create(client, "a drink", model="waiter")
        assert question.output_text == "Tea or coffee?"
        answer = await create(client, "tea", model="auto", previous_response_id=question.id)
    assert answer.output_text == "One tea, please."


async def test_sources_are_annotations() -> None:
    async with open_openai_server("x") as (_, client):
        stream = await create(client, "leave?", model="scholar", stream=True)
        events = [event async for event in stream]
    final = events[-1].response
    (note,) = final.output[0].content[0].annotations
    assert (note.type, note.title) == ("url_citation", "The Handbook")
    assert "response.output_text.annotation.added" in [event.type for event in events]


async def test_the_reply_follows_a_schema() -> None:
    format: Any = {
        "format": {
            "type": "json_schema",
            "name": "point",
            "schema": {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "required": ["x"],
            },
        }
    }
    async with open_openai_server(engine=NamedEngine()) as (_, client):
        answer = await create(client, "a point", text=format)
        with pytest.raises(openai.BadRequestError) as raised:
            await create(client, "a point", text=format, model="talker")
    assert json.loads(answer.output_text) == {"x": 0}
    assert raised.value.param == "text.format"


async def test_a_reply_that_is_cut_is_incomplete() -> None:
    async with open_openai_server("one two three") as (_, client):
        answer = await create(client, "count", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


async def test_a_failed_response_is_an_error_and_in_a_stream_an_event() -> None:
    async with open_openai_server("x") as (_, client):
        stream = await create(client, "x", model="clumsy", stream=True)
        last = [event async for event in stream][-1]
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert last.response.error.code == "server_error"


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"input": []}, "input"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "input[0].content[0].type",
    ),
    (
        {"model": "seen", "input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "input[0].content[0]",
    ),
    (
        {
            "model": "seen",
            "input": [
                {"role": "user", "content": [{"type": "input_file", "file_data": "data:x,y"}]}
            ],
        },
        "input[0].content[0].file_data",
    ),
    ({"model": "seen", "include": ["message.output_text.logprobs"]}, "include"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"background": True, "store": False}, "background"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"metadata": {"k": "x" * 513}}, "metadata"),
    ({"previous_response_id": "resp_x", "conversation": "conv_x"}, "previous_response_id"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
)


async def test_what_cannot_be_honoured_is_refused_by_name() -> None:
    async with open_openai_server("hi") as (live_server, _):
        for fields, param in REFUSED:
            body = {"model": MODEL, "input": "x", **fields}
            status, answer = await live_server.post("/v1/responses", body)
            assert (fields, status, answer["error"]["param"]) == (fields, 400, param)
        status, _ = await live_server.post("/v1/conversations", {"metadata": {"a": "b"}})
        assert status == 400


def keyed(live_server: LiveServer, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=live_server.url("/v1"),
        api_key=key,
        max_retries=0,
        _strict_response_validation=True,
    )


async def test_nobody_else_sees_a_response_and_its_owner_deletes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {}
    for name in ("ada", "bob"):
        monkeypatch.setenv(f"KEY_{name.upper()}", f"{name}-0123456789abcdef")
        secret = Secret(f"env:KEY_{name.upper()}")
        keys[name] = AuthKey(secret=secret, person=name, rights=("talk", "read", "erase"))
    async with (
        open_live_server(
            engine=NamedEngine("one", "two"), channels=(OpenAIChannel(),), keys=keys
        ) as live_server,
        keyed(live_server, "ada-0123456789abcdef") as ada,
        keyed(live_server, "bob-0123456789abcdef") as bob,
    ):
        created = await create(ada, "mine")
        kept = await ada.conversations.create()
        await create(ada, "mine too", conversation=kept.id)
        for attempt in (
            lambda: bob.responses.retrieve(created.id),
            lambda: bob.responses.delete(created.id),
            lambda: bob.responses.cancel(created.id),
            lambda: bob.conversations.retrieve(kept.id),
            lambda: bob.conversations.items.list(kept.id),
            lambda: create(bob, "x", previous_response_id=created.id),
            lambda: create(bob, "x", conversation=kept.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt()
        await ada.responses.delete(created.id)
        await ada.conversations.delete(kept.id)
        with pytest.raises(openai.NotFoundError):
            await ada.responses.retrieve(created.id)
        assert not [item async for item in ada.conversations.items.list(kept.id)]


async def test_a_repeated_request_gets_the_first_response() -> None:
    engine = NamedEngine("once")
    async with open_openai_server(engine=engine) as (_, client):
        first, second = [
            await create(client, "x", extra_headers={"Idempotency-Key": "k"}) for _ in range(2)
        ]
        with pytest.raises(openai.ConflictError) as raised:
            await create(client, "other", extra_headers={"Idempotency-Key": "k"})
    assert first == second
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert len(engine.requests) == 1


async def test_a_response_that_is_not_stored_ends_with_its_connection() -> None:
    engine = NamedEngine(ScriptedReply(text="one two three", pause_after=1), tool_call("x"))
    async with open_openai_server(engine=engine) as (live_server, client):
        stream = await create(client, "count", store=False, stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        depth = live_server.server.ledger.queue_depth

        async def is_idle() -> bool:
            return (await depth()).running == 0

        await eventually(is_idle)


class Reader(Skill):
    """Tell the text of the files, and those of the history."""

    name = "reader"

    async def answer(self, turn: Turn) -> None:
        earlier = [each for entry in turn.history for each in entry.attachments or ()]
        for attachment in (*earlier, *turn.message.attachments):
            content = await turn.read_attachment(attachment)
            await turn.say(f"{attachment.name} {attachment.media_type} {content.decode()}; ")


async def test_a_file_of_the_input_reaches_the_skill_in_every_later_response() -> None:
    content = base64.b64encode(b"leave: 30 days").decode()
    part = {"type": "input_file", "filename": "leave.txt", "file_data": content}
    named = {**part, "filename": "b.md", "file_data": f"data:text/markdown;base64,{content}"}
    async with open_openai_server("x", skills=(Reader(),)) as (_, client):
        text = {"type": "input_text", "text": "How long?"}
        first = await create(
            client, [{"role": "user", "content": [text, part, named]}], model="reader"
        )
        second = await create(client, "And?", model="reader", previous_response_id=first.id)
        items: Any = await client.responses.input_items.list(first.id)
        (item,) = [it async for it in items]
    told = "leave.txt text/plain leave: 30 days; b.md text/markdown leave: 30 days; "
    assert (first.output_text, second.output_text) == (told, told)
    assert [(it.type, it.to_dict().get("filename")) for it in item.content] == [
        ("input_text", None),
        ("input_file", "leave.txt"),
        ("input_file", "b.md"),
    ]


async def test_log_probabilities_come_at_the_end_of_the_text() -> None:
    engine = LogprobEngine("one two")
    async with open_openai_server(engine=engine) as (_, client):
        stream = await create(client, "count", top_logprobs=1, stream=True)
        events = [event async for event in stream]
        read: Any = await client.responses.retrieve(events[-1].response.id)
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    (part,) = read.output[0].content
    for tokens in (done.logprobs, part.logprobs):
        assert [(it.token, it.logprob) for it in tokens] == [("one", -0.5), ("two", -0.5)]
        assert [it.top_logprobs[0].token for it in tokens] == ["no", "no"]
    assert read.top_logprobs == 1


async def test_log_probabilities_need_an_engine_that_has_them() -> None:
    async with open_openai_server("x") as (_, client):
        for fields in ({"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}):
            with pytest.raises(openai.BadRequestError) as raised:
                await create(client, "x", **fields)
            assert raised.value.param in fields
