"""The Redis ledger: which servers it accepts, what it promises, and what it costs."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pydantic
import pytest
from redis.crc import key_slot
from tests.memories import remember
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    answer_turn,
    claim_turn,
    loss_limitations,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_server import (
    RedisServer,
    redis_server,
    run_proxy,
    run_redis,
)
from tests.ports import free_port

from palaver.config.validation import validate
from palaver.conversations import ConversationChange, ConversationFilter, Share
from palaver.errors import ConfigurationError, InvalidInput, LedgerUnavailable
from palaver.exports import collect_export
from palaver.feedback import Feedback, FeedbackFilter
from palaver.hooks import BuildContext
from palaver.ledger import QUEUE_ALL, ConcurrencyPolicies
from palaver.messages import Conversation, Message, TextReset
from palaver_plugins.ledgers import redis as plugin
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings, checks
from palaver_plugins.ledgers.redis.address import parse_target

pytestmark = needs_redis


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with run_redis() as running:
        yield running


# What it stands on


@pytest.mark.parametrize(
    ("directive", "value", "loss"),
    [
        ("appendonly", "no", "since its last snapshot"),
        ("appendfsync", "everysec", "up to a second"),
        ("appendfsync", "no", "half a minute"),
        ("maxmemory-policy", "allkeys-lru", "may be deleted"),
    ],
)
async def test_a_redis_that_loses_writes_is_refused_unless_permitted(
    directive: str, value: str, loss: str
) -> None:
    async with redis_server(**{directive: value}) as url:
        with pytest.raises(ConfigurationError) as refusal:
            async with open_ledger(url):
                pass
        assert f"{directive} {value}" in str(refusal.value)
        assert f"set '{directive} " in str(refusal.value)
        assert "allow_weak_durability" in str(refusal.value)
        async with open_ledger(url, allow_weak_durability=True) as ledger:
            guarantee = await ledger.guarantee()
            await ledger.accept(make_message())
        (sentence,) = loss_limitations(guarantee)
        assert loss in sentence


async def test_a_durable_redis_is_guaranteed_as_such(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger:
        guarantee = await ledger.guarantee()
    assert not loss_limitations(guarantee)
    assert any("on disk" in sentence for sentence in guarantee.promises)
    assert any("evicts nothing" in sentence for sentence in guarantee.promises)


async def test_the_guarantee_is_that_of_the_present_configuration(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        await client.config_set("appendfsync", "everysec")
        guarantee = await ledger.guarantee()
    assert not any("on disk" in sentence for sentence in guarantee.promises)
    assert any("everysec" in sentence for sentence in guarantee.limitations)


async def test_a_redis_that_hides_its_configuration_is_refused(server: RedisServer) -> None:
    async with raw_client(server.url) as client:
        await client.execute_command(
            "ACL", "SETUSER", "app", "on", ">s3cret", "~palaver:*", "&palaver:*", "+@all", "-config"
        )
    url = f"redis://app:s3cret@127.0.0.1:{server.port}"
    with pytest.raises(ConfigurationError, match=r"\+config\|get") as refusal:
        async with open_ledger(url):
            pass
    assert "s3cret" not in str(refusal.value)
    async with open_ledger(url, allow_weak_durability=True) as ledger:
        await ledger.accept(make_message())
        await answer_turn(ledger)
        assert any("not known" in sentence for sentence in (await ledger.guarantee()).limitations)


async def test_a_wrong_password_is_a_configuration_error() -> None:
    async with redis_server(requirepass="right") as url:
        wrong, none = url.replace("right", "wrong"), url.replace(":right@", "")
        with pytest.raises(ConfigurationError, match=r"ledger\.redis\.url") as refusal:
            async with open_ledger(wrong):
                pass
        assert "wrong@" not in str(refusal.value)
        with pytest.raises(ConfigurationError, match="NOAUTH"):
            async with open_ledger(none):
                pass
        async with open_ledger(url) as ledger:
            await ledger.queue_depth()


async def test_a_dead_redis_is_named_at_once() -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=f"127.0.0.1:{port}"):
        async with open_ledger(f"redis://127.0.0.1:{port}"):
            pass
    assert time.monotonic() - began < 2


async def test_a_redis_that_does_not_answer_is_given_up(server: RedisServer) -> None:
    server.pause()
    try:
        with pytest.raises(LedgerUnavailable, match="no answer"):
            async with asyncio.timeout(5), open_ledger(server.url, connect_timeout=0.2):
                pass
    finally:
        server.resume()


def test_a_redis_that_is_too_old_is_refused() -> None:
    old = checks.ServerInfo("6.2.14", "yes", "always", "noeviction", 0)
    with pytest.raises(ConfigurationError, match=r"6\.2\.14.*7\.0"):
        checks.refuse(old, "here:1", allow_weak=True)
    checks.refuse(old._replace(version="7.0.15"), "here:1", allow_weak=False)


async def test_another_count_of_partitions_is_refused(server: RedisServer) -> None:
    async with open_ledger(server.url, partitions=4):
        pass
    with pytest.raises(ConfigurationError, match="partitions = 4"):
        async with open_ledger(server.url, partitions=2):
            pass


async def test_a_unix_socket_and_another_database_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with redis_server(unixsocket=str(path)) as url:
        async with open_ledger(f"unix://{path}?db=3") as ledger:
            await ledger.accept(make_message())
        async with raw_client(url) as client:
            assert await client.dbsize() == 0


# Settings


def test_a_url_is_given_plainly_or_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE_REDIS_IS", "redis://:s3cret@one:1")
    secret = tmp_path / "url"
    secret.write_text("rediss://two:2\n")
    urls = ("env:WHERE_REDIS_IS", f"file:{secret}", "unix:///run/redis.sock")
    revealed = [RedisLedgerSettings.model_validate({"url": url}).url.reveal() for url in urls]
    assert revealed == ["redis://:s3cret@one:1", "rediss://two:2", "unix:///run/redis.sock"]
    with pytest.raises(pydantic.ValidationError, match="redis://"):
        RedisLedgerSettings.model_validate({"url": "http://one:1"})


def test_the_text_of_the_settings_hides_the_password() -> None:
    settings = RedisLedgerSettings.model_validate({"url": "redis://me:s3cret@one:1/2"})
    shown = (repr(settings), str(settings), settings.model_dump_json(), str(settings.url))
    assert not any("s3cret" in text for text in shown)
    assert all("one:1/2" in text for text in shown)


@pytest.mark.parametrize(
    ("url", "kind", "places", "service"),
    [
        ("redis://one", "server", "one:6379", ""),
        ("rediss://one:1/2", "server", "one:1", ""),
        ("unix:///run/redis.sock", "server", "/run/redis.sock", ""),
        ("redis+sentinel://one,two:2/talk", "sentinel", "one:26379, two:2", "talk"),
        ("rediss+sentinel://u:p%2Cw@[::1],[::2]:2/talk/3", "sentinel", "::1:26379, ::2:2", "talk"),
        ("redis+cluster://one:1,two:2", "cluster", "one:1, two:2", ""),
    ],
)
def test_a_url_names_a_server_sentinels_or_a_cluster(
    url: str, kind: str, places: str, service: str
) -> None:
    target = parse_target(url)
    assert (target.kind, str(target), target.service) == (kind, places, service)
    assert all((it.tls is not None) == url.startswith("rediss") for it in target.addresses)
    if "u:p" in url:
        assert {(it.username, it.password, it.db) for it in target.addresses} == {("u", "p,w", 3)}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://one:1", r"its scheme is 'http', not 'redis'.*a URL begins with redis://"),
        ("localhost:6379", "does not begin with a scheme.*env:NAME"),
        ("", "it is empty"),
        ("redis://one two", "a space or a control character"),
        ("redis://", "it has no host"),
        ("redis://:6379/0", "it has no host"),
        ("rediss://", "it has no host"),
        ("redis://one:port", "its port is not valid.*a URL begins with redis://"),
        ("redis://one:70000", "its port is not valid"),
        ("redis://one:0", "its port is 0"),
        ("redis://one/talk", "not the number of a database"),
        ("redis://one/1/2", "not the number of a database"),
        ("redis://one/-1", "not the number of a database"),
        ("redis://one?db=-1", "number of its database is negative"),
        ("redis://one?db=x", "Invalid value for 'db'"),
        ("redis://[::1", "its host is not valid"),
        ("unix://run/redis.sock", "lacks an absolute path"),
        ("unix://", "lacks an absolute path"),
        ("redis+sentinel:///talk", "it has no host"),
        ("redis+sentinel://one:x/talk", "its port is not valid"),
        ("redis+sentinel://one/talk/x", "not the number of a database"),
        ("redis+cluster://", "it has no host"),
        ("redis+cluster://one,,two", "it has no host"),
        ("redis+nodes://one", "its scheme is not known"),
        ("unix+sentinel:///run/redis.sock/talk", "a URL begins with redis://"),
        ("redis+sentinel://one,two", "name of the service must follow"),
        ("redis+cluster://one/1", "only the database 0"),
        ("redis://one:1?socket_timeout=3", "socket_timeout"),
        ("redis://one:1?ssl_ca_certs=/ca", "ssl_ca_certs"),
        ("rediss://one:1?ssl_cert_reqs=none", "ssl_cert_reqs"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=sentence):
        RedisLedgerSettings.model_validate({"url": url})


@pytest.mark.parametrize(
    "url",
    ["redis://me:s3/cret@one", "redis://me:s3?cret@one", "redis://s3cret/x@one:1/0",
     "http://me:s3cret@one", "redis://me:s3cret@one:x", "redis://me:s3 cret@one"],
)  # fmt: skip
async def test_a_refused_url_is_named_once_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError) as given:
        validate(RedisLedgerSettings, {"url": url}, lambda keys: None, ("ledger", "redis"))
    monkeypatch.setenv("WHERE_REDIS_IS", url)
    settings = RedisLedgerSettings.model_validate({"url": "env:WHERE_REDIS_IS"})
    with pytest.raises(ConfigurationError) as revealed:
        await RedisLedger(settings).start()
    for error in (given, revealed):
        assert str(error.value).count("ledger.redis.url") == 1
        assert not re.search("s3|cret", str(error.value)), error.value


def test_the_plugin_declares_its_ledger() -> None:
    (backend,) = plugin.palaver_register_ledgers()
    build_context = BuildContext(data_directory=Path(), resolve_model=Path)
    assert backend.name == "redis"
    assert isinstance(backend.build(backend.settings(), build_context), RedisLedger)


# What a turn costs


async def test_accept_claim_and_settle_are_one_round_trip_each(server: RedisServer) -> None:
    async with run_proxy(server) as proxy, open_ledger(proxy.url) as ledger:
        proxy.clear_record()
        await ledger.accept(make_message())
        assert proxy.command_names() == [b"EVALSHA"]
        claim = await claim_turn(ledger)
        assert proxy.command_names() == [b"EVALSHA"] * 2
        await ledger.settle(claim, with_finished(claim, text_entry(claim, "hi")), expect=0)
        assert proxy.command_names() == [b"EVALSHA"] * 3


async def test_a_claim_does_not_grow_with_the_conversation(server: RedisServer) -> None:
    async with (
        run_proxy(server) as proxy,
        open_ledger(proxy.url) as ledger,
        raw_client(server.url) as client,
    ):
        sizes = []
        for _ in range(3):
            await ledger.accept(make_message())
            await answer_turn(ledger)
            await ledger.accept(make_message())
            proxy.clear_record()
            claim = await claim_turn(ledger, history=2)
            sizes.append(proxy.reply_bytes)
            await ledger.settle(claim, with_finished(claim, text_entry(claim, "fine")), expect=0)
            (key,) = [key async for key in client.scan_iter("*:h")]
            lines = await client.lrange(key, 0, 1)
            await client.rpush(key, *(lines * 500))
        assert max(sizes) - min(sizes) < 200  # a notification may be among them


async def test_an_idle_ledger_polls_once_a_second_at_most(server: RedisServer) -> None:
    async with run_proxy(server) as proxy, open_ledger(proxy.url) as ledger:
        assert await ledger.claim("worker", lease=3.0, history=0) is None
        proxy.clear_record()
        began = time.monotonic()
        for _ in range(2):
            await ledger.wait_for_work(30.0)
            assert await ledger.claim("worker", lease=3.0, history=0) is None
        assert 1.5 < time.monotonic() - began < 4
        assert len(proxy.commands) == 2


# Where things live


async def test_all_partitions_are_served_and_every_key_is_under_its_tag(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url, partitions=4) as ledger, raw_client(server.url) as client:
        threads = [f"t{number}" for number in range(12)]
        await remember(ledger, "acme", "adamina", "k", "v")
        for thread in threads:
            await ledger.accept(make_message(thread=thread, person="adamina"))
            await ledger.accept(make_message("more", thread=thread, person="bob"))
        assert (await ledger.queue_depth()).queued == 24
        claims = [await claim_turn(ledger) for _ in threads]
        assert await ledger.claim("worker", lease=30.0, history=0) is None
        for claim in claims[:6]:
            await ledger.settle(claim, with_finished(claim, text_entry(claim, "fine")), expect=0)
        keys = [key async for key in client.scan_iter()]
        assert {key[: len(b"palaver:{p00}:")] for key in keys} == {
            b"palaver:{p%02d}:" % number for number in range(4)
        }
        assert len({key_slot(key) for key in keys}) == 4
        assert len((await collect_export(ledger.export("acme", "adamina"))).conversations) == 7
        erasure = await ledger.erase("acme", "adamina")
        assert (erasure.conversations, erasure.messages, erasure.memories) == (13, 13, 1)
        assert not [key async for key in client.scan_iter("*adamina*")]
        assert (await ledger.queue_depth()).queued == 12


async def list_threads(ledger: RedisLedger, limit: int, **filter: bool) -> list[str]:
    """Return the threads of a whole list, read in parts of ``limit``."""
    found: list[str] = []
    before = ""
    while True:
        part = await ledger.list_conversations(
            "acme",
            "ada",
            ConversationFilter(channel="web", **filter),
            before=before,
            limit=limit,
        )
        assert len(part.conversations) <= limit
        found += [each.conversation.thread for each in part.conversations]
        before = part.next
        if not before:
            return found


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_a_list_is_in_order_over_all_partitions(server: RedisServer, limit: int) -> None:
    async with open_ledger(server.url, partitions=4) as ledger, raw_client(server.url) as client:
        threads = [f"t{number}" for number in range(14)]
        for number, thread in enumerate(threads):
            await ledger.accept(make_message(thread=thread))
            await asyncio.sleep(0.002)  # their order is by milliseconds
            if number % 5 == 0:
                await ledger.change_conversation(
                    Conversation("acme", "web", thread), "ada", ConversationChange(pinned=True)
                )
        assert await list_threads(ledger, limit) == threads[::-1]
        assert await list_threads(ledger, limit, pinned=True) == ["t10", "t5", "t0"]
        lists = [key async for key in client.scan_iter("*:a:*")]
        assert len(lists) == 4
        assert all([await client.pexpiretime(key) > 0 for key in lists])


async def test_a_share_is_found_in_any_partition_and_expires_with_its_conversation(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url, partitions=4) as ledger, raw_client(server.url) as client:
        for number in range(6):
            conversation = Conversation("acme", "web", f"t{number}")
            await ledger.accept(make_message(thread=f"t{number}"))
            epoch = (await ledger.snapshot(conversation, 0)).cursor.epoch
            share = Share(id=f"s{number}", at=1.0)
            await ledger.share(conversation, "ada", share, b"%d" % number, epoch=epoch)
        for number in range(6):
            assert await ledger.shared_content(f"s{number}") == b"%d" % number
        keys = [key async for key in client.scan_iter("*:x:*")]
        lists = [key async for key in client.scan_iter("*:x")]
        assert len(keys) == len(lists) == 6
        assert all([await client.pexpiretime(key) > 0 for key in (*keys, *lists)])
        await ledger.erase("acme", "ada")
        assert not [key async for key in client.scan_iter("*:x*")]


async def test_feedback_is_in_any_partition_and_expires_with_its_conversation(
    server: RedisServer,
) -> None:
    async with open_ledger(server.url, partitions=4) as ledger, raw_client(server.url) as client:
        given = {}
        for number in range(6):
            await ledger.accept(make_message(thread=f"t{number}"))
            claim = await answer_turn(ledger)
            feedback = Feedback(turn=claim.turn, rating="down", comment=f"c{number}")
            receipt = await ledger.give_feedback(claim.conversation, "ada", feedback)
            given[str(claim.conversation)] = (receipt.feedback,)
        export = await collect_export(ledger.export("acme", "ada"))
        assert export.feedback == given
        rated = [reply async for reply in ledger.rated_replies("acme", FeedbackFilter())]
        assert {str(each.conversation): (each.feedback,) for each in rated} == given
        keys = [key async for key in client.scan_iter("*:l:*")]
        assert len(keys) == 6
        assert all([await client.pexpiretime(key) > 0 for key in keys])
        await ledger.erase("acme", "ada")
        assert not [key async for key in client.scan_iter("*:l:*")]


async def test_a_long_history_is_exported_in_pieces(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        for author in ("ada", "bob"):
            await ledger.accept(make_message(person=author))
            await answer_turn(ledger)
        (key,) = [key async for key in client.scan_iter("*:h")]
        lines = await client.lrange(key, 0, -1)
        await client.rpush(key, *(lines * 300))
        export = await collect_export(ledger.export("acme", "ada"))
        assert len(export.conversations["acme/web/t"]) == 602
        erasure = await ledger.erase("acme", "ada")
        assert erasure.messages == 301
        assert len((await ledger.snapshot(CONVERSATION, 2000)).history) == 602


async def test_ids_cannot_reach_into_the_keys_of_others(server: RedisServer) -> None:
    async with open_ledger(server.url) as ledger:
        for person in ("a:b", "{p01}", "*", "a/b", ""):
            with pytest.raises(InvalidInput):
                await ledger.recall("acme", person, "k")
            with pytest.raises(InvalidInput):
                await ledger.erase(person, "ada")
        await ledger.accept(make_message())
        assert await ledger.stop(CONVERSATION, "x:q") == ("unknown", "")


async def test_an_id_is_forgotten_after_a_day(server: RedisServer) -> None:
    """Make the dedupe records older, as the clock is the server's."""
    async with open_ledger(server.url) as ledger, raw_client(server.url) as client:
        old = make_message()
        first = await ledger.accept(old)
        claim = await answer_turn(ledger)
        (marks,) = [key async for key in client.scan_iter("*:m")]
        (order,) = [key async for key in client.scan_iter("*:o")]
        assert 0 < await client.pttl(marks) <= 24 * 3600 * 1000
        field = f"i{old.id}".encode()
        turn, digest, at, offered = (await client.hget(marks, field)).split()
        aged = b"%d" % (int(at) - 24 * 3600 * 1000)
        await client.hset(marks, field, b" ".join((turn, digest, aged, offered)))
        for place, listed in enumerate(await client.lrange(order, 0, -1)):
            await client.lset(order, place, aged + listed[listed.index(b":") :])
        again = await ledger.accept(old)
        assert not again.duplicate
        assert again.turn != first.turn
        assert await client.llen(order) == 1
        assert await ledger.stop(CONVERSATION, claim.turn) == ("unknown", "")
        assert (await ledger.accept(old)).duplicate


