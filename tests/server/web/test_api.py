"""The HTTP API, server-sent events and operations."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.chaos.proxy import Disconnect, FaultProxy
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    Frame,
    LiveServer,
    eventually,
    open_live_server,
)

from palaver.config.settings import (
    AdmissionSettings,
    ConcurrencyPolicySettings,
    LedgerSettings,
)
from palaver.engine import Task, TaskReach
from palaver.skills import Skill
from palaver.testing import MemoryLedger, ScriptedEngine
from palaver.turns.turn import Turn
from palaver.web import event_queue

pytestmark = pytest.mark.slow

MESSAGES = "/v1/conversations/t/messages"
EVENTS = "/v1/conversations/t/events"


class Reader:
    """A reader of server-sent events."""

    def __init__(self, live_server: LiveServer, lines: Any) -> None:  # Any: aiohttp's stream
        self.live_server = live_server
        self.events: list[tuple[str | None, Frame]] = []
        self.comments = 0
        self._lines = lines

    async def next(self) -> tuple[str | None, Frame] | None:
        """Return the next event with its id, or None at the end."""
        id = None
        data = ""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while line := (await self._lines.readline()).decode():
                line = line.rstrip("\n")
                if line.startswith(":"):
                    self.comments += 1
                elif line.startswith("id: "):
                    id = line[4:]
                elif line.startswith("data: "):
                    data = line[6:]
                elif not line and data:
                    self.events.append((id, json.loads(data)))
                    return self.events[-1]
        return None

    async def until(self, kind: str) -> Frame:
        while (event := await self.next()) is not None:
            if event[1]["type"] == kind:
                return event[1]
        raise AssertionError(f"no {kind} among {self.events}")

    async def rest(self) -> list[Frame]:
        while await self.next() is not None:
            pass
        return [frame for _, frame in self.events]

    @property
    def last_id(self) -> str:
        return [id for id, _ in self.events if id][-1]


@asynccontextmanager
async def reading(
    live_server: LiveServer, path: str = EVENTS, **about: Any
) -> AsyncIterator[Reader]:
    async with live_server.session.get(live_server.url(path), **about) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Reader(live_server, response.content)


async def test_a_message_is_accepted_and_its_reply_waits_in_the_conversation(
    live_server: LiveServer,
) -> None:
    status, accepted = await live_server.post(MESSAGES, {"text": "hello"})
    assert status == 202
    assert accepted == {
        "turn": accepted["turn"],
        "ahead": 0,
        "duplicate": False,
        "joined": False,
    }
    async with reading(live_server, EVENTS + "?until=finished") as reader:
        await reader.rest()
    _, conversation = await live_server.get("/v1/conversations/t")
    assert [line["text"] for line in conversation["snapshot"]["history"]] == ["hello", "hello "]
    assert conversation["cursor"]


async def test_wait_returns_the_whole_reply(live_server: LiveServer) -> None:
    body = {"text": "leave?", "skill": "scholar"}
    status, reply = await live_server.post(MESSAGES + "?wait=true", body)
    assert status == 200
    assert reply["text"] == "You have 30 days of leave [1]."
    assert (reply["skill"], reply["outcome"]) == ("scholar", "done")
    assert reply["citations"][0]["document"] == "handbook.md"
    assert reply["attachments"][0]["name"] == "leave.txt"


async def test_the_same_idempotency_key_gets_the_same_reply(live_server: LiveServer) -> None:
    headers = {"Idempotency-Key": "key-1"}
    body = {"text": "leave?", "skill": "scholar"}
    _, first = await live_server.post(MESSAGES + "?wait=true", body, headers=headers)
    _, again = await live_server.post(MESSAGES + "?wait=true", body, headers=headers)
    assert again == {**first, "duplicate": True}
    body["text"] = "something else"
    status, answer = await live_server.post(MESSAGES, body, headers=headers)
    assert (status, answer["error"]["code"]) == (409, "conflict")


async def test_two_requests_with_one_key_get_one_turn(live_server: LiveServer) -> None:
    async def ask() -> Frame:
        body = {"id": "same", "text": "/scripted x"}
        reply: Frame = (await live_server.post(MESSAGES + "?wait=true", body))[1]
        return reply

    both = [asyncio.create_task(ask()) for _ in range(2)]
    live_server.scripted.emit("only ", "once")
    one, two = await asyncio.gather(*both)
    assert one["text"] == two["text"] == "only once"
    assert one["turn"] == two["turn"]


async def test_a_reply_older_than_the_events_is_read_from_the_history() -> None:
    async with open_live_server(ledger=MemoryLedger(events_kept=3)) as live_server:
        body = {"id": "a", "text": "one two three"}
        _, first = await live_server.post(MESSAGES + "?wait=true", body)
        await live_server.post(MESSAGES + "?wait=true", {"text": "more"})
        _, again = await live_server.post(MESSAGES + "?wait=true", body)
        assert (again["text"], again["duplicate"]) == (first["text"], True)


async def test_a_question_is_part_of_the_reply(live_server: LiveServer) -> None:
    _, reply = await live_server.post(
        MESSAGES + "?wait=true", {"text": "please", "skill": "waiter"}
    )
    assert reply["outcome"] == "asked"
    assert (reply["question"], reply["options"]) == ("Tea or coffee?", ["tea", "coffee"])


async def test_stop_over_http(live_server: LiveServer) -> None:
    _, accepted = await live_server.post(MESSAGES, {"text": "/scripted x"})
    status, answer = await live_server.post("/v1/conversations/t/stop", {"turn": accepted["turn"]})
    assert (status, answer) == (200, {"turn": accepted["turn"], "state": "stopping"})
    async with reading(live_server, EVENTS + "?until=finished&since=start") as reader:
        assert (await reader.until("finished"))["outcome"] == "stopped"
    _, answer = await live_server.post("/v1/conversations/t/stop", data=b"")
    assert answer == {"turn": "", "state": "unknown"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_input"),
        (b"[]", 400, "invalid_input"),
        (b'{"text": 1}', 400, "invalid_input"),
        (b'{"text": "\xff"}', 400, "invalid_input"),
        (b'{"text": "x", "skill": "nobody"}', 404, "not_found"),
        (b'{"text": "x", "id": "\\u0000"}', 400, "invalid_input"),
        (b'{"text": "x", "person": "a/b"}', 400, "invalid_input"),
        (b'{"text": "' + b"x" * 2_000_000 + b'"}', 413, "too_large"),
    ],
)
async def test_a_malformed_message_gets_an_error_with_a_sentence(
    live_server: LiveServer, body: bytes, status: int, code: str
) -> None:
    given, answer = await live_server.post(MESSAGES, data=io.BytesIO(body))
    assert (given, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"]
    assert (await live_server.get("/v1/conversations/t"))[1]["snapshot"]["pending"] == []


async def test_a_full_inbox_is_refused_with_retry_after(live_server: LiveServer) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        status = 202
        while status == 202:
            async with live_server.session.post(
                live_server.url(MESSAGES), json={"text": "/scripted x"}
            ) as response:
                status = response.status
                retry = response.headers.get("Retry-After")
    assert (status, retry) == (429, "1")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_disconnects_within_a_body_is_not_logged_as_an_error(
    live_server: LiveServer, caplog: pytest.LogCaptureFixture, reset: bool
) -> None:
    async with FaultProxy(
        live_server.address, plan=lambda: Disconnect(400, to="server", reset=reset)
    ) as proxy:
        with pytest.raises(aiohttp.ClientError):
            await live_server.session.post(proxy.address + MESSAGES, json={"text": "x" * 1_000})
    assert (await live_server.get("/v1/conversations/t"))[1]["snapshot"]["pending"] == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({"person": {"turns": 1}}, 429, "too_many"),
        ({"tenant": {"messages_per_minute": 1}}, 429, "too_many"),
        ({"queue_tokens": 600}, 503, "overloaded"),
    ],
)
async def test_a_refusal_has_retry_after_in_seconds_and_milliseconds(
    settings: dict[str, Any], status: int, code: str
) -> None:
    async with open_live_server(
        admission=AdmissionSettings.model_validate(settings)
    ) as live_server:
        assert (await live_server.post(MESSAGES, {"text": "/scripted x"}))[0] == 202
        for path in ("/v1/conversations/u/messages", "/v1/conversations/v/messages?wait=true"):
            async with live_server.session.post(
                live_server.url(path), json={"text": "hi"}
            ) as response:
                assert response.status == status
                assert (await response.json())["error"]["code"] == code
                seconds, exactly = (
                    int(response.headers[name]) for name in ("Retry-After", "retry-after-ms")
                )
                assert 0 < exactly <= seconds * 1000 < exactly + 1000
        async with live_server.connect("w", person="local") as client:
            await client.send({"type": "send", "id": "m1", "text": "hi"})
            error = await client.wait_for("error")
            assert (error["code"], error["id"]) == (code, "m1")
            assert 0 < error["retry_after"] * 1000 <= exactly
        assert 'palaver_refusals_total{reason="' in (await live_server.get("/metrics"))[1]


async def test_two_different_ids_are_refused(live_server: LiveServer) -> None:
    status, _ = await live_server.post(
        MESSAGES, {"text": "x", "id": "a"}, headers={"Idempotency-Key": "b"}
    )
    assert status == 400


async def test_unknown_paths_and_methods_get_json_errors(live_server: LiveServer) -> None:
    assert (await live_server.get("/nowhere"))[1]["error"]["code"] == "not_found"
    assert (await live_server.get("/v1/conversations/a%2Fb"))[0] in (400, 404)
    assert (await live_server.get(MESSAGES))[0] == 405


async def running(live_server: LiveServer) -> None:
    """Wait until the scripted skill runs, by the ledger."""

    async def routed() -> bool:
        _, answer = await live_server.get("/v1/conversations/t")
        return any(turn["skill"] == "scripted" for turn in answer["snapshot"]["pending"])

    await eventually(routed)


async def test_merged_messages_get_the_same_reply() -> None:
    merging = ConcurrencyPolicySettings(default="merge", merge_window=5.0)
    now = [1_000_000.0]
    ledger = MemoryLedger(clock=lambda: now[0])
    async with open_live_server(concurrency_policy=merging, ledger=ledger) as live_server:
        first = asyncio.create_task(live_server.post(MESSAGES + "?wait=true", {"text": "one"}))
        await eventually(
            lambda: live_server.server.metrics.exposition().count(b'channel="web"} 1.0') > 0
        )
        accepted = (await live_server.post(MESSAGES, {"text": "two", "id": "b"}))[1]
        assert accepted["joined"] is True
        now[0] += 5
        second = await live_server.post(MESSAGES + "?wait=true", {"text": "two", "id": "b"})
        answers = [(await first)[1], second[1]]
    assert {answer["turn"] for answer in answers} == {accepted["turn"]}
    assert {answer["text"] for answer in answers} == {"one\n\ntwo "}


@pytest.mark.parametrize("pieces", [(), ("told ", "more ")])
async def test_a_message_that_the_running_skill_does_not_take_gets_a_reply_of_its_own(
    pieces: tuple[str, ...],
) -> None:
    steering = ConcurrencyPolicySettings(skills={"scripted": "steer"})
    async with open_live_server(concurrency_policy=steering) as live_server:
        first = asyncio.create_task(
            live_server.post(MESSAGES + "?wait=true", {"text": "/scripted x"})
        )
        live_server.scripted.emit(*pieces, end=False)
        await running(live_server)
        second = asyncio.create_task(live_server.post(MESSAGES + "?wait=true", {"text": "and me?"}))

        async def joined() -> bool:
            _, answer = await live_server.get("/v1/conversations/t")
            return len(answer["snapshot"]["pending"][0]["messages"]) == 2

        await eventually(joined)
        live_server.scripted.emit("the end")
        assert (await first)[1]["text"] == "".join(pieces) + "the end"
        assert (await second)[1]["text"] == "and me? "


@pytest.mark.parametrize("since", ["", "&since=start"])
async def test_a_stream_until_finished_waits_for_a_message_that_moves_to_another_turn(
    since: str,
) -> None:
    steering = ConcurrencyPolicySettings(skills={"scripted": "steer"})
    async with open_live_server(concurrency_policy=steering) as live_server:
        await live_server.post(MESSAGES, {"text": "/scripted x"})
        await running(live_server)
        accepted = (await live_server.post(MESSAGES, {"text": "and me?", "id": "m"}))[1]
        assert accepted["joined"] is True
        async with reading(live_server, EVENTS + "?until=finished" + since) as reader:
            await reader.next()
            live_server.scripted.emit("the end")
            frames = await reader.rest()
    first, second = (frame for frame in frames if frame["type"] == "finished")
    assert (first["turn"], "m" in first["messages"]) == (accepted["turn"], False)
    assert second["messages"] == ["m"]


async def test_stored_events_have_ids_and_live_text_has_none(live_server: LiveServer) -> None:
    async with reading(live_server) as reader:
        first = await reader.next()
        assert first is not None
        assert first[1]["type"] == "welcome"
        assert first[0] == first[1]["cursor"]
        await live_server.post(MESSAGES, {"text": "/scripted x"})
        live_server.scripted.emit("live", end=False)
        await reader.until("text")
        assert reader.events[-1][0] is None
        live_server.scripted.emit()
        await reader.until("finished")
        assert reader.events[-1][0] == reader.events[-1][1]["cursor"]


async def test_an_event_stream_sends_browsers_a_short_random_retry(
    live_server: LiveServer,
) -> None:
    waits = set()
    for _ in range(20):
        async with live_server.session.get(live_server.url(EVENTS)) as response:
            field, _, milliseconds = (await response.content.readline()).decode().partition(": ")
            assert field == "retry"
            waits.add(int(milliseconds))
    assert all(100 <= wait <= 500 for wait in waits)
    assert len(waits) > 1


async def test_last_event_id_resumes_the_stream(live_server: LiveServer) -> None:
    async with reading(live_server) as reader:
        await live_server.post(MESSAGES, {"text": "/scripted x"})
        await reader.until("routed")
        last = reader.last_id
    live_server.scripted.emit("missed")
    headers = {"Last-Event-ID": last}
    async with reading(
        live_server, EVENTS + "?since=start&until=finished", headers=headers
    ) as again:
        frames = await again.rest()
    assert frames[0]["recovered"] is True
    assert [frame["type"] for frame in frames if frame["type"] != "text"] == ["welcome", "finished"]
    assert "".join(frame["text"] for frame in frames if frame["type"] == "text") == "missed"


async def test_until_finished_ends_at_once_without_pending_turns(live_server: LiveServer) -> None:
    async with reading(live_server, EVENTS + "?until=finished") as reader:
        assert [frame["type"] for frame in await reader.rest()] == ["welcome"]
    assert (await live_server.get(EVENTS + "?until=never"))[0] == 400
    assert (await live_server.get(EVENTS + "?since=rubbish"))[0] == 400
    headers = {"Last-Event-ID": "epoch:1"}
    assert (await live_server.get(EVENTS + "?since=rubbish", headers=headers))[0] == 400


async def test_a_silent_stream_gets_comments(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(event_queue), "PING_INTERVAL", 0.01)
    async with reading(live_server) as reader:
        await reader.next()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while reader.comments < 2:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await reader.next()


async def test_a_reader_that_disconnects_is_unsubscribed(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(event_queue), "PING_INTERVAL", 0.01)
    async with reading(live_server) as reader:
        await reader.next()
    metrics = live_server.server.metrics
    await eventually(lambda: b"palaver_event_streams 0.0" in metrics.exposition())


async def test_a_stopping_server_ends_event_streams_and_answers_waiting_requests() -> None:
    async with open_live_server() as live_server:
        asking = asyncio.create_task(
            live_server.post(MESSAGES + "?wait=true", {"text": "/scripted x"})
        )
        async with reading(live_server) as reader:
            await reader.until("started")
            ending = asyncio.create_task(live_server.stop_listening())
            await reader.rest()
        status, answer = await asking
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        await ending


async def test_the_skills_and_the_server_describe_themselves(live_server: LiveServer) -> None:
    _, skills = await live_server.get("/v1/skills")
    parrot = {"name": "parrot", "description": "Say what was said.", "prompts": []}
    assert parrot in skills["skills"]
    _, about = await live_server.get("/v1/about")
    assert about["model"] == "scripted"
    assert about["version"]
    assert about["demonstration"] in (True, False)


class Planner(Skill):
    """Plan what takes several steps."""

    name = "planner"
    prompts = ("Plan my week.",)
    task = "tools"

    async def answer(self, turn: Turn) -> None:
        await turn.say("Monday: rest.")


@pytest.mark.parametrize(("reach", "prompts"), [(None, 1), ({}, 0), ({"tools": TaskReach()}, 1)])
async def test_messages_to_begin_with_are_those_that_the_model_was_made_for(
    reach: Mapping[Task, TaskReach] | None, prompts: int
) -> None:
    engine = ScriptedEngine("Yes.", reach=reach)
    async with open_live_server(skills=[Planner()], engine=engine) as live_server:
        _, skills = await live_server.get("/v1/skills")
        (planner,) = (it for it in skills["skills"] if it["name"] == "planner")
        assert len(planner["prompts"]) == prompts


async def test_health_readiness_and_metrics(live_server: LiveServer) -> None:
    assert await live_server.get("/healthz") == (200, {"status": "alive"})
    assert await live_server.get("/readyz") == (200, {"status": "ready", "problems": {}})
    async with live_server.connect("t"):
        assert "palaver_websockets 1.0" in (await live_server.get("/metrics"))[1]
    live_server.server.draining = True
    async with live_server.session.get(live_server.url("/readyz")) as response:
        assert (await response.json())["problems"] == {"server": "draining"}
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
    assert (await live_server.get("/healthz"))[0] == 200


async def test_an_unexpected_error_is_answered_without_its_details(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(live_server.server), "skills", lambda: 1 / 0)
    status, answer = await live_server.get("/v1/skills")
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "division" not in json.dumps(answer)


async def test_the_page_is_served_with_a_strict_policy_and_cached_by_its_hash(
    live_server: LiveServer,
) -> None:
    async with live_server.session.get(live_server.url("/")) as response:
        page = await response.text()
        etag = response.headers["ETag"]
        policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert policy.endswith("require-trusted-types-for 'script'; trusted-types palaver-worker")
    assert "worker-src 'self'" in policy
    names = re.findall(r'="/static/([^"]+)"', page)
    assert {name.rpartition(".")[2] for name in names} == {"js", "css", "svg", "png", "webmanifest"}
    for name in (*names, "palaver-client.js"):
        async with live_server.session.get(live_server.url(f"/static/{name}")) as response:
            assert response.status == 200
            assert response.content_type != "application/octet-stream"
            is_hashed = re.search(r"-[\w-]{8}\.(js|css)$", name) is not None
            assert ("immutable" in response.headers["Cache-Control"]) is is_hashed, name
    for address in ("/c/0123abcd", "/c/another%20thread"):
        assert await live_server.get(address) == (200, page)
    async with live_server.session.get(
        live_server.url("/"), headers={"If-None-Match": etag}
    ) as response:
        assert response.status == 304
    assert (await live_server.get("/static/..%2fsocket.py"))[0] == 404


# Earlier history


async def test_a_client_reads_earlier_history_in_pages() -> None:
    async with open_live_server(ledger_settings=LedgerSettings(history_bytes=1_000)) as live:
        for number in range(6):
            await live.post(f"{MESSAGES}?wait=true", {"text": f"{number}" * 400})
        _, state = await live.get("/v1/conversations/t")
        snapshot = state["snapshot"]
        found = snapshot["history"]
        earlier = snapshot["earlier"]
        assert len(found) < 12
        while earlier:
            status, page = await live.get(f"/v1/conversations/t/history?before={earlier}")
            assert status == 200
            found = page["history"] + found
            earlier = page["earlier"]
        assert [entry["text"][0] for entry in found if entry["role"] == "user"] == list("012345")
        _, page = await live.get("/v1/conversations/t/history?limit=1")
        assert [entry["role"] for entry in page["history"]] == ["assistant"]


@pytest.mark.parametrize("query", ["before=x", "before=-1", "limit=0", "limit=x", "limit=1001"])
async def test_an_invalid_page_of_history_is_refused(query: str) -> None:
    async with open_live_server() as live:
        await live.post(f"{MESSAGES}?wait=true", {"text": "hello"})
        status, body = await live.get(f"/v1/conversations/t/history?{query}")
        assert (status, body["error"]["code"]) == (400, "invalid_input")


async def test_history_is_for_members_only() -> None:
    async with open_live_server() as live:
        await live.post(f"{MESSAGES}?wait=true", {"text": "hello", "person": "ada"})
        status, _ = await live.get("/v1/conversations/t/history?person=bob")
        assert status == 403
