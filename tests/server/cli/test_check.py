"""``palaver check``: what a configuration guarantees, and what is wrong with it."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from tests.plugins.engines.models import damage_model, write_model
from tests.plugins.ledgers.redis_server import PASSWORD, RedisServer, write_user_config
from tests.ports import free_port
from tests.server.cli.consoles import (
    KIT,
    PORT,
    BrokenConsole,
    KitConsole,
    RealConsole,
    TwoSkillsConsole,
    locked_ledger,
)
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.cli.check import check
from palaver.cli.console import Console
from palaver.models.registry import ModelRegistry
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    *arguments: str, settings: tuple[str, ...] = (), kind: type[Console] = KitConsole
) -> Result:
    console = kind(None, (*KIT, *settings))
    return CliRunner().invoke(check, arguments, obj=console, catch_exceptions=False)


def lines(result: Result, mark: str) -> list[str]:
    return [line[2:] for line in result.output.splitlines() if line.startswith(mark)]


def test_a_good_configuration_passes_with_the_guarantees_of_the_ledger(tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0
    assert lines(result, "✗") == []
    assert lines(result, "✓") == [
        "settings: every key is known and every value is valid",
        "plugins: 1 loaded; skills: parrot",
        f"data: {tmp_path / 'data'} will be created; {tmp_path} is writable",
        f"network: 127.0.0.1:{PORT}, open to this machine only, without keys",
        "ledger 'memory': Turns of a conversation run one at a time, in order.",
    ]
    assert lines(result, "!") == [
        "ledger 'memory': Nothing survives the end of the process.",
        "engine 'echo': not loaded; --engine loads and tries it",
    ]


SITE = (
    "widget.sites.shop.key=pk_the-key-of-the-shop",
    "widget.sites.shop.origins=https://shop.example,https://www.shop.example",
    "widget.sites.shop.tenant=shop",
)


def test_a_site_is_described_and_visitors_without_a_limit_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run(settings=SITE)
    assert result.exit_code == 0
    pages = "pages of https://shop.example, https://www.shop.example"
    assert f"site 'shop': tenant 'shop', {pages}, any visitor" in lines(result, "✓")
    notes = [line for line in lines(result, "!") if line.startswith(("site", "widget"))]
    assert notes == [
        (
            "site 'shop': anybody can become any number of visitors; limit them together with "
            "admission.tenants.shop.messages_per_minute and stored_bytes"
        ),
        "widget: without auth.keys only browsers on this machine can use it",
    ]
    monkeypatch.setenv("SHOP", "the secret of the backend of the shop")
    limited = (
        "admission.tenants.shop.messages_per_minute=600",
        "admission.tenants.shop.stored_bytes=1_000_000_000",
        "widget.sites.shop.identity_secret=env:SHOP",
        "auth.keys.a.secret=env:SHOP_KEY",
    )
    monkeypatch.setenv("SHOP_KEY", "the secret key of an operator")
    result = run(settings=(*SITE, *limited))
    assert f"site 'shop': tenant 'shop', {pages}, any visitor, or an identified one" in lines(
        result, "✓"
    )
    assert not [line for line in lines(result, "!") if line.startswith(("site", "widget"))]
    files = (*SITE, *limited, "widget.sites.shop.files=true")
    assert (
        "site 'shop': visitors may upload files; limit those of all together with "
        "files.tenant_bytes"
    ) in lines(run(settings=files), "!")
    result = run(settings=(*files, "files.tenant_bytes=1_000_000"))
    assert not [line for line in lines(result, "!") if line.startswith("site")]
    result = run(settings=(*SITE, *limited[2:], "widget.sites.shop.require_identity=true"))
    assert f"site 'shop': tenant 'shop', {pages}, identified visitors only" in lines(result, "✓")
    assert not [line for line in lines(result, "!") if line.startswith("site")]


def test_a_site_that_cannot_work_is_one_sentence() -> None:
    same = (
        "widget.sites.blog.key=pk_the-key-of-the-shop",
        "widget.sites.blog.origins=https://b.org",
    )
    result = run(settings=(*SITE, *same, "widget.sites.blog.require_identity=true"))
    assert result.exit_code == 78
    assert lines(result, "✗") == [
        "widget.sites.blog.key and widget.sites.shop.key are equal; each needs a value of its own",
        "widget.sites.blog.require_identity needs identity_secret or identity_public_key",
    ]


def test_a_phase_longer_than_the_grace_is_reported() -> None:
    result = run(settings=("server.drain=60", "server.linger=5", "server.grace=10"))
    assert result.exit_code == 0
    notes = [line for line in lines(result, "!") if line.startswith("server.")]
    assert notes == ["server.drain 60 is reduced to 7: the process exits after server.grace 10"]


def test_a_wait_that_leaves_no_time_for_the_reply_is_reported() -> None:
    result = run(settings=("engine.timeout=20",))
    assert result.exit_code == 0
    (note,) = [line for line in lines(result, "!") if line.startswith("admission.")]
    assert "admission.max_wait 30 is not below engine.timeout 20" in note


def test_the_engine_is_tried_when_asked_for() -> None:
    result = run("--engine")
    assert result.exit_code == 0
    (engine,) = [line for line in lines(result, "✓") if line.startswith("engine")]
    assert engine.startswith("engine 'echo': scripted answers, context 8192 tokens; can ")


def test_a_skill_that_the_engine_cannot_serve_fails() -> None:
    result = run("--engine", settings=("engine.echo.lacks=seed",))
    assert result.exit_code == 78
    assert lines(result, "✗") == ["skill 'parrot' needs an engine with seed"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "server.prot=1",
            "unknown key 'server.prot' (--set server.prot); did you mean 'server.port'?",
        ),
        (
            "engine.echo.puase=1",
            ("unknown key 'engine.echo.puase' (--set engine.echo.puase); "
            "did you mean 'engine.echo.pause'?"),
        ),
        (
            "server.host=0.0.0.0",
            ("server.host '0.0.0.0' can be reached from other machines: set auth.keys, "
            "or listen on 127.0.0.1"),
        ),
        ("auth.keys.bob.secret=env:NONE", "auth.keys.bob.secret: env:NONE is empty or not set"),
        ("engine.echo.key=file:none", "engine.echo.key: file:none: No such file or directory"),
        ("models.hub_token=env:NONE", "models.hub_token: env:NONE is empty or not set"),
        ("engine.use=vllm", "engine.use names 'vllm'; installed are: echo"),
        ("knowledge.use=sqlite", "knowledge.use names 'sqlite'; installed are: list"),
        (
            'concurrency_policy.skills={unknown="queue"}',
            "concurrency_policy.skills names 'unknown'; installed are: parrot",
        ),
        (
            'concurrency_policy.channels={slack="merge"}',
            "concurrency_policy.channels names 'slack'; installed are: bell, web",
        ),
        (
            'admission.lanes={slack="batch"}',
            "admission.lanes names 'slack'; installed are: bell, web",
        ),
        ("concurrency_policy.default=sometimes", (
            "concurrency_policy.default must be 'queue', 'merge', "
            "'interrupt' or 'steer', not 'sometimes' (--set concurrency_policy.default)"
        )),
        ("channels.enabled=slack", "channels.enabled names 'slack'; installed are: bell"),
        ("interceptors.enabled=guard", ("interceptors.enabled names 'guard'; installed are: "
         "shout")),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence(setting: str, sentence: str) -> None:
    result = run(settings=(setting,))
    assert lines(result, "✗") == [sentence]
    assert result.exit_code == 78


def test_an_unknown_default_skill_is_reported() -> None:
    result = run(settings=("routing.default=chatt",), kind=TwoSkillsConsole)
    assert lines(result, "✗") == [
        "routing.default names 'chatt'; installed are: parrot, translation"
    ]
    assert result.exit_code == 78
    assert run(settings=("routing.default=chatt",)).exit_code == 0  # the only skill answers


def test_an_engine_that_does_not_start_is_reported() -> None:
    result = run("--engine", settings=("engine.echo.mode=slow",))
    assert lines(result, "✗") == ["engine 'echo': there is no slow echo"]


def test_a_plugin_that_failed_is_named_and_fails_only_when_strict() -> None:
    result = run(kind=BrokenConsole)
    sentence = (
        "plugin broken (unknown ?) was left out: ModuleNotFoundError: "
        "No module named 'tests.no_such_module'"
    )
    assert sentence in lines(result, "!")
    assert result.exit_code == 0
    strict = run(kind=BrokenConsole, settings=("plugins.strict=true",))
    assert lines(strict, "✗") == [sentence]
    assert strict.exit_code == 78


def test_secrets_are_shown_by_reference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOB", "hunter2 is bob's key")
    result = run(settings=("auth.keys.bob.secret=env:BOB", "engine.echo.key=env:BOB"))
    assert "auth.keys.bob.secret: env:BOB is set" in lines(result, "✓")
    assert "engine.echo.key: env:BOB is set" in lines(result, "✓")
    assert "hunter2" not in result.output


def test_keys_are_shown_with_what_they_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "the secret key of a")
    monkeypatch.setenv("B", "the secret key of b")
    monkeypatch.setenv("C", "the secret key of c")
    settings = (
        *(f"auth.keys.{name}.secret=env:{name.upper()}" for name in "abc"),
        "auth.keys.b.person=bob",
        "auth.keys.b.rights=export",
        "auth.keys.c.tenant=acme",
        "auth.keys.c.rights=talk,impersonate",
    )
    shown = [line for line in lines(run(settings=settings), "✓") if line.startswith("key ")]
    assert shown == [
        "key 'a': tenant 'default', a person for each browser, rights talk, read",
        "key 'b': tenant 'default', person 'bob', rights export",
        "key 'c': tenant 'acme', any person, rights talk, impersonate",
    ]


def test_keys_that_are_short_or_equal_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "hunter2")
    monkeypatch.setenv("B", "hunter2 is bob's key")
    settings = [f"auth.keys.{name}.secret=env:{name[0].upper()}" for name in ("a", "b", "b2")]
    result = run(settings=tuple(settings))
    short, equal = lines(result, "✗")
    assert short.startswith(
        "auth.keys.a.secret: env:A has 7 characters; a secret needs at least 16"
    )
    assert "openssl rand -hex 32" in short
    assert equal.startswith("auth.keys.b2.secret and auth.keys.b.secret are equal")
    assert "hunter2" not in result.output
    assert result.exit_code == 78


def test_a_damaged_model_is_reported_with_its_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "walker")
    settings = ("engine.use=openvino", f"engine.openvino.model={model}")
    good = run(settings=settings, kind=RealConsole)
    assert [line for line in lines(good, "✓") if line.startswith("model: walker (Qwen2")]
    damage_model(model, "truncated weights")
    result = run(settings=settings, kind=RealConsole)
    assert lines(result, "✗") == [
        (
            f"engine 'openvino': model {str(model)!r}: model.safetensors is truncated: "
            "it has 5_000 of 1_055_952 bytes"
        )
    ]


def test_the_engine_takes_the_model_that_was_chosen(tmp_path: Path) -> None:
    models = ModelRegistry(Path("data"))
    models.use(models.add_directory(write_model(tmp_path / "walker")))
    result = run(settings=("engine.use=openvino",), kind=RealConsole)
    assert [line for line in lines(result, "✓") if line.startswith("model: walker (Qwen2")]


def test_a_redis_that_does_not_answer_is_reported() -> None:
    result = run("--redis", "redis://:hunter2@127.0.0.1:1/0", kind=RealConsole)
    (sentence,) = lines(result, "✗")
    assert sentence.startswith("ledger 'redis': ")
    assert "hunter2" not in result.output
    assert result.exit_code == 69


def test_replicas_without_a_common_cookie_secret_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOKIE_SECRET", "a secret of all replicas")
    redis = ("--redis", "redis://127.0.0.1:1/0")
    for settings, expected in (((), 1), (("auth.cookie_secret=env:COOKIE_SECRET",), 0)):
        notes = lines(run(*redis, settings=settings, kind=RealConsole), "!")
        assert sum("auth.cookie_secret is not set" in note for note in notes) == expected


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", include=write_user_config(tmp_path))
    server.start()
    yield server
    server.kill()


def redis_findings(result: Result, mark: str) -> list[str]:
    """Return the findings about Redis with this mark."""
    about = "ledger 'redis': "
    found = [line for line in lines(result, mark) if line.startswith(about)]
    return [line.removeprefix(about) for line in found]


@pytest.mark.redis
def test_a_redis_says_what_it_guarantees(redis: RedisServer) -> None:
    result = run("--redis", redis.url_for("palaver"), kind=RealConsole)
    assert result.exit_code == 0, result.output
    place, *rest = redis_findings(result, "✓")
    assert re.fullmatch(rf"Redis [\d.]+ at 127.0.0.1:{redis.port}\.", place)
    assert rest == [
        "Turns of a conversation run one at a time, in the order of their acceptance.",
        "Acknowledged writes are on disk: they survive a crash of Redis or its host.",
        "Redis evicts nothing; when its memory is full, messages are refused.",
        "Connections to Redis do not leave this machine.",
        "The user 'palaver' has the permissions that a ledger needs, and no dangerous ones.",
    ]
    assert redis_findings(result, "!") == []
    assert PASSWORD not in result.output


@pytest.mark.redis
def test_it_writes_nothing_to_redis(redis: RedisServer) -> None:
    assert run("--redis", redis.url_for("palaver"), kind=RealConsole).exit_code == 0
    with Redis.from_url(redis.url) as admin:
        assert admin.dbsize() == 0


@pytest.mark.redis
def test_a_redis_user_with_all_rights_is_noted(redis: RedisServer) -> None:
    result = run("--redis", redis.url, kind=RealConsole)
    assert result.exit_code == 0
    (sentence,) = redis_findings(result, "!")
    assert "FLUSHALL" in sentence
    assert "config/redis.conf" in sentence


@pytest.mark.redis
def test_a_missing_right_is_named_with_what_to_permit(redis: RedisServer) -> None:
    with Redis.from_url(redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "palaver", "-xadd", "-publish")
    result = run("--redis", redis.url_for("palaver"), kind=RealConsole)
    assert result.exit_code == 78
    (sentence,) = redis_findings(result, "✗")
    assert "denies user 'palaver' commands that a ledger needs" in sentence
    assert "permit +publish +xadd on ~palaver:* and &palaver:*" in sentence
    assert PASSWORD not in result.output


@pytest.mark.redis
@pytest.mark.parametrize(
    ("directive", "value"),
    [("maxmemory-policy", "allkeys-lru"), ("appendfsync", "everysec"), ("appendonly", "no")],
)
def test_a_redis_that_loses_what_it_acknowledged_is_refused(
    redis: RedisServer, directive: str, value: str
) -> None:
    redis.kill()
    redis.directives[directive] = value
    redis.start()
    url = redis.url_for("palaver")
    result = run("--redis", url, kind=RealConsole)
    assert result.exit_code == 78
    (sentence,) = redis_findings(result, "✗")
    assert f"has '{directive} {value}'" in sentence
    assert f"set '{directive} " in sentence
    weak = run(
        "--redis",
        url,
        kind=RealConsole,
        settings=("ledger.redis.allow_weak_durability=true",),
    )
    assert weak.exit_code == 0
    assert len(redis_findings(weak, "!")) == 1


# It reads only


@contextlib.contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Drop the rights of root, if the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def snapshot(directory: Path) -> dict[str, object]:
    """Return every file and directory with its contents and modification time."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted([directory, *directory.rglob("*")])
    }


