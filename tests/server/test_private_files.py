"""Files that others of the machine can neither read nor replace."""

import asyncio
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.plugins.engines.models import write_model

from palaver.app import build_server
from palaver.cli import main
from palaver.config.settings import Settings
from palaver.ledger import Ledger
from palaver.messages import Conversation, Message
from palaver.private_files import (
    make_private_database,
    make_private_directory,
    write_private_file,
)
from palaver_plugins.knowledge.sqlite import SqliteKnowledge
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let every new file be open to everybody, unless it is made private."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def modes_below(path: Path) -> dict[str, int]:
    return {str(each.relative_to(path)): mode(each) for each in path.rglob("*")}


async def fill(ledger: Ledger) -> None:
    message = Message(
        conversation=Conversation("default", "web", "t"), id="1", person="ada", text="words"
    )
    await ledger.accept(message)


async def test_ledger_and_knowledge_base_are_private_while_they_are_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await asyncio.to_thread(make_private_directory, data)
    ledger = SQLiteLedger(SQLiteLedgerSettings(), data)
    knowledge = SqliteKnowledge(data / "knowledge.sqlite")
    await ledger.start()
    await knowledge.start()
    try:
        await fill(ledger)
        found = await asyncio.to_thread(modes_below, data)
    finally:
        await knowledge.close()
        await ledger.close()
    assert {"ledger.sqlite", "ledger.sqlite-wal", "knowledge.sqlite-wal"} <= found.keys()
    assert set(found.values()) == {0o600}
    assert mode(data) == 0o700


async def test_a_wide_open_installation_is_closed_at_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    for _ in range(2):
        ledger = SQLiteLedger(SQLiteLedgerSettings(), data)
        knowledge = SqliteKnowledge(data / "knowledge.sqlite")
        await ledger.start()
        await knowledge.start()
        await fill(ledger)
        await ledger.close()
        await knowledge.close()
        assert not [name for name, each in modes_below(data).items() if each & 0o077]
        assert mode(data) == 0o700
        for path in (data, *data.glob("*.sqlite")):
            path.chmod(0o755)
    assert "others could use" in caplog.text


def test_a_server_makes_its_data_directory_private(tmp_path: Path) -> None:
    settings = Settings.model_validate({"server": {"data": tmp_path / "new" / "data"}})
    build_server(settings)
    assert mode(tmp_path / "new" / "data") == 0o700


@pytest.mark.parametrize("name", ["sticky", "home", "working"])
def test_a_directory_that_others_need_is_left_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir(mode=0o755)
    (folder / "inner").mkdir()
    if name == "sticky":
        folder.chmod(0o1777)
    elif name == "home":
        monkeypatch.setenv("HOME", str(folder))
    else:
        monkeypatch.chdir(folder / "inner")
    before = mode(folder)
    make_private_directory(folder)
    assert mode(folder) == before


def test_a_user_without_a_home_may_have_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "HOME", "~nobody"
    )  # as Python finds it for a user that the system does not know
    with pytest.raises(RuntimeError):
        Path.home()
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    make_private_directory(folder)
    assert mode(folder) == 0o700


def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can make a link of another user")
    (tmp_path / "victim").write_bytes(b"")
    link = tmp_path / "ledger.sqlite"
    link.symlink_to(tmp_path / "victim")
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(PermissionError, match="link of another user"):
        make_private_database(link)


def test_what_belongs_to_another_user_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make_private_database(tmp_path / "a.sqlite")
        assert caplog.text == ""
        (tmp_path / "a.sqlite").chmod(0o644)
        make_private_database(tmp_path / "a.sqlite")
    assert "its mode was 644, now it is 600" in caplog.text


# Files that are written


