"""``palaver check``: what a configuration guarantees, and what is wrong with it."""

import functools
import importlib.metadata
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from tests.plugins.engines.models import damage_model, write_model
from tests.plugins.ledgers.redis_server import PASSWORD, RedisServer, write_user_config
from tests.server.config import settings_plugin

from palaver.cli.check import check
from palaver.cli.console import Console
from palaver.models.registry import ModelRegistry
from palaver.plugins import PluginRegistry, load_plugins

KIT = (
    "engine.use=echo",
    "ledger.use=memory",
    "knowledge.use=list",
    "routing.default=parrot",
)


class KitConsole(Console):
    """A console whose plugins are those of the test."""

    plugins: ClassVar[dict[str, str]] = {"kit": settings_plugin.__name__}

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        points = [
            importlib.metadata.EntryPoint(name, module, "palaver")
            for name, module in self.plugins.items()
        ]
        plugins = self.settings.plugins
        return load_plugins(points, strict=plugins.strict)


class BrokenConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {**KitConsole.plugins, "broken": "tests.no_such_module"}


class RealConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {
        **KitConsole.plugins,
        "openvino": "palaver_plugins.engines.openvino",
        "redis": "palaver_plugins.ledgers.redis",
    }


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


def test_a_good_configuration_passes_and_says_what_the_ledger_keeps(tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0
    assert lines(result, "✗") == []
    assert lines(result, "✓") == [
        "settings: every key is known and every value fits",
        "plugins: 1 loaded; skills: parrot",
        f"data: {tmp_path / 'data'} can be written",
        "network: listens on 127.0.0.1:7252, open to this machine only, without keys",
        "ledger 'memory': Turns of a conversation run one at a time, in order.",
    ]
    assert lines(result, "!") == [
        "ledger 'memory': Nothing survives the end of the process.",
        "engine 'echo': not loaded; --engine loads it and tries it",
    ]


def test_what_does_not_fit_into_the_grace_is_told() -> None:
    result = run(settings=("server.drain=60", "server.linger=5", "server.grace=10"))
    assert result.exit_code == 0
    notes = [line for line in lines(result, "!") if line.startswith("server.")]
    assert notes == ["server.drain 60 is cut to 7: server.grace 10 is when the process has ended"]


def test_a_wait_that_leaves_no_time_for_the_reply_is_told() -> None:
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
        ("auth.keys.bob.secret=env:NOBODY", ("auth.keys.bob.secret: secret 'env:NOBODY' is empty "
         "or not set")),
        ("engine.echo.key=file:none", ("engine.echo.key: secret 'file:none': No such file or "
         "directory")),
        ("models.hub_token=env:NOBODY", ("models.hub_token: secret 'env:NOBODY' is empty or not "
         "set")),
        ("engine.use=vllm", "engine.use names 'vllm'; installed are: ['echo']"),
        ("knowledge.use=sqlite", "knowledge.use names 'sqlite'; installed are: ['list']"),
        (
            'concurrency_policy.skills={nobody="queue"}',
            "concurrency_policy.skills names 'nobody'; installed are: ['parrot']",
        ),
        (
            'concurrency_policy.channels={slack="merge"}',
            "concurrency_policy.channels names 'slack'; installed are: ['bell', 'web']",
        ),
        (
            'admission.lanes={slack="batch"}',
            "admission.lanes names 'slack'; installed are: ['bell', 'web']",
        ),
        ("concurrency_policy.default=sometimes", (
            "concurrency_policy.default must be 'queue', 'merge', "
            "'interrupt' or 'steer', not 'sometimes' (--set concurrency_policy.default)"
        )),
        ("channels.enabled=slack", "channels.enabled names 'slack'; installed are: ['bell']"),
        ("interceptors.enabled=guard", ("interceptors.enabled names 'guard'; installed are: "
         "['shout']")),
        ("routing.default=chat", "routing.default names 'chat'; installed are: ['parrot']"),
        ("server.data=/proc/none", ("server.data '/proc/none' cannot be written: "
         "No such file or directory")),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence(setting: str, sentence: str) -> None:
    result = run(settings=(setting,))
    assert lines(result, "✗") == [sentence]
    assert result.exit_code == 78


def test_an_engine_that_does_not_start_is_told() -> None:
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
    monkeypatch.setenv("BOB", "hunter2")
    result = run(settings=("auth.keys.bob.secret=env:BOB", "engine.echo.key=env:BOB"))
    assert "auth.keys.bob.secret: env:BOB is there" in lines(result, "✓")
    assert "engine.echo.key: env:BOB is there" in lines(result, "✓")
    assert "hunter2" not in result.output


def test_a_damaged_model_is_told_by_its_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "walker")
    settings = ("engine.use=openvino", f"engine.openvino.model={model}")
    good = run(settings=settings, kind=RealConsole)
    assert [line for line in lines(good, "✓") if line.startswith("model: walker (Qwen2")]
    damage_model(model, "truncated weights")
    result = run(settings=settings, kind=RealConsole)
    assert lines(result, "✗") == [
        (
            f"engine 'openvino': model {str(model)!r}: model.safetensors is truncated: "
            "5_000 of 1_055_952 bytes are there"
        )
    ]


