"""Images that people upload and send, from the file to the engine."""

from typing import Any

import pytest
from tests.plugins.engines.vision_models import draw_png
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.test_files import send, upload, wait_for_reply

from palaver import Skill, Turn
from palaver.engine import Image
from palaver.testing import ScriptedEngine

pytestmark = pytest.mark.slow

CAT, DOG = draw_png(1), draw_png(2)


class Seer(Skill):
    """Tell what is in the images."""

    name = "seer"
    sees_images = True

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, history=turn.history, images=True)


class Reader(Skill):
    """Tell what files a message has."""

    name = "reader"

    async def answer(self, turn: Turn) -> None:
        for attachment in turn.message.attachments:
            content = await turn.read_attachment(attachment)
            await turn.say(f"{attachment.name}: {len(content)} bytes\n")


async def talk(live_server: LiveServer, *ids: str, text: str = "What is it?", **body: Any) -> str:
    """Send a message with files, and return the reply."""
    await send(live_server, *ids, text=text, **body)
    snapshot = await wait_for_reply(live_server)
    reply: str = snapshot["history"][-1]["text"]
    return reply


async def test_a_skill_reads_the_files_of_its_message() -> None:
    async with open_live_server(skills=[Reader()]) as live_server:
        files = [await upload(live_server, content) for content in (b"Hello", bytes(900_000))]
        reply = await talk(live_server, *(file["id"] for file in files), skill="reader")
    assert reply == "a.txt: 5 bytes\na.txt: 900000 bytes\n"


async def test_the_engine_sees_the_images_of_this_and_of_earlier_messages() -> None:
    engine = ScriptedEngine("A cat.", "A dog.", "The dog.")
    async with open_live_server(engine=engine, skills=[Seer()]) as live_server:
        cat, dog, note = [
            (await upload(live_server, content, name))["id"]
            for content, name in ((CAT, "cat.jpg"), (DOG, "dog.png"), (b"Hello", "note.png"))
        ]
        assert await talk(live_server, cat, note) == "A cat."
        assert await talk(live_server, dog, text="") == "A dog."
        assert await talk(live_server, text="Which is larger?", skill="seer") == "The dog."
    seen = [(message.content, message.images) for message in engine.requests[2].messages]
    assert seen == [
        ("What is it?", (Image("image/png", CAT),)),
        ("A cat.", ()),
        ("", (Image("image/png", DOG),)),
        ("A dog.", ()),
        ("Which is larger?", ()),
    ]


async def test_a_deleted_image_is_not_seen_again() -> None:
    engine = ScriptedEngine("A cat.", "I forgot.")
    async with open_live_server(engine=engine, skills=[Seer()]) as live_server:
        cat = (await upload(live_server, CAT))["id"]
        await talk(live_server, cat)
        url = live_server.url(f"/v1/files/{cat}")
        async with live_server.session.delete(url, params={"person": "ada"}) as response:
            assert response.status == 200
        assert await talk(live_server, text="And now?", skill="seer") == "I forgot."
    assert not any(message.images for message in engine.requests[1].messages)


@pytest.mark.parametrize(
    ("skills", "missing", "expected"),
    [
        ([Seer()], (), True),
        ([Seer()], ("vision",), False),
        ([Reader()], (), False),
    ],
    ids=["seen", "blind engine", "blind skill"],
)
async def test_clients_learn_whether_images_are_seen(
    skills: list[Skill], missing: tuple[Any, ...], expected: bool
) -> None:
    engine = ScriptedEngine(missing_capabilities=missing)
    async with open_live_server(engine=engine, skills=skills) as live_server:
        _, about = await live_server.get("/v1/about")
    assert about["vision"] is expected
