"""Ingestion: one bad file ends nothing, and a file is one document in any spelling."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.plugins.knowledge.pdf import make_pdf_of_streams

from palaver import Document, DocumentInfo, InvalidInput, ReadLimits
from palaver.cli.console import Console
from palaver.testing import ListKnowledge
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.commands import knowledge
from palaver_plugins.knowledge.index import SCHEMA_VERSION, SearchIndex
from palaver_plugins.knowledge.ingestion import Ingestion
from palaver_plugins.knowledge.names import choose_name, find_documents

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, an empty folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(settings_path=None, overrides=(f"server.data={tmp_path / 'data'}",))


def run(console: Console, *arguments: str | Path) -> Result:
    return CliRunner().invoke(knowledge, [str(argument) for argument in arguments], obj=console)


def listed(console: Console) -> list[str]:
    return [line.split("  ")[-2] for line in run(console, "list").output.splitlines()]


# Bad files


def test_what_is_no_file_is_reported_with_its_reason(console: Console, folder: Path) -> None:
    (folder / "good.md").write_text("words")
    os.mkfifo(folder / "pipe.md")
    (folder / "loop.md").symlink_to("loop.md")
    (folder / "broken.md").symlink_to("nowhere.md")
    (folder / "device.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.md")
        (folder / os.fsdecode(b"\xff.md")).write_text("words")
        added = run(console, "add", ".")
        assert added.exit_code == 2
        assert added.output.startswith("Added 1 document with 1 passage. 5 files failed.\n")
        for line in (
            "Not added: pipe.md: it is not a regular file",
            "Not added: socket.md: it is not a regular file",
            "Not added: loop.md: it cannot be opened: Too many levels",
            "Not added: broken.md: it cannot be opened: No such file",
            "Note: device.txt: left out, since the link leads out of the folder",
            "its name is not UTF-8",
        ):
            assert line in added.output
        typed = run(console, "add", *(folder / name for name in ("socket.md", "device.txt")))
        assert typed.output.count("Not added") == 2
        assert typed.exit_code == 2


def test_a_broken_pdf_and_a_crash_of_the_reader_end_nothing(console: Console, folder: Path) -> None:
    (folder / "a.pdf").write_bytes(b"%PDF-1.7\n\0")
    (folder / "b.md").write_text("words")
    (folder / "c.pdf").write_bytes(make_pdf_of_streams(""))
    (folder / "d.docx").write_bytes(b"PK\3\4")
    added = run(console, "add", "a.pdf", "b.md", "c.pdf", "d.docx", "missing.md")
    assert added.output.startswith("Added 1 document with 1 passage. 4 files failed.\n")
    assert added.exit_code == 2


@contextlib.contextmanager
def unprivileged_folder() -> Iterator[Path]:
    """Give a folder in which permissions count, for root as well."""
    with tempfile.TemporaryDirectory(prefix="palaver-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_missing_permissions_are_reported() -> None:
    with unprivileged_folder() as folder:
        (folder / "closed").mkdir()
        (folder / "a.md").write_text("words")
        (folder / "no.md").write_text("words")
        (folder / "no.md").chmod(0)
        (folder / "closed").chmod(0)
        problems: dict[str, str] = {}
        with unprivileged():
            found = files.find_files([folder], lambda path, why: problems.update({path.name: why}))
            assert [path.name for path in found] == ["a.md", "no.md"]
            with pytest.raises(InvalidInput, match="cannot be opened: Permission denied"):
                files.read_file(folder / "no.md")
        assert problems == {"closed": "the folder cannot be read: Permission denied"}
        (folder / "closed").chmod(0o700)


def test_a_folder_that_is_too_deep_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    problems: list[str] = []
    script = f"for n in $(seq 25); do mkdir {'d' * 200} && cd {'d' * 200} || exit; done"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=60)
    try:
        found = list(files.find_files([tmp_path], lambda path, why: problems.append(why)))
    finally:
        subprocess.run(["rm", "-rf", tmp_path / ("d" * 200)], check=True, timeout=60)
    assert found == [tmp_path / "a.md"]
    assert problems == ["the folder cannot be read: File name too long"]


async def test_a_file_that_vanishes_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    paths = [tmp_path / "a.md", tmp_path / "gone.md"]
    ingestion = Ingestion(ListKnowledge(), "t", ReadLimits())
    await ingestion.run(paths)
    assert ingestion.documents == 1
    assert ingestion.problems == [
        (tmp_path / "gone.md", "it cannot be opened: No such file or directory")
    ]


class FullKnowledge(ListKnowledge):
    """A knowledge base that cannot store some documents."""

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        if any("bad" in document.text for document in documents):
            raise sqlite3.OperationalError("database or disk is full")
        return await super().add(tenant, documents)


async def test_a_document_that_cannot_be_stored_fails_for_itself(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.md", "b.md", "c.md")]
    for path in paths:
        path.write_text("bad" if path.name == "b.md" else "good")
    base = FullKnowledge()
    ingestion = Ingestion(base, "t", ReadLimits())
    await ingestion.run(paths)
    assert ingestion.problems == [(paths[1], "it cannot be stored: database or disk is full")]
    assert [info.name for info in await base.documents("t")] == ["a.md", "c.md"]


class BrokenPath(type(Path())):  # type: ignore[misc]
    """A path whose use raises what nobody expects."""

    @property
    def suffix(self) -> str:
        raise RuntimeError("no ending")


async def test_any_exception_is_reported_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    (tmp_path / "b.md").write_text("words")
    broken = BrokenPath(tmp_path / "b.md")
    ingestion = Ingestion(ListKnowledge(), "t", ReadLimits())
    await ingestion.run([broken, tmp_path / "a.md"])
    assert ingestion.problems == [(broken, "RuntimeError: no ending")]
    assert ingestion.documents == 1


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b'{"title": 1}', b"{}", b'"problem"'])
def test_any_answer_of_the_reader_is_a_reason(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="crashed"):
        files.decode_answer(line, b"\xff", 0)


def test_the_summary_counts_in_singular_and_plural(console: Console, folder: Path) -> None:
    (folder / "a.md").write_text("one")
    (folder / "b.txt").write_bytes("Öl ist teuer geworden".encode("latin-1"))
    added = run(console, "add", ".").output.splitlines()
    assert added == [
        "Added 2 documents with 2 passages.",
        "Note: b.txt: its encoding is a guess: CP1252",
    ]
    (folder / "a.md").write_text("two")
    (folder / "c.md").write_text("")
    added = run(console, "add", ".").output.splitlines()
    assert added[0] == "Added 1 document with 1 passage. 1 document unchanged. 1 file failed."
    assert added[-1] == "Not added: c.md: it contains no text"


def test_an_empty_folder_gets_a_note(console: Console, folder: Path) -> None:
    (folder / "a.png").write_text("x")
    added = run(console, "add", folder)
    assert added.exit_code == 0
    assert "the folder holds no file that can be read; these can: .docx" in added.output


# Identity


def test_kinds_that_are_left_out_are_named(console: Console, folder: Path) -> None:
    for name in ("a.md", "b.ODT", "c.odt", "Makefile", ".hidden.png"):
        (folder / name).write_text("words")
    added = run(console, "add", folder)
    assert added.exit_code == 0
    assert "left out files of other kinds: .odt, Makefile\n" in added.output


def test_an_empty_path_is_not_the_current_folder(console: Console, folder: Path) -> None:
    (folder / "a.md").write_text("words")
    refused = run(console, "add", "")
    assert (refused.exit_code, listed(console)) == (2, [])
    assert "a path is empty" in refused.output
    missing = run(console, "add", "none").output
    assert "Not added: none: it cannot be opened: No such file or directory" in missing


def test_a_file_is_one_document_in_any_spelling(console: Console, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "readme.md").write_text("words")
    (folder / "link.md").symlink_to("readme.md")
    (folder.parent / "other").symlink_to(folder)
    spellings: list[str | Path] = [
        "readme.md", "./readme.md", "sub/../readme.md", folder / "readme.md", "link.md",
        folder.parent / "other" / "readme.md", ".",
    ]  # fmt: skip
    for spelling in spellings:
        assert run(console, "add", spelling).exit_code == 0
        assert listed(console) == [f"{folder}/readme.md"]
    assert "1 document with" in run(console, "add", "--tenant", "t", *spellings).output
    assert run(console, "list", *spellings[:-1]).output.count(f"{folder}/readme.md") == 6
    for spelling in spellings[1:-1]:
        assert run(console, "remove", spelling).output == "Removed 1 document.\n"
        run(console, "add", "readme.md")


def test_two_files_of_one_name_are_two_documents(console: Console, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "readme.md").write_text(f"The word of {name}xyz.")
    run(console, "add", ".")
    assert listed(console) == [f"{folder}/a/readme.md", f"{folder}/b/readme.md"]
    names = [run(console, "search", f"{name}xyz").output for name in ("a", "b")]
    assert names[0].startswith("[1] readme (readme.md, passage 1,")
    assert names[1].startswith("[1] readme (b/readme.md, passage 1,")
    assert str(folder) not in "".join(names)
    assert "named 'b/readme.md'" in run(console, "list").output
    assert run(console, "remove", "b/readme.md").exit_code == 0
    assert listed(console) == [f"{folder}/a/readme.md"]


def test_a_file_that_is_gone_or_moved_can_be_removed(console: Console, folder: Path) -> None:
    (folder / "a.md").write_text("words")
    (folder / "b.md").write_text("words")
    run(console, "add", ".")
    (folder / "a.md").unlink()
    (folder / "b.md").rename(folder / "c.md")
    run(console, "add", "c.md")
    assert run(console, "remove", "./a.md", folder / "b.md").output == "Removed 2 documents.\n"
    assert listed(console) == [f"{folder}/c.md"]
    missing = run(console, "list", "a.md")
    assert missing.exit_code == 2
    assert "There is no document 'a.md'." in missing.output


def test_names_are_short_and_different() -> None:
    assert choose_name("/srv/docs/a.md", ()) == "a.md"
    assert choose_name("/srv/docs/a.md", {"a.md"}) == "docs/a.md"
    used = {"a.md", "c/a.md", "b/c/a.md"}
    assert choose_name("/secret/b/c/a.md", used) == "b/c/a.md (2)"
    assert choose_name("/secret/b/c/a.md", {*used, "b/c/a.md (2)"}) == "b/c/a.md (3)"
    assert choose_name("https://x/a.md", ()) == "https://x/a.md"
    assert choose_name("../../x/a.md", ()) == "a.md"
    assert choose_name("/", ()) == "document"


def test_a_path_is_meant_before_a_name(folder: Path) -> None:
    infos = [
        DocumentInfo(id="/elsewhere/a.md", title="", passages=1, name="a.md"),
        DocumentInfo(id=f"{folder}/a.md", title="", passages=1, name="folder/a.md"),
    ]
    assert find_documents(["a.md", "b.md"], infos) == {"a.md": infos[1], "b.md": None}
    assert find_documents(["a.md"], infos[:1]) == {"a.md": infos[0]}


def make_old_file(path: Path, *ids: str) -> None:
    index = SearchIndex(path)
    for id_ in ids:
        index.add("default", Document(id=id_, title="T", text=f"words of {id_}"))
    index.close()
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(
            "ALTER TABLE documents DROP COLUMN name; ALTER TABLE documents DROP COLUMN digest;"
            f"PRAGMA user_version={SCHEMA_VERSION - 1}"
        )


def test_a_file_of_the_version_before_gets_canonical_ids_and_names(folder: Path) -> None:
    (folder / "real.md").write_text("words")
    (folder / "link.md").symlink_to("real.md")
    ids = [
        f"{folder}/real.md",
        f"{folder}/x/../real.md",
        f"{folder}/link.md",
        "docs/a.md",
        "/b/a.md",
    ]
    make_old_file(folder / "old.sqlite", *ids, "../up/a.md")
    for _ in range(2):
        index = SearchIndex(folder / "old.sqlite")
        assert {info.id: info.name for info in index.documents("default")} == {
            f"{folder}/real.md": "real.md",
            "docs/a.md": "docs/a.md",
            "/b/a.md": "a.md",
            "../up/a.md": "up/a.md",
        }
        ranked = index.rank_by_words("default", "words real", 9)
        passages = index.read_passages(ranked)
        assert [p.text for p in passages if p.document == "real.md"] == [f"words of {ids[2]}"]
        index.close()


def test_a_document_known_by_a_relative_path_is_replaced(console: Console, folder: Path) -> None:
    (folder / "a.md").write_text("new words")
    (folder.parent / "data").mkdir()
    old = (f"{folder}/a.md", "./a.md", "x/../a.md", "b.md")
    make_old_file(folder.parent / "data" / "knowledge.sqlite", *old)
    assert run(console, "add", "a.md").exit_code == 0
    assert sorted(listed(console)) == [f"{folder}/a.md", "b.md"]
    assert run(console, "remove", folder / "b.md").exit_code == 0


async def test_a_citation_shows_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Lamps\n\nThe lamp turns at night.")
    base = ListKnowledge()
    await Ingestion(base, "default", ReadLimits()).run([tmp_path / "a.md"])
    [passage] = await base.search("default", "lamp", 4)
    assert (passage.document, passage.title) == ("a.md", "Lamps")