SQLITE = ("ledger.use=sqlite",)


def test_it_creates_nothing_where_no_data_directory_exists(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    result = run("--engine", settings=(*SQLITE, "server.data=var/lib/palaver"), kind=RealConsole)
    assert result.exit_code == 0, result.output
    data = tmp_path / "var" / "lib" / "palaver"
    assert f"data: {data} will be created; {tmp_path} is writable" in lines(result, "✓")
    assert any("survives a crash" in line for line in lines(result, "✓"))
    assert snapshot(tmp_path) == before


def test_it_changes_nothing_in_a_ledger(tmp_path: Path) -> None:
    console = RealConsole(None, (*KIT, *SQLITE))
    with locked_ledger(console):
        pass
    before = snapshot(tmp_path)
    assert "data/ledger.sqlite" in before
    result = run(settings=SQLITE, kind=RealConsole)
    assert result.exit_code == 0, result.output
    assert f"data: {tmp_path / 'data'} is writable" in lines(result, "✓")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a database, but long enough to have a header", "file is not a database"),
        (None, "it is the database of another program"),
    ],
)
def test_a_file_that_is_no_ledger_is_reported(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "ledger.sqlite"
    if content is None:
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE notes (text TEXT)")
        database.close()
    else:
        file.write_bytes(content)
    before = snapshot(tmp_path)
    result = run(settings=SQLITE, kind=RealConsole)
    (sentence,) = lines(result, "✗")
    assert reason in sentence
    assert result.exit_code == 78
    assert snapshot(tmp_path) == before


def test_a_ledger_in_a_directory_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    settings = (*SQLITE, f"ledger.sqlite.path={tmp_path / 'no' / 'ledger.sqlite'}")
    (sentence,) = lines(run(settings=settings, kind=RealConsole), "✗")
    assert "its directory does not exist" in sentence


def test_a_data_directory_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(settings=("server.data=file/data",))
    data, file = tmp_path / "file" / "data", tmp_path / "file"
    assert lines(result, "✗") == [f"server.data {str(data)!r}: {file} is not a directory"]
    assert result.exit_code == 78


@pytest.mark.parametrize("data", ["", "data"])
def test_a_data_directory_that_is_not_writable_is_reported(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        monkeypatch.chdir(name)
        with as_unprivileged_user():
            result = run(settings=(f"server.data={os.path.join(name, data)}",))
    assert [line for line in lines(result, "✗") if line.endswith(f"{name} is not writable")]
    assert result.exit_code == 78


# A server that runs beside it


async def check_beside(server: LiveServer, *settings: str) -> Result:
    port = server.address.rpartition(":")[2]
    settings = (f"server.port={port}", *settings)
    return await asyncio.to_thread(run, settings=settings, kind=RealConsole)


async def test_a_server_that_runs_here_is_no_fault(tmp_path: Path) -> None:
    ledger = SQLiteLedger(SQLiteLedgerSettings(), tmp_path)
    async with open_live_server(ledger=ledger) as live_server:
        result = await check_beside(live_server, *SQLITE, f"server.data={tmp_path}")
        assert result.exit_code == 0, result.output
        good = lines(result, "✓")
        assert f"network: a server runs here: {live_server.address} answers" in good
        assert "ledger 'sqlite': the server that runs here uses it" in good
        assert any("survives a crash" in line for line in good)


def test_a_ledger_in_use_without_a_server_here_is_a_fault() -> None:
    with locked_ledger(RealConsole(None, (*KIT, *SQLITE))):
        result = run(settings=SQLITE, kind=RealConsole)
    (sentence,) = lines(result, "✗")
    assert "another server uses it" in sentence
    assert result.exit_code == 69


@pytest.mark.slow
def test_a_port_that_another_program_uses_is_a_fault() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        result = run(settings=(f"server.port={port}",))
    assert lines(result, "✗") == [f"cannot listen on 127.0.0.1:{port}: Address already in use"]
    assert result.exit_code == 69


def test_a_clock_that_has_jumped_is_reported(tmp_path: Path) -> None:
    """Check a file that was last used when the clock showed a time a year ago, or ahead."""
    settings = ("ledger.use=sqlite", f"server.data={tmp_path}")

    async def use() -> None:
        ledger = SQLiteLedger(SQLiteLedgerSettings(), tmp_path)
        await ledger.start()
        await ledger.close()

    asyncio.run(use())
    assert "The clock shows" not in run(settings=settings, kind=RealConsole).output
    year = 365 * 86_400
    for shift, words in ((-year, "365.0 days after"), (2 * year, "365.0 days before")):
        with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
            connection.execute(
                "UPDATE meta SET value = json_set(value, '$.seen_at', "
                "json_extract(value, '$.seen_at') + ?) WHERE key = 'clock'",
                (shift,),
            )
        connection.close()
        result = run(settings=settings, kind=RealConsole)
        (note,) = [line for line in lines(result, "!") if "The clock shows" in line]
        assert words in note


def test_a_store_of_files_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("palaver.files.objects.RETRY_SECONDS", 0.05)
    result = run(settings=("files.store=s3://bucket/files",))
    assert result.exit_code == 69
    [problem] = lines(result, "✗")
    assert problem.startswith("files: the store of files: Generic S3 error")
    assert "secret" not in result.output
    lacking = run(settings=("files.store=az://",))
    assert lacking.exit_code == 78
    assert "files.store cannot be used" in lacking.output


def test_what_happens_to_files_is_noted() -> None:
    assert "files: in memory; they do not survive the end of the process" in lines(
        run(settings=("files.store=memory:///",)), "!"
    )
    assert "files: nobody may upload (files.person_count is 0)" in lines(
        run(settings=("files.person_count=0",)), "✓"
    )


def test_servers_that_share_redis_need_a_common_store_of_files() -> None:
    note = "files: kept in server.data; servers that share the ledger need a common files.store"
    redis = ("--redis", "redis://127.0.0.1:1/0")
    assert note in lines(run(*redis, kind=RealConsole), "!")
    assert note not in lines(run(*redis, settings=("files.person_count=0",), kind=RealConsole), "!")
    assert note not in lines(run(), "!")
