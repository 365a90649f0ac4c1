"""Conformance suite of the engines that see images. `test_conformance` has the others."""

import asyncio

import pytest
from tests.plugins.engines.models import ENDLESS_PROMPT
from tests.plugins.engines.support import StartedEngine, TextCollector, request
from tests.plugins.engines.vision_models import IMAGE_TOKENS, draw_png, png_header

from palaver.engine import (
    MAX_ASPECT_RATIO,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGES,
    ChatMessage,
    Generation,
    Image,
    Role,
)
from palaver.errors import InvalidInput, PromptTooLong

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PICTURES = {seed: Image("image/png", draw_png(seed)) for seed in range(1, 6)}


def show(*seeds: int, text: str = ENDLESS_PROMPT) -> ChatMessage:
    return ChatMessage("user", text, tuple(PICTURES[seed] for seed in seeds))


async def ask(seeing: StartedEngine, *messages: ChatMessage, **options: object) -> Generation:
    return await seeing.engine.generate(request(messages, **options), TextCollector())


async def test_each_image_gets_its_own_reply_every_time(seeing: StartedEngine) -> None:
    seen = [(), (1,), (2,), (3,), (4,), (1, 1), (1, 2)]
    first, second = [[(await ask(seeing, show(*it))).text for it in seen] for _ in range(2)]
    assert first == second
    assert len(set(first)) == len(seen)


async def test_the_order_of_images_matters(seeing: StartedEngine) -> None:
    one, other = await ask(seeing, show(1, 2)), await ask(seeing, show(2, 1))
    assert one.text != other.text
    assert one.usage.prompt_tokens == other.usage.prompt_tokens


async def test_concurrent_requests_with_images_equal_single_ones(seeing: StartedEngine) -> None:
    prompts = [show(*seeds, text=f"Question {n}") for n in range(3) for seeds in ((1,), (2, 3), ())]
    alone = [(await ask(seeing, prompt, max_tokens=24)).text for prompt in prompts]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(seeing, prompt, max_tokens=24)) for prompt in prompts]
    assert [task.result().text for task in tasks] == alone


async def test_images_of_earlier_messages_are_seen_too(seeing: StartedEngine) -> None:
    def talk(seed: int) -> tuple[ChatMessage, ...]:
        return (
            ChatMessage("system", "Be brief."),
            show(seed, text="Look"),
            ChatMessage("assistant", "A table."),
            show(5),
        )

    assert (await ask(seeing, *talk(1))).text != (await ask(seeing, *talk(2))).text


async def test_an_image_needs_no_text(seeing: StartedEngine) -> None:
    one, other = await ask(seeing, show(1, text="")), await ask(seeing, show(2, text=""))
    assert one.text
    assert one.text != other.text


async def test_the_tokens_of_images_are_counted(seeing: StartedEngine) -> None:
    count = seeing.engine.count_tokens
    plain = await count([show()])
    each = 16 if seeing.name == "scripted" else IMAGE_TOKENS
    for seeds in ((1,), (1, 2, 3)):
        messages = (show(*seeds), ChatMessage("assistant", "Yes"), show(4))
        generation = await ask(seeing, *messages)
        assert generation.usage.prompt_tokens == await count(messages)
        assert await count([show(*seeds)]) == plain + each * len(seeds)


async def test_a_placeholder_in_a_text_is_no_image(seeing: StartedEngine) -> None:
    count = seeing.engine.count_tokens
    text = "What does <image> mean? <|im_end|> <fake_token_around_image>"
    more = await count([show(1, text=text)]) - await count([show(text=text)])
    assert more == await count([show(1)]) - await count([show()])
    assert (await ask(seeing, show(1, text=text))).text


async def test_a_reply_about_an_image_continues(seeing: StartedEngine) -> None:
    whole = await ask(seeing, show(1, 2))
    for cut in (1, len(whole.text) // 3, len(whole.text) // 2):
        rest = await ask(seeing, show(1, 2), partial=whole.text[:cut])
        assert whole.text[:cut] + rest.text == whole.text
        assert rest.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_images_that_leave_no_room_are_too_long(seeing: StartedEngine) -> None:
    count = seeing.engine.count_tokens
    window = seeing.engine_info.context_window
    each = await count([show(text=" rain" * 2)]) - await count([show(text=" rain")])
    words = (window - await count([show(text=" rain")])) // each - 2
    text = " rain" * words
    assert await count([show(text=text)]) < window
    with pytest.raises(PromptTooLong):
        await ask(seeing, show(1, text=text))
    assert (await ask(seeing, show(1))).text


async def test_no_tenant_sees_that_another_has_sent_an_image(seeing: StartedEngine) -> None:
    message = show(1, 2, text="A prompt of some length, " * 20)
    cached = [
        (await ask(seeing, message, tenant=tenant, max_tokens=2)).usage.cached_tokens
        for tenant in ("left", "left", "right")
    ]
    assert cached[0] == cached[2] == 0


OVERSIZED = png_header(9000, MAX_IMAGE_PIXELS // 9000 + 1)
WRONG = {
    "too many": (*[PICTURES[1]] * (MAX_IMAGES + 1),),
    "too many bytes": (Image("image/png", draw_png(1) + bytes(MAX_IMAGE_BYTES)),),
    "too many pixels": (Image("image/png", OVERSIZED),),
    "too many pixels together": (*[Image("image/png", png_header(5000, 5000))] * 3,),
    "too thin": (Image("image/png", png_header(1, MAX_ASPECT_RATIO + 1)),),
    "no pixels": (Image("image/png", png_header(0, 5)),),
    "empty": (Image("image/png", b""),),
    "no image": (Image("image/png", b"%PDF-1.7 " + bytes(100)),),
    "another type": (PICTURES[1], Image("image/jpeg", draw_png(1))),
    "unknown type": (Image("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_unusable_image_is_refused(seeing: StartedEngine, wrong: str) -> None:
    message = ChatMessage("user", ENDLESS_PROMPT, WRONG[wrong])
    with pytest.raises(InvalidInput, match="image"):
        await ask(seeing, message)
    with pytest.raises(InvalidInput, match="image"):
        await seeing.engine.count_tokens([message])
    assert (await ask(seeing, show(1), max_tokens=2)).text


async def test_a_damaged_image_is_refused(seeing: StartedEngine) -> None:
    if seeing.name == "scripted":
        pytest.skip("the scripted engine decodes no image")
    damaged = draw_png(1)[:-200]
    message = ChatMessage("user", ENDLESS_PROMPT, (PICTURES[2], Image("image/png", damaged)))
    with pytest.raises(InvalidInput):
        await ask(seeing, message)
    with pytest.raises(InvalidInput):
        await seeing.engine.count_tokens([message])
    assert (await ask(seeing, show(1), max_tokens=2)).text


@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_only_users_send_images(seeing: StartedEngine, role: Role) -> None:
    with pytest.raises(InvalidInput, match=role):
        await ask(seeing, ChatMessage(role, "Look", (PICTURES[1],)), show())
