"""The HTTP API of the fake Discord, asked without a library: what it refuses, and how."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)

Answer = tuple[int, Any]


class Api:
    """Sends requests with the bot's token."""

    def __init__(self, fake: FakeDiscord, session: aiohttp.ClientSession) -> None:
        self.fake = fake
        self.session = session
        self.headers: dict[str, str] = {}

    async def __call__(self, name: str, body: Any = None, **options: Any) -> Answer:
        method, path = name.split()
        headers = {"Authorization": f"Bot {self.fake.token}", **options.pop("headers", {})}
        if body is not None:
            options["data"] = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        url = self.fake.api_url + path
        async with self.session.request(method, url, headers=headers, **options) as response:
            self.headers = dict(response.headers)
            text = await response.text()
            is_json = response.headers.get("Content-Type") == "application/json"
            return response.status, json.loads(text) if is_json else text

    async def code(self, name: str, body: Any = None, **options: Any) -> tuple[int, int]:
        """Return status and code of a refusal."""
        status, answer = await self(name, body, **options)
        return status, answer.get("code", 0)

    def take_violations(self) -> list[str]:
        """Return what the fake does not know, so that it does not fail the test."""
        violations, self.fake.violations[:] = self.fake.violations[:], []
        return violations


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest_asyncio.fixture
async def api(fake: FakeDiscord) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(fake, session)


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


@pytest.fixture
def messages(general: DiscordChannel) -> str:
    return f"/channels/{general.id}/messages"


async def test_answers_are_exactly_json(api: Api, messages: str) -> None:
    await api("POST " + messages, {"content": "Hello"})
    assert api.headers["Content-Type"] == "application/json"


async def test_a_wrong_token(api: Api, messages: str) -> None:
    wrong = {"Authorization": "Bot wrong"}
    assert await api("GET /users/@me", headers=wrong) == (
        401,
        {"message": "401: Unauthorized", "code": 40001},
    )


@pytest.mark.parametrize("content", ["", " \n "])
async def test_an_empty_message(api: Api, messages: str, content: str) -> None:
    assert await api.code("POST " + messages, {"content": content}) == (400, 50006)


async def test_a_text_is_limited_in_utf_16(api: Api, messages: str) -> None:
    assert (await api("POST " + messages, {"content": "😀" * 1000}))[0] == 200
    status, answer = await api("POST " + messages, {"content": "😀" * 1000 + "x"})
    assert (status, answer["code"]) == (400, 50035)
    assert answer["errors"]["content"]["_errors"] == [
        {"code": "BASE_TYPE_MAX_LENGTH", "message": "Must be 2000 or fewer in length."}
    ]


async def test_a_text_may_be_limited_in_code_points() -> None:
    limits = DiscordLimits(text_unit="code points")
    async with FakeDiscord(limits=limits) as fake, aiohttp.ClientSession() as session:
        api, path = Api(fake, session), f"/channels/{fake.add_channel('a').id}/messages"
        assert (await api("POST " + path, {"content": "😀" * 2000}))[0] == 200
        assert await api.code("POST " + path, {"content": "😀" * 2001}) == (400, 50035)