def test_a_file_is_written_beside_and_renamed(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text("old")
    with path.open() as reader:
        write_private_file(path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert modes_below(tmp_path) == {"export.json": 0o600}


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "pipe"])
def test_only_a_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "export.json", tmp_path / "victim"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
        if kind == "link":
            victim.write_text("kept")
    with pytest.raises(OSError, match="not a regular file"):
        write_private_file(path, b"new")
    assert victim.exists() == (kind == "link")
    assert kind != "link" or victim.read_text() == "kept"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_private_file(tmp_path / "none" / "export.json", b"new")
    assert list(tmp_path.iterdir()) == []


# Commands


@pytest.mark.parametrize(
    "command",
    [
        "export --person ada --output {folder}/export.json",
        "erase --person ada --yes",
        "deadletters list",
        "knowledge add {folder}/note.md",
        "knowledge list",
        "models add {folder}/model --copy --name copied",
        "models use starter",
        "skills new poem --into {folder}/made",
    ],
)
def test_whatever_a_command_writes_is_private(tmp_path: Path, command: str) -> None:
    (tmp_path / "note.md").write_text("words")
    if "model" in command:
        write_model(tmp_path / "model")
    given = {path: mode(path) for path in tmp_path.rglob("*")}
    words = command.format(folder=tmp_path).split()
    result = CliRunner().invoke(main, ["--set", f"server.data={tmp_path / 'data'}", *words])
    assert result.exit_code == 0, result.output
    written = [path for path in tmp_path.rglob("*") if path not in given]
    assert written
    forbidden = 0o022 if "models" in command else 0o077
    assert not [path for path in written if mode(path) & forbidden]
    assert os.umask(0) == 0, "the command has changed the umask of its caller"


# palaver check


def check(data: Path, *arguments: str) -> list[str]:
    result = CliRunner().invoke(main, ["--set", f"server.data={data}", *arguments, "check"])
    prefix = "! files: "
    lines = result.output.splitlines()
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a ledger, as a server leaves it."""
    data = tmp_path / "data"
    make_private_directory(data)
    make_private_database(data / "ledger.sqlite")
    return data


def test_a_private_installation_has_no_finding(data: Path) -> None:
    assert check(data) == []


@pytest.mark.parametrize(
    ("name", "exposed", "sentence"),
    [
        ("", 0o755, "others can read and enter"),
        ("ledger.sqlite", 0o644, "others can read"),
        ("ledger.sqlite", 0o602, "others can write"),
        ("models/model/model.safetensors", 0o664, "others can write"),
    ],
)
def test_check_names_what_others_can_use(
    data: Path, name: str, exposed: int, sentence: str
) -> None:
    path = data / name
    if not path.exists():
        path.parent.mkdir(parents=True, mode=0o755)
        path.parent.parent.chmod(0o755)
        path.parent.chmod(0o755)
        path.touch(mode=0o644)
        assert check(data) == []
    path.chmod(exposed)
    (found,) = check(data)
    assert found.startswith(f"{sentence} {path}".rstrip("/"))


def test_check_names_a_directory_in_which_everybody_can_replace_the_data(
    data: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    assert check(data) == [f"everybody can replace {data}: {tmp_path} has mode 777"]
    tmp_path.chmod(0o1777)
    assert check(data) == []


def test_check_names_the_file_of_a_secret_and_the_settings(data: Path, tmp_path: Path) -> None:
    secret, settings = tmp_path / "secret", tmp_path / "palaver.toml"
    secret.write_text("s" * 40)
    secret.chmod(0o640)
    settings.write_text(f"[auth.keys.page]\nsecret = 'file:{secret}'\n")
    settings.chmod(0o644)
    arguments = ("--config", str(settings))
    assert check(data, *arguments) == [f"others can read {secret}: its mode is 640"]
    secret.chmod(0o600)
    assert check(data, *arguments) == []
    settings.chmod(0o646)
    assert check(data, *arguments) == [f"others can write {settings}: its mode is 646"]
    settings.write_text("[engine.openai]\nurls = ['http://me:hunter2@127.0.0.1:1/v1']\n")
    settings.chmod(0o644)
    assert check(data, *arguments) == [f"others can read {settings}: its mode is 644"]
