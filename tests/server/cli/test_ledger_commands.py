"""Commands that open the ledger themselves: export and erase."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result
from tests.server.files.stores import in_pieces

from palaver.cli import main
from palaver.cli.console import Console
from palaver.cli.people import run_with_data
from palaver.files.store import FileStore
from palaver.ledger import Claim, Ledger, MemoryWrite
from palaver.messages import Conversation, Message
from palaver.platforms import ApprovedPerson, Pairings

pytestmark = pytest.mark.slow

T = TypeVar("T")


class DataDirectory:
    """Data directory with a ledger, for commands and for the test."""

    def __init__(self, data: Path) -> None:
        self._set = ("--set", f"server.data={data}")
        self._console = Console(None, (f"server.data={data}",))

    def run(self, *arguments: str, input: str = "") -> Result:
        return CliRunner().invoke(main, [*self._set, *arguments], input=input)

    def run_with_ledger(self, work: Callable[[Ledger], Awaitable[T]]) -> T:
        return self._console.run_with_ledger(work)

    def run_with_data(self, work: Callable[[Ledger, FileStore], Awaitable[T]]) -> T:
        return run_with_data(self._console, work)


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path)


def message(id: str, text: str, person: str = "ada", thread: str = "t") -> Message:
    conversation = Conversation("default", "web", thread)
    return Message(conversation=conversation, id=id, person=person, text=text)


async def claim(ledger: Ledger) -> Claim:
    async with asyncio.timeout(5):
        while True:
            claimed = await ledger.claim("worker", lease=60.0, history=10)
            if claimed is not None:
                return claimed
            await ledger.wait_for_work(0.1)


async def claim_all(ledger: Ledger) -> list[str]:
    """Claim all turns; return the texts of their messages."""
    texts = []
    while (await ledger.queue_depth()).queued:
        texts.append((await claim(ledger)).message.text)
    return texts


async def accept_two(ledger: Ledger) -> None:
    await ledger.accept(message("a", "my secret"))
    await ledger.accept(message("b", "not yours", person="bob", thread="other"))
    writer = await claim(ledger)
    memory = MemoryWrite(person="ada", key="chat.name", value="Ada")
    await ledger.append(writer, (memory,), expect=0, lease=60.0)
    await ledger.release(writer)


def test_an_export_is_json_of_one_person(data: DataDirectory, tmp_path: Path) -> None:
    data.run_with_ledger(accept_two)
    export = json.loads(data.run("export", "--person=ada").output)
    assert [pending["text"] for pending in export["pending"]] == ["my secret"]
    assert export["memories"] == {"chat.name": "Ada"}
    assert "not yours" not in str(export)
    file = tmp_path / "ada.json"
    assert data.run("export", "--person=ada", "--output", str(file)).exit_code == 0
    assert json.loads(file.read_text())["pending"] == export["pending"]
    assert file.stat().st_mode & 0o077 == 0
    nowhere = data.run("export", "--person=ada", "--output", str(tmp_path / "no" / "where"))
    assert (nowhere.exit_code, nowhere.output.count("\n")) == (2, 1)


def test_an_erasure_asks_first_and_prints_a_receipt(data: DataDirectory) -> None:
    data.run_with_ledger(accept_two)
    refused = data.run("erase", "--person=ada", input="n\n")
    assert refused.exit_code == 1
    assert json.loads(data.run("export", "--person=ada").output)["pending"]
    erased = data.run("erase", "--person=ada", input="y\n")
    assert erased.exit_code == 0
    assert "1 messages and 1 events in 1 conversations, 0 dead letters, 1 memories" in erased.output
    export = json.loads(data.run("export", "--person=ada").output)
    assert (export["pending"], export["memories"]) == ([], {})
    receipt = json.loads(data.run("erase", "--person=ada", "--yes", "--json").output)
    assert (receipt["messages"], receipt["memories"]) == (0, 0)
    assert data.run_with_ledger(claim_all) == ["not yours"]


async def upload_two(ledger: Ledger, files: FileStore) -> None:
    for person, content in (("ada", b"%PDF-1.7 my secret"), ("bob", b"not yours")):
        await files.upload("default", person, "../a.pdf", in_pieces(content))


def test_files_are_exported_and_erased(data: DataDirectory, tmp_path: Path) -> None:
    data.run_with_data(upload_two)
    folder = tmp_path / "files of ada"
    export = json.loads(data.run("export", "--person=ada", "--files", str(folder)).output)
    [file] = export["files"]
    assert (file["name"], file["media_type"]) == ("a.pdf", "application/pdf")
    [written] = folder.iterdir()
    assert (written.name, written.read_bytes()) == (f"{file['id']}.pdf", b"%PDF-1.7 my secret")
    assert (written.stat().st_mode | folder.stat().st_mode) & 0o077 == 0
    (tmp_path / "taken").write_bytes(b"")
    refused = data.run("export", "--person=ada", "--files", str(tmp_path / "taken" / "in"))
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert "0 memories, 1 files, 0 rows" in data.run("erase", "--person=ada", "--yes").output
    assert json.loads(data.run("export", "--person=ada").output)["files"] == []
    assert len(json.loads(data.run("export", "--person=bob").output)["files"]) == 1


def test_approvals_are_exported_and_erased(data: DataDirectory) -> None:
    async def approve(ledger: Ledger) -> None:
        pairings = Pairings(ledger, "openai_api")
        for person in ("ada", "bob"):
            await pairings.allow(ApprovedPerson(tenant="default", person=person, at=5.0))

    data.run_with_ledger(approve)
    assert json.loads(data.run("export", "--person=ada").output)["approvals"] == {"openai_api": 5.0}
    assert data.run("erase", "--person=ada", "--yes").exit_code == 0
    assert json.loads(data.run("export", "--person=ada").output)["approvals"] == {}
    assert json.loads(data.run("export", "--person=bob").output)["approvals"]


def test_the_same_name_in_another_tenant_is_another_person(data: DataDirectory) -> None:
    data.run_with_ledger(accept_two)
    assert json.loads(data.run("export", "--tenant=acme", "--person=ada").output)["pending"] == []
    data.run("erase", "--tenant=acme", "--person=ada", "--yes")
    assert json.loads(data.run("export", "--person=ada").output)["pending"]


@pytest.mark.parametrize("person", ["a/b", "", "x" * 201])
def test_an_invalid_name_is_one_line_and_exit_status_2(data: DataDirectory, person: str) -> None:
    for command in (("export",), ("erase", "--yes")):
        result = data.run(*command, f"--person={person}")
        assert (result.exit_code, result.output.count("\n")) == (2, 1)


def test_the_commands_report_a_file_that_a_server_uses(data: DataDirectory, tmp_path: Path) -> None:
    console = Console(None, (f"server.data={tmp_path}",))

    @asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        ledger = console.builder.ledger()
        await ledger.start()
        yield
        await ledger.close()

    _ = console.registry, console.builder

    async def run() -> Result:
        async with serving():
            return await asyncio.to_thread(data.run, "export", "--person=ada")

    result = asyncio.run(run())
    assert result.exit_code == 69
    assert "another server uses it" in result.output