async def test_an_edit_is_limited_as_well(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    _, message = await api("POST " + messages, {"content": "Hello"})
    path = f"{messages}/{message['id']}"
    assert await api.code("PATCH " + path, {"content": "x" * 2001}) == (400, 50035)
    assert await api.code("PATCH " + path, {"content": ""}) == (400, 50006)
    assert fake.conversation(general)[0].content == "Hello"


async def test_unknown_routes_and_fields_are_violations(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    assert await api.code("GET /channels/1/stars") == (404, 0)
    assert await api.code("POST " + messages, {"content": "a", "text": "b"}) == (400, 50035)
    assert await api.code("GET " + messages + "?since=1") == (400, 50035)
    nested = {"content": "a", "allowed_mentions": {"pars": []}}
    assert await api.code("POST " + messages, nested) == (400, 50035)
    assert fake.conversation(general) == []
    assert api.take_violations() == [
        "GET /channels/1/stars: unknown route",
        f"POST {messages}: unknown fields text",
        f"GET {messages}: unknown fields ?since",
        f"POST {messages}: unknown fields allowed_mentions.pars",
    ]


async def test_a_violation_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="unknown to Discord: GET /stars: unknown route"):
        async with FakeDiscord() as fake, aiohttp.ClientSession() as session:
            await Api(fake, session)("GET /stars")


async def test_json_of_another_type_is_refused(api: Api, messages: str) -> None:
    headers = {"Content-Type": "text/plain"}
    assert await api.code("POST " + messages, {"content": "a"}, headers=headers) == (400, 50035)
    assert (await api("POST " + messages, headers=headers, data=b"{"))[0] == 400


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"content": 5}, "content"),
        ({"content": "a", "nonce": "n" * 26}, "nonce"),
        ({"content": "a", "embeds": [{}] * 11}, "embeds"),
        ({"content": "a", "embeds": [{"title": "t" * 257}]}, "embeds"),
        ({"content": "a", "embeds": [{"description": "d" * 4000}] * 2}, "embeds"),
        ({"content": "a", "flags": 1 << 6}, "flags"),
        ({"content": "a", "attachments": [{"id": 0}]}, "attachments"),
        ({"content": "a", "message_reference": {"message_id": "1"}}, "message_reference"),
        ({"content": "a", "allowed_mentions": {"parse": ["users"], "users": ["1"]}}, ""),
        ({"content": "a", "components": [{"type": 2, "style": 1, "label": "b"}]}, "components"),
        ({"content": "a", "components": [{"type": 10, "content": "text"}]}, "components"),
    ],
)
async def test_an_invalid_form(api: Api, messages: str, body: Any, place: str) -> None:
    status, answer = await api("POST " + messages, body)
    assert (status, answer["code"], answer["message"]) == (400, 50035, "Invalid Form Body")
    assert (place or "allowed_mentions") in answer["errors"]


def row(*components: Any) -> Any:
    return {"type": 1, "components": list(components)}


def button(custom_id: str = "b") -> Any:
    return {"type": 2, "style": 1, "label": "B", "custom_id": custom_id}


def menu(**fields: Any) -> Any:
    return {"type": 3, "custom_id": "m", "options": [{"label": "a", "value": "a"}]} | fields


@pytest.mark.parametrize(
    "components",
    [
        [row()],
        [row(*(button(str(number)) for number in range(6)))],
        [row(button(str(number))) for number in range(6)],
        [row(button("same"), button("same"))],
        [row({"type": 2, "style": 1, "label": "no id"})],
        [row({"type": 2, "style": 5, "label": "link", "custom_id": "x"})],
        [row({"type": 2, "style": 1, "custom_id": "no label"})],
        [row(button() | {"label": "l" * 81})],
        [row(menu(), button())],
        [row(menu(options=[]))],
        [row(menu(max_values=2))],
        [row(menu(options=[{"label": "a", "value": "a"}] * 2))],
        [row(menu(options=[{"label": str(n), "value": str(n)} for n in range(26)]))],
    ],
)
async def test_impossible_components(api: Api, messages: str, components: Any) -> None:
    body = {"content": "a", "components": components}
    assert await api.code("POST " + messages, body) == (400, 50035)


V2 = 1 << 15


def display(text: str) -> Any:
    return {"type": 10, "content": text}


@pytest.mark.parametrize(
    "body",
    [
        {"content": "a", "components": [display("b")]},
        {"embeds": [{"title": "a"}], "components": [display("b")]},
        {"components": [display("x" * 2001), display("x" * 2000)]},
        {"components": [display("x")] * 41},
        {"components": []},
    ],
)
async def test_impossible_components_of_version_2(api: Api, messages: str, body: Any) -> None:
    status, code = await api.code("POST " + messages, body | {"flags": V2})
    assert (status, code) in ((400, 50035), (400, 50006))


