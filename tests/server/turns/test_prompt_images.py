"""Which images of a conversation a prompt gets."""

from base64 import b64encode
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from tests.plugins.engines.vision_models import draw_png, png_header

from palaver.engine import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGES, ChatMessage, Image
from palaver.errors import InvalidInput, NotFound
from palaver.ledger import HistoryEntry
from palaver.messages import Attachment
from palaver.turns.attachments import read_data_url
from palaver.turns.prompt import build_messages, fit_prompt
from palaver.turns.prompt_images import (
    PromptImages,
    read_prompt_images,
)

SMALL = draw_png(1)
HALF_OF_THE_BYTES = SMALL + bytes(MAX_IMAGE_BYTES // 2)
HALF_OF_THE_PIXELS = png_header(5_000, MAX_IMAGE_PIXELS // 10_000)


def attached(name: str, *, size: int = 0, media_type: str = "image/png") -> Attachment:
    return Attachment(name=name, media_type=media_type, url=f"/v1/files/{name}", size=size)


def said(text: str, *attachments: Attachment, role: str = "user") -> HistoryEntry:
    return HistoryEntry(
        role=role,  # type: ignore[arg-type]
        text=text,
        turn=text,
        at=0.0,
        attachments=attachments or msgspec.UNSET,
    )


class Files:
    """Files by name; ``read`` lists the names of those that were read."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents
        self.names: list[str] = []

    async def read(self, attachment: Attachment) -> bytes:
        self.names.append(attachment.name)
        if attachment.name not in self._contents:
            raise NotFound(attachment.name)
        return self._contents[attachment.name]


async def earlier(
    contents: Mapping[str, bytes], history: Sequence[HistoryEntry], *own: Attachment
) -> tuple[dict[int, int], list[str]]:
    """Return the number of images by position, and the names of the files that were read."""
    files = Files(contents)
    images = await read_prompt_images(own, history, files.read)
    return {position: len(found) for position, found in images.earlier.items()}, files.names


async def test_the_images_of_people_are_seen_in_their_order() -> None:
    contents = {name: draw_png(number) for number, name in enumerate("abcd")}
    history = (
        said("one", attached("a"), attached("b")),
        said("two", attached("x"), role="assistant"),
        said("three", attached("t", media_type="text/plain"), attached("c")),
    )
    images = await read_prompt_images(
        [attached("p", media_type="application/pdf"), attached("d")], history, Files(contents).read
    )
    assert images.own == (Image("image/png", contents["d"]),)
    assert images.earlier == {
        0: (Image("image/png", contents["a"]), Image("image/png", contents["b"])),
        2: (Image("image/png", contents["c"]),),
    }
    messages = build_messages("Be brief.", history, "four", images)
    assert [(message.content, len(message.images)) for message in messages] == [
        ("Be brief.", 0),
        ("one", 2),
        ("two", 0),
        ("three", 1),
        ("four", 1),
    ]


async def test_the_newest_images_are_seen_up_to_the_limits() -> None:
    contents = dict.fromkeys(map(str, range(MAX_IMAGES + 3)), SMALL)
    history = [said(name, attached(name)) for name in contents]
    found, read = await earlier(contents, history, attached("0"))
    assert sorted(found) == list(range(len(history) - MAX_IMAGES + 1, len(history)))
    assert len(read) == MAX_IMAGES


@pytest.mark.parametrize("large", [HALF_OF_THE_BYTES, HALF_OF_THE_PIXELS])
async def test_bytes_and_pixels_are_limited_together(large: bytes) -> None:
    contents = {"a": SMALL, "b": large, "c": large, "d": SMALL}
    history = [said(name, attached(name)) for name in contents]
    assert (await earlier(contents, history))[0] in ({2: 1, 3: 1}, {1: 1, 2: 1, 3: 1})
    assert (await earlier(contents, history, attached("b")))[0] == {3: 1}


async def test_a_file_that_is_known_to_be_too_large_is_not_read() -> None:
    contents = {"a": SMALL, "b": SMALL}
    history = [said("one", attached("a", size=MAX_IMAGE_BYTES)), said("two", attached("b"))]
    assert await earlier(contents, history) == ({1: 1}, ["b"])


async def test_a_deleted_image_of_the_history_is_left_out() -> None:
    history = [said("one", attached("a")), said("two", attached("gone"), attached("b"))]
    found, _ = await earlier({"a": SMALL, "b": SMALL}, history)
    assert found == {0: 1, 1: 1}


async def test_an_image_of_the_history_that_no_engine_takes_is_left_out() -> None:
    contents = {
        "thin": png_header(1, 1000),
        "pdf": b"%PDF-1.7",
        "gif": b"GIF89a\1\0\1\0",
        "a": SMALL,
    }
    history = [said(name, attached(name)) for name in contents]
    found, _ = await earlier(contents, history)
    assert found == {3: 1}


async def test_the_images_of_the_message_itself_must_fit() -> None:
    contents = {"a": SMALL, "b": HALF_OF_THE_BYTES, "c": HALF_OF_THE_PIXELS}
    for own in (
        [attached("a")] * (MAX_IMAGES + 1),
        [attached("b")] * 2,
        [attached("c")] * 3,
    ):
        with pytest.raises(InvalidInput, match="10 images, with 20 MiB and 50 million pixels"):
            await read_prompt_images(own, [], Files(contents).read)
    with pytest.raises(NotFound):
        await read_prompt_images([attached("gone")], [], Files(contents).read)


async def test_an_image_that_no_engine_takes_is_named() -> None:
    files = Files({"a": SMALL, "thin.png": png_header(1, 1000), "text.png": b"Hello"})
    for name in ("thin.png", "text.png"):
        with pytest.raises(InvalidInput, match=f"'{name}'"):
            await read_prompt_images([attached("a"), attached(name)], [], files.read)


@pytest.mark.parametrize(
    ("budget", "shown", "least", "most"),
    [
        (3_000, [0, 10, 20, 39], 40, 40),
        (1_300, [39], 40, 40),
        (1_050, [], 40, 40),
        (500, [], 1, 14),
    ],
)
async def test_earlier_images_give_way_to_texts(
    budget: int, shown: list[int], least: int, most: int
) -> None:
    history = [said(f"{number}", attached("a")) for number in range(40)]
    image = Image("image/png", SMALL)
    images = PromptImages((image,), dict.fromkeys((0, 10, 20, 39), (image,)))

    async def count(messages: Sequence[ChatMessage]) -> int:
        return sum(20 + 200 * len(message.images) for message in messages)

    *earlier, last = await fit_prompt(
        "", history, "now", budget=budget, count_tokens=count, images=images
    )
    assert await count([*earlier, last]) <= budget
    assert [int(message.content) for message in earlier if message.images] == shown
    assert last.images == (image,)
    assert least <= len(earlier) <= most
    assert earlier[-1].content == "39"


async def test_the_tokens_of_images_are_counted_where_they_might_not_fit() -> None:
    counted: list[int] = []

    async def count(messages: Sequence[object]) -> int:
        counted.append(len(messages))
        return 1

    images = PromptImages((Image("image/png", SMALL),))
    for budget, expected in ((4_000, 0), (2_000, 1)):
        await fit_prompt("", [], "hi", budget=budget, count_tokens=count, images=images)
        assert len(counted) == expected
    await fit_prompt("", [], "hi", budget=2_000, count_tokens=count)
    assert len(counted) == 1


async def test_a_data_url_holds_its_content() -> None:
    url = f"data:image/png;base64,{b64encode(SMALL).decode()}"
    attachment = Attachment(name="a.png", media_type="image/png", url=url)
    assert await read_data_url(attachment) == SMALL
    with pytest.raises(NotFound):
        await read_data_url(attached("a"))
