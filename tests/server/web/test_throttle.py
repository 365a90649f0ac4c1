"""Wrong keys are throttled by address; weak and equal secrets are refused at start."""

import logging

import pytest
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.authentication import find_key_problems
from palaver.config.settings import AuthKey, AuthSettings, ConnectionSettings, Secret
from palaver.errors import ConfigurationError
from palaver.web.access import LOG_LINES_PER_MINUTE
from palaver.web.throttle import MAX_KEYS, Throttle

pytestmark = pytest.mark.slow

RIGHT = "the secret key of ada"
KEYS = {"ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada")}
PROXIES = ConnectionSettings(trusted_proxies=("127.0.0.1",))
LIMIT = 3


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_ADA", RIGHT)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def guess(live_server: LiveServer, token: str, **headers: str) -> int:
    status, answer = await live_server.get("/v1/skills", headers=bearer(token) | headers)
    if status != 200:
        code = {401: "unauthenticated", 429: "too_many"}[status]
        assert answer["error"]["code"] == code
    return status


async def test_wrong_keys_of_one_address_are_throttled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_live_server(keys=KEYS, auth={"failures_per_minute": LIMIT}) as live_server:
        statuses = [await guess(live_server, f"guess {number}") for number in range(3 * LIMIT)]
        assert statuses == [401] * LIMIT + [429] * 2 * LIMIT
        url = live_server.url("/v1/skills")
        async with live_server.session.get(url, headers=bearer("guess")) as refused:
            assert 1 <= int(refused.headers["Retry-After"]) <= 60 / LIMIT
        metrics = live_server.server.metrics.exposition().decode()
    assert f'palaver_wrong_keys_total{{answer="refused"}} {LIMIT}.0' in metrics
    assert f'palaver_wrong_keys_total{{answer="throttled"}} {2 * LIMIT + 1}.0' in metrics
    assert caplog.text.count("a wrong key came from 127.0.0.1") == LIMIT
    assert "guess" not in caplog.text


async def test_a_right_key_is_never_refused() -> None:
    async with open_live_server(keys=KEYS, auth={"failures_per_minute": LIMIT}) as live_server:
        for number in range(4 * LIMIT):
            await guess(live_server, f"guess {number}")
        assert await guess(live_server, RIGHT) == 200
        async with live_server.open_websocket(headers=bearer(RIGHT)) as client:
            await client.hello("t", person=None)
        async with live_server.open_websocket() as client:
            await client.hello("t", person=None, token=RIGHT)


async def test_every_way_to_guess_counts() -> None:
    async with open_live_server(keys=KEYS, auth={"failures_per_minute": LIMIT}) as live_server:
        assert (await live_server.get("/metrics", headers=bearer("guess")))[0] == 401
        assert (await live_server.get("/ws", headers=bearer("guess")))[0] == 401
        async with live_server.open_websocket() as client:
            await client.send({"type": "hello", "thread": "t", "token": "guess"})
            assert await client.close_code() == 4401
        for path in ("/v1/about", "/ws", "/metrics", "/v1/export"):
            assert (await live_server.get(path, headers=bearer("guess")))[0] == 429, path
        live_server.server.draining = True
        assert (await live_server.get("/readyz", headers=bearer("guess")))[0] == 429
        live_server.server.draining = False
        async with live_server.open_websocket() as client:
            await client.send({"type": "hello", "thread": "t", "token": "guess"})
            error = await client.wait_for("error")
            assert (error["code"], error["retry_after"] > 0) == ("too_many", True)
            assert await client.close_code() == 1013


async def test_a_missing_key_is_no_guess() -> None:
    async with open_live_server(keys=KEYS, auth={"failures_per_minute": LIMIT}) as live_server:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"}):
            for _ in range(2 * LIMIT):
                assert (await live_server.get("/v1/skills", headers=headers))[0] == 401
        assert await guess(live_server, "guess") == 401


async def test_each_address_has_its_own_limit() -> None:
    async with open_live_server(
        keys=KEYS, auth={"failures_per_minute": LIMIT}, connections=PROXIES
    ) as live_server:

        async def guess_from(address: str) -> int:
            return await guess(live_server, "guess", **{"X-Forwarded-For": address})

        for address, neighbour, stranger in (
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
            ("::ffff:192.0.2.9", "192.0.2.9", "192.0.2.10"),
        ):
            assert [await guess_from(address) for _ in range(LIMIT)] == [401] * LIMIT
            assert await guess_from(neighbour) == 429
            assert await guess_from(stranger) == 401


