"""Images in requests of OpenAI's chat API."""

from base64 import b64encode
from typing import Any

import openai
import pytest
from tests.plugins.channels.openai_support import (
    MODEL,
    NamedEngine,
    ask,
    assistant,
    open_openai_server,
    user,
)
from tests.plugins.engines.vision_models import draw_png, png_header

from palaver import Skill, Turn
from palaver.engine import MAX_IMAGE_PIXELS, MAX_IMAGES, ChatMessage, Image

pytestmark = pytest.mark.slow

CAT, DOG = (Image("image/png", draw_png(seed)) for seed in (1, 2))


class Seer(Skill):
    """Tell what is in the images."""

    name = "seer"
    sees_images = True

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, history=turn.history, images=True)


def url_of(image: Image) -> str:
    return f"data:{image.media_type};base64,{b64encode(image.data).decode()}"


def show(image: Image | str) -> dict[str, Any]:
    url = image if isinstance(image, str) else url_of(image)
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def say(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize("model", [MODEL, "seer", "auto"])
async def test_a_model_that_sees_gets_the_images_of_all_messages(model: str) -> None:
    engine = NamedEngine("A dog.")
    conversation = (
        user([say("Look: "), show(CAT), say("What is it?")]),
        assistant("A cat."),
        user([show(DOG), {"type": "input_image", "image_url": url_of(CAT)}]),
    )
    async with open_openai_server(engine=engine, skills=[Seer()]) as (_, client):
        answer = await ask(client, *conversation, model=model)
    assert answer.choices[0].message.content == "A dog."
    assert engine.requests[-1].messages == (
        ChatMessage("user", "Look: What is it?", (CAT,)),
        ChatMessage("assistant", "A cat."),
        ChatMessage("user", "", (DOG, CAT)),
    )


async def test_a_message_with_images_goes_to_a_skill_that_sees_them() -> None:
    async with open_openai_server(engine=NamedEngine("A cat."), skills=[Seer()]) as (_, client):
        answer = await ask(client, user([say("parrot this"), show(CAT)]), model="auto")
    assert answer.model == "seer"


async def refusal(*messages: Any, engine: NamedEngine | None = None, **more: Any) -> Any:
    """Return the error of a request."""
    engine = engine or NamedEngine("never")
    more.setdefault("model", "seer")
    async with open_openai_server(engine=engine, skills=[Seer()]) as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, *messages, **more)
    assert not engine.requests
    return refused.value


@pytest.mark.parametrize(
    ("url", "code", "problem"),
    [
        ("https://example.org/cat.png", "unsupported_parameter", "fetches no images"),
        ("http://169.254.169.254/latest", "unsupported_parameter", "fetches no images"),
        ("file:///etc/passwd", "unsupported_parameter", "fetches no images"),
        ("data:image/png,raw", "invalid_value", "base64"),
        ("data:image/png;base64,A", "invalid_value", "base64"),
        ("data:image/png;base64,!!!!", "invalid_value", "base64"),
        ("data:image/png;base64,", "invalid_value", "image/png, image/jpeg"),
        ("data:image/png;base64,AAAA", "invalid_value", "image/png, image/jpeg"),
    ],
)
@pytest.mark.parametrize("model", [MODEL, "seer"])
async def test_an_image_that_cannot_be_read_is_named(
    url: str, code: str, problem: str, model: str
) -> None:
    for messages in (
        (user([say("Look"), show(CAT), show(url)]),),
        (user([say("Look"), show(CAT), show(url)]), assistant("?"), user("What is it?")),
    ):
        error = await refusal(*messages, model=model)
        assert (error.param, error.code) == ("messages[0].content[2].image_url", code)
        assert problem in error.message


async def test_an_image_without_a_url_is_named() -> None:
    for part in ({"type": "image_url"}, {"type": "image_url", "image_url": {}}):
        error = await refusal(user([part]))
        assert error.param == "messages[0].content[0].image_url"


@pytest.mark.parametrize(
    "images",
    [[CAT] * (MAX_IMAGES + 1), [Image("image/png", png_header(MAX_IMAGE_PIXELS, 1))]],
    ids=["number", "size"],
)
@pytest.mark.parametrize("model", [MODEL, "seer"])
async def test_too_much_for_one_request_is_refused(images: list[Image], model: str) -> None:
    error = await refusal(user([show(image) for image in images]), model=model)
    assert error.param == "messages"


async def test_a_model_without_sight_refuses_images_and_skips_earlier_ones() -> None:
    blind = NamedEngine("A cat?", missing_capabilities=("vision",))
    for model in (MODEL, "seer", "auto"):
        error = await refusal(user([say("Look"), show(CAT)]), engine=blind, model=model)
        assert error.param == "messages[0].content[1].type"
        assert f"{MODEL!r} sees no images" in error.message
    error = await refusal(user([show(CAT)]), model="parrot")
    assert "'parrot' sees no images" in error.message
    assert "seer" in error.message
    async with open_openai_server(engine=blind, skills=[Seer()]) as (_, client):
        await ask(client, user([say("Look "), show(CAT)]), assistant("?"), user("so?"), model=MODEL)
    assert blind.requests[-1].messages[0] == ChatMessage("user", "Look [image]")


async def test_images_of_other_roles_are_no_images() -> None:
    engine = NamedEngine("Yes.")
    async with open_openai_server(engine=engine) as (_, client):
        sent = {"role": "tool", "tool_call_id": "c", "content": [say("seen "), show(CAT)]}
        await ask(client, user("hi"), sent, user("so?"), model=MODEL)
    contents = [(message.content, message.images) for message in engine.requests[-1].messages]
    assert any("seen [image]" in text for text, _ in contents)
    assert not any(images for _, images in contents)


async def test_a_conversation_that_the_server_keeps_takes_no_images() -> None:
    headers = {"X-Palaver-Thread": "mine"}
    error = await refusal(user([show(CAT)]), extra_headers=headers)
    assert error.param == "messages[0].content[0].type"
    assert "X-Palaver-Thread" in error.message


async def test_a_repeated_request_with_images_gets_the_same_reply() -> None:
    engine = NamedEngine("A cat.", "Another cat.")
    headers = {"Idempotency-Key": "k"}
    async with open_openai_server(engine=engine, skills=[Seer()]) as (_, client):
        for _ in range(2):
            answer = await ask(client, user([show(CAT)]), model="seer", extra_headers=headers)
            assert answer.choices[0].message.content == "A cat."
        with pytest.raises(openai.ConflictError):
            await ask(client, user([show(DOG)]), model="seer", extra_headers=headers)
