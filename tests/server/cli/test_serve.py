"""``palaver serve`` reports what it can check before it loads the engine."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.server.cli.consoles import (
    KIT,
    PORT,
    KitConsole,
    RealConsole,
    TwoSkillsConsole,
    locked_ledger,
)
from tests.server.config import settings_plugin

from palaver.cli import main
from palaver.cli.console import Console
from palaver.cli.serve import serve
from palaver.errors import ConfigurationError, LedgerInUse, ServerError


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_serve(
    *settings: str, options: tuple[str, ...] = (), kind: type[Console] = KitConsole
) -> Result:
    """Run the command; fail if it starts the engine."""
    starts = len(settings_plugin.engine_starts)
    result = CliRunner().invoke(serve, options, obj=kind(None, (*KIT, *settings)))
    assert len(settings_plugin.engine_starts) == starts
    return result


@contextlib.contextmanager
def listening_socket() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("engine.use=warp", "engine.use names 'warp'; installed are: echo"),
        ("ledger.use=tape", "ledger.use names 'tape'; installed are: memory"),
        ("knowledge.use=shelf", "knowledge.use names 'shelf'; installed are: list"),
        ("channels.enabled=slack", "channels.enabled names 'slack'; installed are: bell"),
        ("interceptors.enabled=x", "interceptors.enabled names 'x'; installed are: shout"),
        ("plugins.disabled=chatt", "plugins.disabled names 'chatt'; installed are: kit"),
        (
            'admission.lanes={slack="batch"}',
            "admission.lanes names 'slack'; installed are: bell, web",
        ),
        (
            'concurrency_policy.skills={unknown="queue"}',
            "concurrency_policy.skills names 'unknown'; installed are: parrot",
        ),
        (
            "auth.keys.web.secret=env:PALAVER_KEY",
            "auth.keys.web.secret: env:PALAVER_KEY is empty or not set",
        ),
        (
            "auth.keys.web.secret=file:key",
            "auth.keys.web.secret: file:key: No such file or directory",
        ),
        ("engine.echo.key=env:MISSING", "engine.echo.key: env:MISSING is empty or not set"),
        (
            "server.host=192.0.2.1",
            (
                "server.host '192.0.2.1' can be reached from other machines: set auth.keys, "
                "or listen on 127.0.0.1"
            ),
        ),
    ],
)
def test_a_wrong_setting_is_reported_before_the_engine_is_loaded(
    setting: str, sentence: str
) -> None:
    result = run_serve(setting)
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception) == sentence


def test_an_unknown_default_skill_is_reported_before_the_engine_is_loaded() -> None:
    result = run_serve("routing.default=chatt", kind=TwoSkillsConsole)
    assert isinstance(result.exception, ConfigurationError)
    assert "routing.default names 'chatt'; installed are: parrot" in str(result.exception)


def test_an_unknown_model_is_reported_before_the_engine_is_loaded() -> None:
    settings = ("engine.use=openvino", "engine.openvino.model=nope")
    result = run_serve(*settings, kind=RealConsole)
    assert isinstance(result.exception, ConfigurationError)
    assert "there is no model 'nope'" in str(result.exception)
    assert result.output == ""  # not even "Starting …"


def test_all_problems_are_reported_at_once() -> None:
    result = run_serve("ledger.use=tape", "channels.enabled=slack", "engine.echo.key=env:MISSING")
    assert len(str(result.exception).splitlines()) == 3


def test_short_and_equal_keys_are_reported_before_the_engine_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHORT", "hunter2")
    result = run_serve("auth.keys.a.secret=env:SHORT", "auth.keys.b.secret=env:SHORT")
    assert isinstance(result.exception, ConfigurationError)
    sentences = str(result.exception).splitlines()
    assert len(sentences) == 3  # two short ones, which are equal
    assert "hunter2" not in str(result.exception)


def test_a_port_in_use_is_reported_before_the_engine_is_loaded() -> None:
    with listening_socket() as port:
        result = run_serve(f"server.port={port}")
    assert isinstance(result.exception, ServerError)
    assert str(result.exception) == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_an_address_of_another_machine_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "hunter2 is the key")
    result = run_serve("server.host=192.0.2.1", "auth.keys.web.secret=env:KEY")
    assert isinstance(result.exception, ConfigurationError)
    assert f"cannot listen on 192.0.2.1:{PORT}: " in str(result.exception)


def test_a_ledger_in_use_is_reported_before_the_engine_is_loaded() -> None:
    console = RealConsole(None, (*KIT, "ledger.use=sqlite"))
    with locked_ledger(console):
        result = run_serve("ledger.use=sqlite", kind=RealConsole)
    assert isinstance(result.exception, LedgerInUse)


def test_host_and_port_are_the_same_as_the_settings() -> None:
    with listening_socket() as port:
        result = run_serve(options=("--port", str(port)))
        assert f"cannot listen on 127.0.0.1:{port}: " in str(result.exception)
        result = run_serve(options=("--host", "localhost", "--port", str(port)))
        assert f"cannot listen on localhost:{port}: " in str(result.exception)
    result = run_serve(options=("--port", "many"))
    assert "server.port must be a whole number, not 'many' (--set server.port)" in str(
        result.exception
    )
    result = run_serve(options=("--host", "0.0.0.0"))
    assert "server.host '0.0.0.0' can be reached from other machines" in str(result.exception)


def test_the_command_line_reports_a_port_in_use_in_one_line_with_69(tmp_path: Path) -> None:
    with listening_socket() as port:
        arguments = ["--set", f"server.data={tmp_path}", "serve", "--port", str(port)]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 69
    assert result.output == f"palaver: cannot listen on 127.0.0.1:{port}: Address already in use\n"
