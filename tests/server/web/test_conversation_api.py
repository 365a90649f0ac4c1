"""The HTTP API for a person's conversations: list, search, titles, deletion, export, shares."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.conversations import MAX_SHARES, MAX_TITLE_LENGTH
from palaver.directory import clean_title, find_excerpt, first_words
from palaver.testing import ScriptedEngine

pytestmark = pytest.mark.slow

ROOT = "/v1/conversations"


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[LiveServer]:
    async with open_live_server() as live_server, live_server.browser() as browser:
        yield browser


async def talk(browser: LiveServer, thread: str, text: str) -> None:
    status, reply = await browser.post(f"{ROOT}/{thread}/messages?wait=true", {"text": text})
    assert (status, reply["outcome"]) == (200, "done"), reply


async def change(browser: LiveServer, thread: str, **body: object) -> tuple[int, Any]:
    return await request(browser, "PATCH", f"{ROOT}/{thread}", json=body)


async def request(
    browser: LiveServer, method: str, path: str, **options: Any
) -> tuple[int, Any]:  # Any: options of the request, JSON
    async with browser.session.request(method, browser.url(path), **options) as response:
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json else text


async def threads(browser: LiveServer, query: str = "") -> list[str]:
    status, listed = await browser.get(f"{ROOT}{query}")
    assert status == 200, listed
    return [each["thread"] for each in listed["conversations"]]


# Lists


async def test_each_browser_lists_its_own(browser: LiveServer) -> None:
    for thread in ("a", "b"):
        await talk(browser, thread, "hello")
    async with browser.browser() as other:
        await talk(other, "c", "hello")
        assert await threads(other) == ["c"]
    assert await threads(browser) == ["b", "a"]


async def test_a_list_is_read_in_parts(browser: LiveServer) -> None:
    for thread in "abcde":
        await talk(browser, thread, "hello")
    found, before = [], ""
    while True:
        _, part = await browser.get(f"{ROOT}?limit=2&before={before}")
        found += [each["thread"] for each in part["conversations"]]
        before = part["next"]
        if not before:
            break
    assert found == ["e", "d", "c", "b", "a"]


async def test_pins_archive_and_titles_are_changed(browser: LiveServer) -> None:
    for thread in "abc":
        await talk(browser, thread, "hello")
    status, entry = await change(browser, "a", title="Ahoi 🦜", pinned=True)
    assert (status, entry["title"], entry["pinned"]) == (200, "Ahoi 🦜", True)
    await change(browser, "b", archived=True)
    assert await threads(browser) == ["c", "a"]
    assert await threads(browser, "?pinned=true") == ["a"]
    assert await threads(browser, "?archived=true") == ["b"]
    status, entry = await change(browser, "a", title=None, pinned=False)
    assert (entry["title"], entry["pinned"]) == ("Ahoi 🦜", False)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=x", "limit"),
        (f"?limit=000000001{'9' * 5_000}", "limit"),
        ("?pinned=yes", "pinned"),
        ("?archived=1", "archived"),
        ("?before=x", "position"),
        ("?q=", "q="),
        ("?q=%20", "q="),
        (f"?q={'x' * 201}", "q="),
    ],
)
async def test_a_wrong_query_is_named(browser: LiveServer, query: str, name: str) -> None:
    status, answer = await browser.get(f"{ROOT}{query}")
    assert (status, answer["error"]["code"]) == (400, "invalid_input")
    assert name in answer["error"]["message"]


@pytest.mark.parametrize(
    "body", [{"title": "x" * (MAX_TITLE_LENGTH + 1)}, {"title": "a\nb"}, {"pinned": "yes"}, []]
)
async def test_a_wrong_change_is_refused(browser: LiveServer, body: object) -> None:
    await talk(browser, "a", "hello")
    status, answer = await request(browser, "PATCH", f"{ROOT}/a", json=body)
    assert (status, answer["error"]["code"]) == (400, "invalid_input")


async def test_people_behind_a_shared_identity_list_nothing() -> None:
    async with open_live_server() as live_server:
        await talk(live_server, "a", "hello")
        status, answer = await live_server.get(ROOT)
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert "listed" in answer["error"]["message"]
        await live_server.post(f"{ROOT}/b/messages?wait=true", {"text": "hi", "person": "ada"})
        assert await threads(live_server, "?person=ada") == ["b"]


# Search


async def test_a_search_finds_titles_messages_and_replies(browser: LiveServer) -> None:
    await talk(browser, "a", "We sail to Zanzibar at dawn")
    await talk(browser, "b", "nothing here")
    await change(browser, "b", title="About ZANZIBAR")
    await talk(browser, "c", "/scholar how much leave?")
    await talk(browser, "d", "ｚａｎｚｉｂａｒ in wide letters")
    _, found = await browser.get(f"{ROOT}?q=zanzibar")
    assert [each["thread"] for each in found["conversations"]] == ["d", "b", "a"]
    assert [each["excerpt"] for each in found["conversations"]] == [
        "zanzibar in wide letters",
        "",
        "We sail to Zanzibar at dawn",
    ]
    assert await threads(browser, "?q=30 days") == ["c"]
    assert await threads(browser, "?q=zanzibar&archived=true") == []
    async with browser.browser() as other:
        assert await threads(other, "?q=zanzibar") == []


async def test_a_search_is_read_in_parts(browser: LiveServer) -> None:
    for number in range(6):
        await talk(browser, f"t{number}", "parrot" if number % 2 else "owl")
    found, before = [], ""
    while True:
        _, part = await browser.get(f"{ROOT}?q=parrot&limit=1&before={before}")
        found += [each["thread"] for each in part["conversations"]]
        before = part["next"]
        if not before:
            break
    assert found == ["t5", "t3", "t1"]


async def test_a_search_reads_a_long_history_to_its_beginning(browser: LiveServer) -> None:
    await talk(browser, "a", "the first word is Quetzal")
    for number in range(30):
        await talk(browser, "a", f"{number} " + "x" * 30_000)
    assert await threads(browser, "?q=quetzal") == ["a"]
    assert await threads(browser, "?q=wyvern") == []


def test_an_excerpt_shows_what_surrounds_the_find() -> None:
    text = "before " * 20 + "the Straße is\nlong" + " after" * 40
    excerpt = find_excerpt(text, "strasse is long")
    assert "strasse is long" in excerpt.casefold().replace("ß", "ss")
    assert excerpt.startswith("… ")
    assert excerpt.endswith(" …")
    assert find_excerpt(text, "street") == ""
    assert "needle" in find_excerpt("ß " * 200 + "Needle", "needle")


# Titles


async def test_the_model_makes_the_title_once() -> None:
    engine = ScriptedEngine(' "Sailing to Zanzibar."\nAnd more')
    async with open_live_server(engine=engine) as live_server, live_server.browser() as browser:
        await talk(browser, "a", "We sail to Zanzibar at dawn")
        status, entry = await browser.post(f"{ROOT}/a/title")
        assert (status, entry["title"]) == (200, "Sailing to Zanzibar")
        (asked,) = engine.requests
        assert "We sail to Zanzibar at dawn" in asked.messages[-1].content
        _, entry = await browser.post(f"{ROOT}/a/title")
        assert entry["title"] == "Sailing to Zanzibar"
        assert len(engine.requests) == 1


async def test_a_chosen_title_stays(browser: LiveServer) -> None:
    await talk(browser, "a", "hello")
    await change(browser, "a", title="Mine")
    _, entry = await browser.post(f"{ROOT}/a/title")
    assert entry["title"] == "Mine"


async def test_without_a_usable_reply_the_first_words_are_the_title() -> None:
    engine = ScriptedEngine(" ... \n")
    async with open_live_server(engine=engine) as live_server, live_server.browser() as browser:
        await talk(browser, "a", "# We sail to Zanzibar at dawn, and then we sail back")
        _, entry = await browser.post(f"{ROOT}/a/title")
        assert entry["title"] == "We sail to Zanzibar at dawn, and then"


async def test_there_is_no_title_before_the_first_reply(browser: LiveServer) -> None:
    status, answer = await browser.post(f"{ROOT}/new/title")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    await browser.post(f"{ROOT}/new/messages", {"text": "/scripted go"})
    status, entry = await browser.post(f"{ROOT}/new/title")
    assert (status, entry["title"]) == (200, "")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("**Sailing**", "Sailing"),
        ("「航海」", "「航海」"),
        ("\n\nTitle: x", "Title: x"),
        ("a\x1b[31m\tb", "a [31m b"),
        ("word " * 40, "word word word word word word word word word word word word"),
        ("x" * 500, "x" * 60),
        ('""', ""),
    ],
)
def test_a_title_is_one_clean_line(text: str, title: str) -> None:
    assert clean_title(text) == title


def test_first_words_are_those_of_a_line_that_has_some() -> None:
    assert first_words("\n \n") == "…"
    assert first_words("x" * 300) == "x" * 60
    assert first_words("###\nSail home") == "Sail home"


# Deletion


async def test_a_deleted_conversation_is_gone(browser: LiveServer) -> None:
    for thread in "ab":
        await talk(browser, thread, "hello")
    status, receipt = await request(browser, "DELETE", f"{ROOT}/a")
    assert (status, receipt["conversations"], receipt["messages"]) == (200, 1, 1)
    assert await threads(browser) == ["b"]
    _, conversation = await browser.get(f"{ROOT}/a")
    assert conversation["snapshot"]["history"] == []
    status, _ = await request(browser, "DELETE", f"{ROOT}/a")
    assert status == 404


async def test_an_open_page_of_a_deleted_conversation_is_told(browser: LiveServer) -> None:
    async with browser.connect("a", person=None) as client:
        await client.wait_for_reply(await client.send_message("hello"))
        await request(browser, "DELETE", f"{ROOT}/a")
        reset = await client.wait_for("reset")
        assert reset["snapshot"]["history"] == []


# Export


async def test_a_conversation_is_exported_from_its_beginning(browser: LiveServer) -> None:
    texts = [f"message {number} " + "x" * 4_000 for number in range(70)]
    for text in texts:
        await talk(browser, "a", text)
    await change(browser, "a", title="Long")
    status, export = await request(browser, "GET", f"{ROOT}/a/export")
    assert (status, export["title"]) == (200, "Long")
    assert [each["text"] for each in export["messages"] if each["role"] == "user"] == texts
    status, markdown = await request(browser, "GET", f"{ROOT}/a/export?format=markdown")
    assert markdown.startswith("# Long\n")
    positions = [markdown.index(text) for text in texts]
    assert positions == sorted(positions)
    assert "**parrot**" in markdown
    status, answer = await browser.get(f"{ROOT}/a/export?format=pdf")
    assert (status, "markdown" in answer["error"]["message"]) == (400, True)


async def test_there_is_no_export_of_nothing(browser: LiveServer) -> None:
    status, _ = await browser.get(f"{ROOT}/new/export")
    assert status == 404


async def test_citations_stay_with_the_history(browser: LiveServer) -> None:
    await talk(browser, "a", "/scholar how much leave?")
    _, conversation = await browser.get(f"{ROOT}/a")
    (citation,) = conversation["snapshot"]["history"][1]["citations"]
    assert (citation["number"], citation["title"]) == (1, "The Handbook")
    assert citation["passage"] == "Everyone has 30 days of leave a year."
    assert conversation["snapshot"]["history"][1]["attachments"][0]["name"] == "leave.txt"
    _, markdown = await request(browser, "GET", f"{ROOT}/a/export?format=markdown")
    assert "[1] The Handbook, Leave" in markdown
    _, share = await browser.post(f"{ROOT}/a/shares")
    _, shared = await browser.get(f"/v1/shares/{share['id']}")
    (citation,) = shared["history"][1]["citations"]
    assert (citation["title"], citation["passage"]) == ("The Handbook", "")
    assert "attachments" not in shared["history"][1]


async def test_the_reasons_and_problems_of_replies_stay_with_the_history(
    browser: LiveServer,
) -> None:
    await browser.post(f"{ROOT}/a/messages?wait=true", {"text": "/clumsy x"})
    _, conversation = await browser.get(f"{ROOT}/a")
    entry = conversation["snapshot"]["history"][1]
    assert entry["reason"] == "The person typed /clumsy."
    problem = entry["problem"]["message"]
    assert (entry["problem"]["code"], entry["outcome"]) == ("skill", "failed")
    _, markdown = await request(browser, "GET", f"{ROOT}/a/export?format=markdown")
    assert f"(failed)\n\nI will now \n\n{problem}" in markdown
    _, share = await browser.post(f"{ROOT}/a/shares")
    _, shared = await browser.get(f"/v1/shares/{share['id']}")
    assert shared["history"][1]["problem"]["message"] == problem
    assert {"reason", "score", "tools"}.isdisjoint(shared["history"][1])


# Shares


async def test_a_share_is_a_snapshot_without_names(browser: LiveServer) -> None:
    await talk(browser, "a", "hello")
    await change(browser, "a", title="Greetings")
    status, share = await browser.post(f"{ROOT}/a/shares")
    assert status == 201
    await talk(browser, "a", "later")
    async with browser.browser(visits=False) as stranger:
        assert share["path"] == f"/s/{share['id']}"
        status, shared = await stranger.get(f"/v1/shares/{share['id']}")
        assert (status, shared["title"], shared["is_cut"]) == (200, "Greetings", False)
        assert [each["text"].strip() for each in shared["history"]] == ["hello", "hello"]
        assert {each["person"] for each in shared["history"]} == {""}
    _, listed = await browser.get(f"{ROOT}/a/shares")
    assert listed["shares"] == [share]
    status, _ = await request(browser, "DELETE", f"{ROOT}/a/shares/{share['id']}")
    assert status == 200
    assert (await browser.get(f"/v1/shares/{share['id']}"))[0] == 404
    assert (await request(browser, "DELETE", f"{ROOT}/a/shares/{share['id']}"))[0] == 404


async def test_shares_are_limited(browser: LiveServer) -> None:
    await talk(browser, "a", "hello")
    for _ in range(MAX_SHARES):
        assert (await browser.post(f"{ROOT}/a/shares"))[0] == 201
    status, answer = await browser.post(f"{ROOT}/a/shares")
    assert (status, answer["error"]["code"]) == (429, "too_many")


@pytest.mark.parametrize("id", ["%2e%2e", "a%2Fb", "x%3A*", "%00", "ä", "x" * 300])
async def test_a_strange_id_of_a_share_is_no_share(browser: LiveServer, id: str) -> None:
    status, _ = await browser.get(f"/v1/shares/{id}")
    assert status in (400, 404)


async def test_sharing_can_be_switched_off() -> None:
    async with open_live_server(sharing=False) as live_server, live_server.browser() as browser:
        await talk(browser, "a", "hello")
        status, answer = await browser.post(f"{ROOT}/a/shares")
        assert (status, "server.sharing" in answer["error"]["message"]) == (403, True)
        assert (await browser.get("/v1/shares/abc"))[0] == 403