async def test_a_reset_cuts_any_text_at_its_code_point(server: RedisServer) -> None:
    letters = "aé€🌊\u0301\x00z"
    chance = random.Random(7)
    async with open_ledger(server.url) as ledger:
        await ledger.accept(make_message())
        claim, index, expected = await claim_turn(ledger), 0, ""
        for length in (0, 1, 7, 50, 4096, 5000, 20_000):
            text = "".join(chance.choices(letters, k=length))
            position = chance.randint(0, len(expected) + length)
            entries = (
                text_entry(claim, text, len(expected)),
                TextReset(turn=claim.turn, position=position),
                text_entry(claim, "|", position),
            )
            expected = (expected + text)[:position] + "|"
            index = (await ledger.append(claim, entries, expect=index, lease=30.0)).index
            (pending,) = (await ledger.snapshot(CONVERSATION, 0)).pending
            assert pending.reply == expected


async def test_numbers_are_exact_up_to_those_that_javascript_can_hold(server: RedisServer) -> None:
    """The largest exact integer of a client, and of Redis's Lua, is 2 ** 53."""
    high = 2**53 - 1_000
    async with open_ledger(server.url) as ledger, raw_client(server.url) as redis:
        await ledger.accept(make_message())
        await answer_turn(ledger)
        conversation = "palaver:{p00}:c:acme/web/t"
        await redis.hset(conversation, mapping={"offset": high, "fence": high})
        await ledger.accept(make_message())
        claim = await claim_turn(ledger)
        assert claim.fence == high + 1
        progress = await ledger.append(
            claim, [text_entry(claim, "hi", 0)], expect=claim.index, lease=30.0
        )
        assert progress.offset == high + 2
        page = await ledger.read(CONVERSATION, high, 10)
        assert (page.last, [event.offset for event in page.events]) == (
            high + 2,
            [high + 1, high + 2],
        )
        assert (await ledger.snapshot(CONVERSATION, 0)).cursor.offset == high + 2
        entries = with_finished(claim)
        settled = await ledger.settle(claim, entries, expect=progress.index)
        assert await ledger.settle(claim, entries, expect=progress.index) == settled


