"""Images at engine ``openai``: which servers see them, and what is sent to the servers."""

from base64 import b64decode

import pytest
from tests.plugins.engines.fault_injecting_server import (
    GENERIC_CARD,
    VLLM_CARD,
    Handler,
    Json,
    fault_injecting_servers,
    respond_error,
    send_stream,
    text_chunk,
)
from tests.plugins.engines.serving import build_openai
from tests.plugins.engines.support import TextCollector, request
from tests.plugins.engines.vision_models import draw_png

from palaver.engine import ChatMessage, Image
from palaver.errors import EngineUnavailable, PromptTooLong, Unsupported, UnusableImage

HELLO = send_stream(text_chunk("Hello"))
IMAGE, OTHER = (Image("image/png", draw_png(seed)) for seed in (1, 2))
MESSAGES = (
    ChatMessage("user", "Look", (IMAGE, OTHER)),
    ChatMessage("assistant", "Yes?"),
    ChatMessage("user", "", (IMAGE,)),
)


async def sees(*cards: Json, **settings: object) -> bool:
    async with fault_injecting_servers(*[HELLO for _ in cards]) as servers:
        for server, card in zip(servers, cards, strict=True):
            server.listed = {"data": [card]}
        engine = build_openai(*(server.url for server in servers), **settings)
        info = await engine.start()
        await engine.close()
    return "vision" in info.capabilities


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
        ({"architecture": {"input_modalities": ["text", "image"]}}, True),
        ({"architecture": {"input_modalities": ["text"]}}, False),
        ({"architecture": "transformer"}, False),
        ({"capabilities": {"vision": True}}, True),
        ({"capabilities": {"vision": False}}, False),
        ({"capabilities": {"vision": "yes"}}, False),
        ({"capabilities": ["completion", "multimodal"]}, True),
        ({"capabilities": ["completion"]}, False),
    ],
)
async def test_a_server_may_tell_whether_its_model_sees(more: Json, expected: bool) -> None:
    assert await sees(GENERIC_CARD | more) is expected


async def test_all_servers_must_see() -> None:
    seeing = GENERIC_CARD | {"capabilities": {"vision": True}}
    assert await sees(seeing, seeing)
    assert not await sees(seeing, GENERIC_CARD)


async def test_the_setting_decides() -> None:
    assert await sees(GENERIC_CARD, vision=True)
    assert not await sees(GENERIC_CARD | {"capabilities": {"vision": True}}, vision=False)
    assert not await sees(VLLM_CARD, vision=False)


async def test_vllm_is_asked_by_counting_an_image() -> None:
    assert await sees(VLLM_CARD)
    async with fault_injecting_servers(HELLO, card=VLLM_CARD) as (server,):
        server.sees_images = False
        engine = build_openai(server.url)
        assert "vision" not in (await engine.start()).capabilities
        with pytest.raises(Unsupported, match="vision"):
            await engine.generate(request(MESSAGES), TextCollector())
        await engine.close()


async def sent(card: Json, tenant: str = "t") -> Json:
    """Return the body that a server gets for `MESSAGES`."""
    async with fault_injecting_servers(HELLO, card=card) as (server,):
        engine = build_openai(server.url, vision=True)
        await engine.start()
        await engine.generate(request(MESSAGES, tenant=tenant), TextCollector())
        await engine.close()
    return server.bodies[-1]


async def test_images_are_sent_as_data_urls_before_the_text() -> None:
    first, reply, last = (await sent(GENERIC_CARD))["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "image_url", "text"]
    for part, image in zip(first["content"], (IMAGE, OTHER), strict=False):
        head, _, data = part["image_url"]["url"].partition(",")
        assert (head, b64decode(data)) == ("data:image/png;base64", image.data)
        assert part.keys() == {"type", "image_url"}
    assert first["content"][2]["text"] == "Look"
    assert reply["content"] == "Yes?"
    assert [part["type"] for part in last["content"]] == ["image_url"]


async def test_vllm_knows_an_image_by_an_id_of_the_tenant() -> None:
    def ids(body: Json) -> list[str]:
        parts = [part for it in (0, 2) for part in body["messages"][it]["content"]]
        return [part["uuid"] for part in parts if part["type"] == "image_url"]

    mine, again, others = [ids(await sent(VLLM_CARD, tenant)) for tenant in ("a", "a", "b")]
    assert mine == again
    assert len({*mine, *others}) == 4
    assert mine[0] == mine[2]


async def failure(handler: Handler) -> Exception:
    async with fault_injecting_servers(handler) as (server,):
        engine = build_openai(server.url, vision=True)
        await engine.start()
        with pytest.raises(Exception) as caught:  # noqa: PT011  the kind is the test's subject
            await engine.generate(request(MESSAGES), TextCollector())
        await engine.close()
    return caught.value


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "At most 1 image(s) may be provided", UnusableImage),
        (400, "this model does not take images", UnusableImage),
        (413, "body too large", UnusableImage),
        (400, "maximum context length is 4096", PromptTooLong),
        (500, "crash", EngineUnavailable),
    ],
)
async def test_a_server_that_refuses_images_is_told_apart(
    status: int, message: str, kind: type[Exception]
) -> None:
    error = await failure(respond_error(status, {"error": {"message": message}}))
    assert type(error) is kind
    assert message in str(error)


async def test_images_are_counted_by_a_completion_or_estimated() -> None:
    usage = {"usage": {"prompt_tokens": 1234, "completion_tokens": 1}}
    counts = []
    for answer in (usage, {}):
        async with fault_injecting_servers(respond_error(200, answer)) as (server,):
            engine = build_openai(server.url, vision=True)
            await engine.start()
            counts.append(await engine.count_tokens(MESSAGES))
            await engine.close()
    assert counts[0] == 1234
    assert 9_000 <= counts[1] < 10_000
