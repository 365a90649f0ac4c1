"""Conversations with the chat skill."""

from base64 import b64encode
from collections.abc import Sequence

import pytest
from tests.plugins.engines.vision_models import draw_png

from palaver.engine import MAX_IMAGES, ChatMessage, Image, ToolDefinition
from palaver.errors import UnusableImage
from palaver.messages import Attachment
from palaver.testing import ScriptedEngine, ScriptedReply, converse
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


CAT, DOG = (Image("image/png", draw_png(seed)) for seed in (1, 2))


def attach(*images: Image) -> tuple[Attachment, ...]:
    return tuple(
        Attachment(
            name="picture.png",
            media_type=image.media_type,
            url=f"data:{image.media_type};base64,{b64encode(image.data).decode()}",
        )
        for image in images
    )


async def test_it_sees_the_images_of_the_message_and_of_earlier_ones() -> None:
    engine = ScriptedEngine("A cat.", "A dog.", "Both.")
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("What is it?", attachments=attach(CAT)) == "A cat."
        assert await chat.say("", attachments=attach(DOG)) == "A dog."
        assert await chat.say("Which is larger?") == "Both."
    assert [(m.content, m.images) for m in engine.requests[2].messages[1:]] == [
        ("What is it?", (CAT,)),
        ("A cat.", ()),
        ("", (DOG,)),
        ("A dog.", ()),
        ("Which is larger?", ()),
    ]


async def test_it_declines_images_that_the_model_cannot_see() -> None:
    engine = ScriptedEngine("Hello.", "A beach?", missing_capabilities=("vision",))
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("hello") == "Hello."
        reply = await chat.say("What is it?", attachments=attach(CAT))
        assert (reply, reply.outcome) == (prompts.BLIND, "done")
        assert await chat.say("A photo with sand and sea.") == "A beach?"
    assert len(engine.requests) == 2
    assert not any(message.images for message in engine.requests[1].messages)


async def test_too_many_images_are_a_problem_that_is_named() -> None:
    async with converse(Chat, engine=ScriptedEngine("never")) as chat:
        reply = await chat.say("Look", attachments=attach(*[CAT] * (MAX_IMAGES + 1)))
    assert reply.outcome == "failed"
    assert reply.problem is not None
    assert f"may have {MAX_IMAGES} images" in reply.problem.message


async def test_a_reply_about_an_image_continues_after_a_crash_of_the_engine() -> None:
    engine = ScriptedEngine(ScriptedReply(text="It is a cat.", crash_after=2))
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("What is it?", attachments=attach(CAT)) == "It is a cat."
    first, second = engine.requests
    assert first.messages == second.messages
    assert second.partial == "It is"
    assert second.messages[-1].images == (CAT,)


async def test_it_names_the_formats_that_it_can_see() -> None:
    photo = Attachment(name="a.heic", media_type="image/heic", url="data:image/heic;base64,AAAA")
    async with converse(Chat, engine=ScriptedEngine("never")) as chat:
        assert await chat.say("Look", attachments=(photo,)) == prompts.UNKNOWN_IMAGE
        assert await chat.say("Look", attachments=(*attach(CAT), photo)) == prompts.UNKNOWN_IMAGE


class Decoder(ScriptedEngine):
    """An engine that cannot read the picture of the dog."""

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        if any(DOG in message.images for message in messages):
            raise UnusableImage("it is damaged")
        return await super().count_tokens(messages, tools)


async def test_a_damaged_image_fails_its_own_message_and_no_other() -> None:
    engine = Decoder("A cat.", "The cat.")
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("What is it?", attachments=attach(CAT)) == "A cat."
        reply = await chat.say("And this?", attachments=attach(DOG))
        assert reply.problem is not None
        assert (reply.outcome, reply.problem.code) == ("failed", "unusable_image")
        assert await chat.say("Which is larger?") == "The cat."
    assert not any(message.images for message in engine.requests[1].messages)