async def test_many_addresses_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with open_live_server(keys=KEYS, connections=PROXIES) as live_server:
        guesses = int(3 * LOG_LINES_PER_MINUTE)
        for number in range(guesses):
            address = f"192.0.2.{number}"
            assert await guess(live_server, "guess", **{"X-Forwarded-For": address}) == 401
        metrics = live_server.server.metrics.exposition().decode()
    lines = caplog.text.count("a wrong key came from")
    assert LOG_LINES_PER_MINUTE <= lines < guesses
    assert f'palaver_wrong_keys_total{{answer="refused"}} {guesses}.0' in metrics


async def test_a_client_cannot_choose_its_address() -> None:
    async with open_live_server(keys=KEYS, auth={"failures_per_minute": LIMIT}) as live_server:
        statuses = [
            await guess(live_server, "guess", **{"X-Forwarded-For": f"192.0.2.{number}"})
            for number in range(2 * LIMIT)
        ]
        assert statuses == [401] * LIMIT + [429] * LIMIT


@pytest.mark.parametrize("key", [b"\xff", b"\xc3\xa9" * 20, b"\xed\xa0\x80", b"x" * 7000])
async def test_bytes_that_are_no_key_are_a_wrong_key(key: bytes) -> None:
    async with open_live_server(keys=KEYS) as live_server:
        token = key.decode(errors="surrogateescape")
        assert await guess(live_server, token) == 401


async def test_a_key_in_json_may_be_any_text() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        for token in ("\\ud800", "\\udcff", "\\u0000", "é" * 20):
            async with live_server.open_websocket() as client:
                await client.socket.send_str(f'{{"type":"hello","thread":"t","token":"{token}"}}')
                assert await client.close_code() in (4400, 4401)


def test_the_limit_recovers_with_time() -> None:
    now = 0.0
    throttle = Throttle(60, lambda: now)
    assert [throttle.count("a") for _ in range(60)] == [0] * 60
    assert throttle.count("a") == pytest.approx(1)
    assert throttle.count("b") == 0
    now = 1.0  # throttled failures do not delay the recovery
    assert throttle.count("a") == 0
    assert throttle.count("a") > 0


def test_the_table_of_addresses_is_bounded() -> None:
    throttle = Throttle(1, lambda: 0.0)
    for number in range(MAX_KEYS):
        throttle.count(str(number))
    assert throttle.count("0") > 0  # it is now the one that failed last
    throttle.count("new")
    assert len(throttle) == MAX_KEYS
    assert throttle.count("0") > 0
    assert throttle.count("1") == 0  # it was forgotten


# Secrets


def keys(**secrets: str) -> dict[str, AuthKey]:
    return {
        name: AuthKey(secret=Secret(f"env:{variable}"), tenant=name)
        for name, variable in secrets.items()
    }


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"ONE": "x" * 15}, "auth.keys.one.secret: env:ONE has 15 characters"),
        ({"ONE": "x" * 15 + "  \n"}, "auth.keys.one.secret: env:ONE has 15 characters"),
        ({"ONE": "x" * 16, "TWO": "x" * 16}, "auth.keys.two.secret and auth.keys.one.secret"),
        ({"ONE": "x" * 16, "TWO": f" {'x' * 16}\n"}, "auth.keys.two.secret and auth.keys.one"),
    ],
)
async def test_short_and_equal_secrets_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], problem: str
) -> None:
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    given = keys(**{variable.lower(): variable for variable in values})
    (found,) = find_key_problems(AuthSettings(keys=given))
    assert found.startswith(problem)
    assert "xxx" not in found
    with pytest.raises(ConfigurationError, match=r"auth\.keys"):
        async with open_live_server(keys=given):
            pass


@pytest.mark.parametrize("value", ["", " ", "\n"])
async def test_an_empty_secret_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ONE", value)
    with pytest.raises(ConfigurationError, match="env:ONE"):
        async with open_live_server(keys=keys(one="ONE")):
            pass


async def test_a_short_cookie_secret_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOKIE", "short")
    auth = AuthSettings(cookie_secret=Secret("env:COOKIE"))
    (problem,) = find_key_problems(auth)
    assert problem.startswith("auth.cookie_secret: env:COOKIE has 5 characters")
    with pytest.raises(ConfigurationError, match=r"auth\.cookie_secret"):
        async with open_live_server(auth={"cookie_secret": Secret("env:COOKIE")}):
            pass


async def test_a_secret_with_space_at_its_ends_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "a key with a line's end\n")
    async with open_live_server(keys=keys(one="ONE")) as live_server:
        assert await guess(live_server, "a key with a line's end") == 200