async def test_dead_letters_of_earlier_versions_are_indexed_at_the_start(
    server: RedisServer,
) -> None:
    async with raw_client(server.url) as redis:
        async with open_ledger(server.url) as ledger:
            for number in range(50):
                await ledger.accept(make_message(f"poison {number}", thread=f"t{number}"))
                claim = await claim_turn(ledger)
                await ledger.settle(
                    claim, with_finished(claim), expect=0, dead_letter_reason="it kills"
                )
            state = "palaver:{p00}:state"
            assert await redis.hget(state, "dead_letters_indexed") == b"1"
        await redis.hdel(state, "dead_letters_indexed")
        assert await redis.unlink("palaver:{p00}:l:acme/ada") == 1
        async with open_ledger(server.url) as ledger:
            export = await collect_export(ledger.export("acme", "ada"))
            assert len(export.pending) == 50
            assert (await ledger.erase("acme", "ada")).dead_letters == 50
            assert await ledger.dead_letters(100) == ()


async def test_no_message_goes_before_those_of_earlier_releases(server: RedisServer) -> None:
    merging = ConcurrencyPolicies(default="merge", merge_window=60.0)

    def ordered(order: str, thread: str) -> Message:
        return msgspec.structs.replace(make_message(order, thread=thread), order=order)

    async with open_ledger(server.url) as ledger, raw_client(server.url) as redis:
        for thread, policies in (("apart", QUEUE_ALL), ("merged", merging)):
            receipt = await ledger.accept(ordered("5", thread), policies)
            (key,) = [key async for key in redis.scan_iter(f"*:{receipt.turn}")]
            await redis.hdel(key, "orders")
            for order in ("3", "4"):
                await ledger.accept(ordered(order, thread), policies)
            pending = (await ledger.snapshot(Conversation("acme", "web", thread), 0)).pending
            texts = [message.text for turn in pending for message in turn.messages]
            assert texts == ["5", "3", "4"]


async def test_other_conversations_and_prefixes_share_a_server(server: RedisServer) -> None:
    async with open_ledger(server.url) as one, open_ledger(server.url, prefix="other") as two:
        await one.accept(make_message())
        assert await two.claim("worker", lease=3.0, history=0) is None
        assert await two.members(Conversation("acme", "web", "t")) == frozenset()