def test_the_engine_takes_the_model_that_was_chosen(tmp_path: Path) -> None:
    models = ModelRegistry(Path("data"))
    models.use(models.add_directory(write_model(tmp_path / "walker")))
    result = run(settings=("engine.use=openvino",), kind=RealConsole)
    assert [line for line in lines(result, "✓") if line.startswith("model: walker (Qwen2")]


def test_a_redis_that_does_not_answer_is_told() -> None:
    result = run("--redis", "redis://:hunter2@127.0.0.1:1/0", kind=RealConsole)
    (sentence,) = lines(result, "✗")
    assert sentence.startswith("ledger 'redis': ")
    assert "hunter2" not in result.output
    assert result.exit_code == 78


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", include=write_user_config(tmp_path))
    server.start()
    yield server
    server.kill()


def of_redis(result: Result, mark: str) -> list[str]:
    """What is said of the Redis."""
    about = "ledger 'redis': "
    found = [line for line in lines(result, mark) if line.startswith(about)]
    return [line.removeprefix(about) for line in found]


@pytest.mark.redis
def test_a_redis_says_what_it_guarantees(redis: RedisServer) -> None:
    result = run("--redis", redis.url_for("palaver"), kind=RealConsole)
    assert result.exit_code == 0, result.output
    place, *rest = of_redis(result, "✓")
    assert re.fullmatch(rf"Redis [\d.]+ at 127.0.0.1:{redis.port}\.", place)
    assert rest == [
        "Turns of a conversation run one at a time, in the order of their acceptance.",
        "Acknowledged writes are on disk: they survive a crash of Redis or its host.",
        "Redis evicts nothing; when its memory is full, messages are refused.",
        "Connections to Redis do not leave this machine.",
        "The user 'palaver' has the permissions that a ledger needs, and no dangerous ones.",
    ]
    assert of_redis(result, "!") == []
    assert PASSWORD not in result.output


@pytest.mark.redis
def test_a_user_of_redis_who_may_do_everything_is_worth_knowing(redis: RedisServer) -> None:
    result = run("--redis", redis.url, kind=RealConsole)
    assert result.exit_code == 0
    (sentence,) = of_redis(result, "!")
    assert "FLUSHALL" in sentence
    assert "config/redis.conf" in sentence


@pytest.mark.redis
def test_a_missing_right_is_named_with_what_to_permit(redis: RedisServer) -> None:
    with Redis.from_url(redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "palaver", "-xadd", "-publish")
    result = run("--redis", redis.url_for("palaver"), kind=RealConsole)
    assert result.exit_code == 78
    (sentence,) = of_redis(result, "✗")
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
    (sentence,) = of_redis(result, "✗")
    assert f"has '{directive} {value}'" in sentence
    assert f"set '{directive} " in sentence
    weak = run(
        "--redis",
        url,
        kind=RealConsole,
        settings=("ledger.redis.allow_weak_durability=true",),
    )
    assert weak.exit_code == 0
    assert len(of_redis(weak, "!")) == 1