async def test_version_2_cannot_be_left(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    body = {"flags": V2, "components": [display("x" * 4000)]}
    _, message = await api("POST " + messages, body)
    path = f"PATCH {messages}/{message['id']}"
    edited = {"flags": 0, "content": "back", "components": []}
    assert await api.code(path, edited) == (400, 50035)
    assert (await api(path, {"components": [display("next")]}))[0] == 200
    assert fake.conversation(general)[0].has_components_v2


async def test_files_are_limited_one_by_one_and_together(
    fake: FakeDiscord, api: Api, messages: str
) -> None:
    async def upload(*sizes: int) -> Answer:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("payload_json", json.dumps({"content": "files"}))
        for number, size in enumerate(sizes):
            form.add_field(f"files[{number}]", io.BytesIO(b"x" * size), filename="f")
        return await api("POST " + messages, data=form)

    mebibyte = 1024 * 1024
    assert (await upload(10 * mebibyte))[0] == 200
    assert (await upload(10 * mebibyte + 1))[1]["code"] == 40005
    status, answer = await upload(9 * mebibyte, 9 * mebibyte, 9 * mebibyte)
    assert (status, answer["code"]) == (413, 40005)


async def test_a_nonce_returns_the_first_message_for_some_minutes(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    body = {"content": "one", "nonce": "n1", "enforce_nonce": True}
    _, first = await api("POST " + messages, body)
    status, again = await api("POST " + messages, body | {"content": "two"})
    assert (status, again["id"], again["content"]) == (200, first["id"], "one")
    assert len(fake.conversation(general)) == 1
    fake.clock.advance(181)
    _, third = await api("POST " + messages, body)
    assert third["id"] != first["id"]
    assert len(fake.conversation(general)) == 2


async def test_a_nonce_counts_only_when_it_is_enforced(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    await api("POST " + messages, {"content": "one", "nonce": "n1"})
    await api("POST " + messages, {"content": "two", "nonce": "n1"})
    assert len(fake.conversation(general)) == 2


async def test_the_nonce_of_a_deleted_message(api: Api, messages: str) -> None:
    body = {"content": "one", "nonce": "n1", "enforce_nonce": True}
    _, first = await api("POST " + messages, body)
    await api(f"DELETE {messages}/{first['id']}")
    assert await api.code("POST " + messages, body) == (404, 10008)


async def test_a_nonce_is_not_stored(fake: FakeDiscord, api: Api, messages: str) -> None:
    _, message = await api("POST " + messages, {"content": "one", "nonce": "n1"})
    assert message["nonce"] == "n1"
    _, read = await api(f"GET {messages}/{message['id']}")
    assert "nonce" not in read


async def test_a_refused_message_leaves_its_nonce_unused(api: Api, messages: str) -> None:
    body = {"content": "", "nonce": "n1", "enforce_nonce": True}
    assert await api.code("POST " + messages, body) == (400, 50006)
    assert (await api("POST " + messages, body | {"content": "a"}))[0] == 200


async def test_old_messages_are_not_edited(fake: FakeDiscord, api: Api, messages: str) -> None:
    _, message = await api("POST " + messages, {"content": "one"})
    path = f"PATCH {messages}/{message['id']}"
    fake.clock.advance(3600)
    assert (await api(path, {"content": "two"}))[0] == 200
    fake.clock.advance(1)
    status, answer = await api(path, {"content": "three"})
    assert (status, answer["code"]) == (429, 30046)
    assert answer["retry_after"] > 0


async def test_places_where_the_bot_may_not_write(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    async def post(channel: DiscordChannel) -> tuple[int, int]:
        return await api.code(f"POST /channels/{channel.id}/messages", {"content": "a"})

    general.bot_may_post = False
    assert await post(general) == (403, 50013)
    general.bot_may_view = False
    assert await post(general) == (403, 50001)
    fake.delete_channel(general)
    assert await post(general) == (404, 10003)
    direct = fake.open_direct(ada)
    assert (await post(direct))[0] == 200
    ada.accepts_messages = False
    assert await post(direct) == (403, 50007)
    ada.accepts_messages = True
    fake.leave(ada)
    assert await post(direct) == (403, 50007)
    other = fake.add_channel("other")
    fake.remove_bot()
    assert await post(other) == (403, 50001)


async def test_messages_that_the_bot_may_not_edit(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    said = await fake.say(general, ada, "Hello")
    edit = {"content": "changed"}
    assert await api.code(f"PATCH {messages}/{said.id}", edit) == (403, 50005)
    assert await api.code(f"PATCH {messages}/1", edit) == (404, 10008)


async def test_threads(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    said = await fake.say(general, ada, "Hello")
    start = f"POST {messages}/{said.id}/threads"
    status, thread = await api(start, {"name": "talk"})
    assert (status, thread["id"], thread["parent_id"]) == (201, str(said.id), str(general.id))
    assert await api.code(start, {"name": "again"}) == (400, 160004)
    inside = f"/channels/{thread['id']}/messages"
    assert await api.code(f"GET {inside}/{said.id}") == (404, 10008)
    _, message = await api("POST " + inside, {"content": "in the thread"})
    await fake.archive(fake.state.channels[said.id])
    assert await api.code(f"PATCH {inside}/{message['id']}", {"content": "b"}) == (400, 50083)
    assert (await api("POST " + inside, {"content": "opens it"}))[0] == 200
    assert not fake.state.channels[said.id].is_archived
    await fake.archive(fake.state.channels[said.id], locked=True)
    assert await api.code("POST " + inside, {"content": "locked"}) == (403, 160005)


async def test_a_thread_without_a_message(
    api: Api, fake: FakeDiscord, general: DiscordChannel
) -> None:
    start = f"POST /channels/{general.id}/threads"
    status, thread = await api(start, {"name": "talk", "type": 11})
    assert (status, thread["type"]) == (201, 11)
    _, active = await api(f"GET /guilds/{fake.guild.id}/threads/active")
    assert [found["id"] for found in active["threads"]] == [thread["id"]]
    assert await api.code(f"POST /channels/{thread['id']}/threads", {"name": "a"}) == (400, 50024)


async def test_reactions_and_typing(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    said = await fake.say(general, ada, "Hello")
    path = f"{messages}/{said.id}/reactions/%F0%9F%91%8D/@me"
    assert (await api("PUT " + path))[0] == 204
    assert said.reactions == {"👍": [fake.bot]}
    assert (await api("DELETE " + path))[0] == 204
    assert said.reactions == {}
    assert (await api(f"POST /channels/{general.id}/typing"))[0] == 204
    assert fake.is_typing(general)
    fake.clock.advance(10)
    assert not fake.is_typing(general)


async def test_typing_ends_with_a_message(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str
) -> None:
    await api(f"POST /channels/{general.id}/typing")
    await api("POST " + messages, {"content": "done"})
    assert not fake.is_typing(general)


async def test_mentions_are_whom_the_message_notifies(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    text = f"{ada.mention} <@&5> @everyone"
    code = f"`{ada.mention}` ```\n@here\n``` \\{ada.mention}"
    allowed: list[Any] = [
        {"content": text},
        {"content": text, "allowed_mentions": {"parse": []}},
        {"content": text, "allowed_mentions": {"users": [str(ada.id)]}},
        {"content": text, "allowed_mentions": {"parse": ["roles"]}},
        {"content": code},
    ]
    for body in allowed:
        await api("POST " + messages, body)
    mentions = [message.mentions for message in fake.conversation(general)]
    assert [(m.users, m.roles, m.everyone) for m in mentions] == [
        ((ada,), (5,), True),
        ((), (), False),
        ((ada,), (), False),
        ((), (5,), False),
        ((ada,), (), True),
    ]
    assert [bool(mention) for mention in mentions] == [True, False, True, True, True]


async def test_a_reply_notifies_the_author_unless_it_is_told_not_to(
    fake: FakeDiscord, api: Api, general: DiscordChannel, messages: str, ada: DiscordUser
) -> None:
    said = await fake.say(general, ada, "Hello")
    reply = {"content": "a", "message_reference": {"message_id": str(said.id)}}
    await api("POST " + messages, reply)
    await api("POST " + messages, reply | {"allowed_mentions": {"parse": []}})
    assert [m.mentions.users for m in fake.conversation(general)[1:]] == [(ada,), ()]
    await fake.delete(said)
    gone = reply["message_reference"] | {"fail_if_not_exists": False}  # type: ignore[operator]
    assert (await api("POST " + messages, reply | {"message_reference": gone}))[0] == 200
    assert await api.code("POST " + messages, reply) == (400, 50035)


async def test_the_application_and_its_gateway(fake: FakeDiscord, api: Api) -> None:
    _, application = await api("GET /oauth2/applications/@me")
    assert application["flags"] == 1 << 19
    assert (await api("GET /gateway"))[1] == {"url": fake.gateway_url}
    _, gateway = await api("GET /gateway/bot")
    assert gateway["session_start_limit"]["remaining"] == 1000
    assert (await api("GET /users/@me"))[1]["bot"]


async def test_every_request_is_recorded(fake: FakeDiscord, api: Api, messages: str) -> None:
    fake.clock.advance(5)
    await api("POST " + messages, {"content": "Hello"})
    (request,) = fake.requests
    assert request.name == "POST " + messages
    assert (request.body, request.status) == ({"content": "Hello"}, 200)
    assert request.token == fake.token
    assert request.time == fake.clock.now()


# Commands


def command(name: str, **fields: Any) -> Any:
    return {"name": name, "description": "does something"} | fields


@pytest.fixture
def commands(fake: FakeDiscord) -> str:
    return f"/applications/{fake.state.application.id}/commands"


async def test_a_command_is_created_or_replaced_by_its_name(api: Api, commands: str) -> None:
    status, first = await api("POST " + commands, command("chat"))
    assert status == 201
    status, second = await api("POST " + commands, command("chat", description="else"))
    assert (status, second["id"], second["description"]) == (200, first["id"], "else")
    path = f"{commands}/{first['id']}"
    assert (await api("PATCH " + path, {"description": "third"}))[1]["description"] == "third"
    assert (await api("GET " + path))[1]["description"] == "third"
    assert (await api("DELETE " + path))[0] == 204
    assert await api.code("GET " + path) == (404, 10063)
    assert (await api("GET " + commands))[1] == []


async def test_all_commands_are_replaced_at_once(api: Api, commands: str) -> None:
    _, first = await api("POST " + commands, command("chat"))
    await api("POST " + commands, command("gone"))
    _, both = await api("PUT " + commands, [command("chat"), command("new")])
    assert [each["name"] for each in both] == ["chat", "new"]
    assert both[0]["id"] == first["id"]
    assert await api.code("PUT " + commands, [command("a"), command("a")]) == (400, 50035)


async def test_a_server_has_commands_of_its_own(fake: FakeDiscord, api: Api, commands: str) -> None:
    own = commands.replace("/commands", f"/guilds/{fake.guild.id}/commands")
    await api("POST " + commands, command("chat", description="everywhere"))
    await api("POST " + own, command("chat", description="here"))
    here, everywhere = fake.commands.find("chat", fake.guild), fake.commands.find("chat", None)
    assert here
    assert everywhere
    assert (here["description"], everywhere["description"]) == ("here", "everywhere")
    elsewhere = own.replace(str(fake.guild.id), "5")
    assert await api.code("GET " + elsewhere) == (403, 50001)
    assert await api.code("GET /applications/5/commands") == (404, 10002)


@pytest.mark.parametrize(
    "body",
    [
        command("Chat"),
        command("two words"),
        command("n" * 33),
        command("a", description=""),
        command("a", description="d" * 101),
        command("a", options=[{"type": 3, "name": "o", "description": "d"}] * 2),
        command(
            "a",
            options=[
                {"type": 3, "name": "o", "description": "d"},
                {"type": 3, "name": "p", "description": "d", "required": True},
            ],
        ),
        command("a", type=3),
    ],
)
async def test_impossible_commands(api: Api, commands: str, body: Any) -> None:
    assert await api.code("POST " + commands, body) == (400, 50035)


async def test_too_many_commands(fake: FakeDiscord, api: Api, commands: str) -> None:
    many = [command(f"c{number}") for number in range(101)]
    assert await api.code("PUT " + commands, many) == (400, 30032)
    for _ in range(2):
        await api("PUT " + commands, many[:100])
        await api("PUT " + commands, [])
    assert await api.code("POST " + commands, command("chat")) == (400, 30034)
    fake.clock.advance(86_400)
    assert (await api("POST " + commands, command("chat")))[0] == 201


# Answers to interactions


async def use_command(fake: FakeDiscord, api: Api, commands: str) -> tuple[str, str]:
    """Let a person use a command; return the paths for the callback and of the webhook."""
    await api("POST " + commands, command("ask"))
    interaction = await fake.command(fake.add_channel("here"), fake.add_user("Bob"), "ask")
    callback = f"POST /interactions/{interaction.id}/{interaction.token}/callback"
    return callback, f"/webhooks/{fake.state.application.id}/{interaction.token}"


@pytest.mark.parametrize("kind", [6, 7, 8])
async def test_a_command_gets_no_answer_of_another_kind(
    fake: FakeDiscord, api: Api, commands: str, kind: int
) -> None:
    callback, _ = await use_command(fake, api, commands)
    assert await api.code(callback, {"type": kind}) == (400, 50035)
    assert (await api(callback, {"type": 4, "data": {"content": "a"}}))[0] == 204


async def test_an_unknown_interaction_or_token(fake: FakeDiscord, api: Api, commands: str) -> None:
    callback, hook = await use_command(fake, api, commands)
    body = {"type": 4, "data": {"content": "a"}}
    assert await api.code("POST /interactions/1/wrong/callback", body) == (404, 10062)
    assert await api.code(callback.replace("/callback", "x/callback"), body) == (404, 10062)
    assert await api.code(f"POST {hook}x", {"content": "a"}) == (401, 50027)


async def test_a_refused_answer_may_be_given_again(
    fake: FakeDiscord, api: Api, commands: str
) -> None:
    callback, hook = await use_command(fake, api, commands)
    long = {"type": 4, "data": {"content": "x" * 2001}}
    assert await api.code(callback, long) == (400, 50035)
    assert await api.code("GET " + hook + "/messages/@original") == (404, 10015)
    assert (await api(callback, {"type": 5}))[0] == 204
    _, original = await api("GET " + hook + "/messages/@original")
    assert original["flags"] == 1 << 7


async def test_a_webhook_knows_no_nonce(fake: FakeDiscord, api: Api, commands: str) -> None:
    callback, hook = await use_command(fake, api, commands)
    await api(callback, {"type": 4, "data": {"content": "a"}})
    assert await api.code("POST " + hook, {"content": "b", "nonce": "n"}) == (400, 50035)
    assert api.take_violations() == [f"POST {hook}: unknown fields nonce"]
    twice = [await api("POST " + hook, {"content": "same"}) for _ in range(2)]
    assert twice[0][1]["id"] != twice[1][1]["id"]


async def test_messages_of_an_interaction_are_read_edited_and_deleted(
    fake: FakeDiscord, api: Api, commands: str
) -> None:
    callback, hook = await use_command(fake, api, commands)
    status, answer = await api(
        callback + "?with_response=1", {"type": 4, "data": {"content": "a", "flags": 64}}
    )
    assert status == 200
    assert answer["interaction"]["response_message_ephemeral"]
    original = hook + "/messages/@original"
    assert (await api("PATCH " + original, {"content": "b"}))[1]["content"] == "b"
    _, followup = await api("POST " + hook + "?wait=1", {"content": "c"})
    path = f"{hook}/messages/{followup['id']}"
    assert (await api("PATCH " + path, {"content": "d"}))[1]["content"] == "d"
    assert (await api("GET " + path))[1]["content"] == "d"
    assert (await api("DELETE " + original))[0] == 204
    assert await api.code("GET " + original) == (404, 10008)
    assert await api.code("PATCH " + path + "9", {"content": "e"}) == (404, 10008)
