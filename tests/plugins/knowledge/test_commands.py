"""Commands ``palaver knowledge``."""

import functools
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.own_plugins import load_own_plugins

from palaver.cli.console import Console
from palaver.errors import ConfigurationError
from palaver.plugins import PluginRegistry
from palaver_plugins.knowledge.commands import knowledge

pytestmark = pytest.mark.slow


class OwnConsole(Console):
    """A console with the plugins of this source tree."""

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        return load_own_plugins()


@pytest.fixture
def console(tmp_path: Path) -> Console:
    overrides = f"server.data={tmp_path / 'data'}", "embedding.use=none"
    return OwnConsole(settings_path=None, overrides=overrides)


def run(console: Console, *arguments: str | Path) -> Result:
    return CliRunner().invoke(knowledge, [str(argument) for argument in arguments], obj=console)


def test_documents_are_added_listed_searched_and_removed(console: Console, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "cats.md").write_text("# Cats\n\nCats sleep all day.\n")
    (docs / "dogs.txt").write_text("Dogs bark at night.\n")
    added = run(console, "add", docs)
    assert added.exit_code == 0, added.output
    assert "Added 2 documents with 2 passages." in added.output
    assert "Adding" not in added.output, "the progress bar is for terminals only"
    listed = run(console, "list").output
    assert f"{docs}/cats.md  (Cats)" in listed
    searched = run(console, "search", "who sleeps?").output
    assert searched.startswith("[1] Cats (")
    assert "Cats sleep all day." in searched
    assert run(console, "remove", docs / "cats.md").output == "Removed 1 document.\n"
    assert run(console, "search", "who sleeps?").output == "Nothing matches.\n"


def test_a_bad_file_is_reported_and_the_others_are_added(console: Console, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Good text.")
    (tmp_path / "bad.txt").write_bytes(b"\0\0")
    (tmp_path / "odd.exe").write_bytes(b"x")
    files = [tmp_path / name for name in ("bad.txt", "good.md", "odd.exe", "none.md")]
    added = run(console, "add", *files)
    assert added.exit_code == 2
    assert "Added 1 document with 1 passage. 3 files failed.\n" in added.output
    assert "bad.txt: it is a binary file" in added.output
    assert "odd.exe: files of kind '.exe' cannot be read" in added.output
    assert "none.md: it cannot be opened: No such file" in added.output


def test_tenants_have_their_own_documents(console: Console, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Something.")
    run(console, "add", tmp_path / "a.md", "--tenant", "acme")
    assert run(console, "list").output == ""
    assert "a.md" in run(console, "list", "--tenant", "acme").output


def test_a_collection_has_its_own_documents(console: Console, tmp_path: Path) -> None:
    for name in ("leave", "prices", "notes"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\nAsk the office about {name}.\n")
    inside = "--collection", "internal"
    run(console, "add", tmp_path / "leave.md", *inside)
    run(console, "add", tmp_path / "prices.md", tmp_path / "notes.md")
    assert run(console, "list", *inside).output == (
        f"     1  {tmp_path}/leave.md  (leave), in collection 'internal'\n"
    )
    assert "leave" not in run(console, "list", "--collection", "default").output
    question = "What do I ask the office?"
    assert run(console, "search", question, *inside).output.count("[") == 1
    assert run(console, "search", question).output.count("[") == 3
    assert "Removed 1 document." in run(console, "remove", *inside).output
    assert "leave" not in run(console, "list").output
    assert run(console, "remove", tmp_path / "notes.md", "--collection", "default").exit_code == 0


def test_a_document_stays_in_its_collection_until_another_one_is_named(
    console: Console, tmp_path: Path
) -> None:
    path = tmp_path / "leave.md"
    path.write_text("Thirty days.")
    run(console, "add", path, "--collection", "internal")
    path.write_text("Thirty-one days.")
    run(console, "sync", tmp_path)
    assert "in collection 'internal'" in run(console, "list").output
    assert "Added 1 document" in run(console, "sync", tmp_path, "--collection", "public").output
    assert "in collection 'public'" in run(console, "list").output
    assert "1 document unchanged" in run(console, "sync", tmp_path).output


@pytest.mark.parametrize("command", [("list",), ("remove",), ("search", "days")])
def test_an_unknown_collection_is_an_error(
    console: Console, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "leave.md").write_text("Thirty days.")
    run(console, "add", tmp_path / "leave.md")
    failed = run(console, *command, "--collection", "intrenal")
    assert str(failed.exception) == "there is no collection 'intrenal'; there are: 'default'"


def test_removing_nothing_is_an_error(console: Console) -> None:
    assert "name documents, or a collection with --collection" in run(console, "remove").output
    for bad in ("", "a/b"):
        failed = run(console, "add", "x.md", "--collection", bad)
        assert (failed.exit_code, "is not usable" in failed.output) == (2, True)


def test_removing_an_unknown_document_is_an_error(console: Console) -> None:
    removed = run(console, "remove", "nothing.md")
    assert removed.exit_code == 2
    assert "There is no document 'nothing.md'." in removed.output


def test_added_documents_are_found_by_meaning(console: Console, tmp_path: Path) -> None:
    (tmp_path / "refunds.md").write_text("# Refunds\n\nMoney is paid back within two weeks.\n")
    (tmp_path / "parking.md").write_text("# Parking\n\nVisitors leave cars behind the house.\n")
    question = "Wann bekomme ich mein Geld?"
    run(console, "add", tmp_path / "parking.md")
    assert run(console, "search", question).output == "Nothing matches.\n"
    able = console.override("embedding.use=universal_sentence_encoder")
    embedded = run(able, "embed")
    assert embedded.exit_code == 0, embedded.exception
    assert embedded.output == "All passages have a vector.\n"
    added = run(able, "add", tmp_path / "refunds.md")
    assert added.output == "Added 1 document with 1 passage.\n"
    assert run(able, "search", question, "--limit", "1").output.startswith("[1] Refunds (")


def test_vectors_without_an_embedder_are_an_error(console: Console) -> None:
    failed = run(console, "embed")
    assert isinstance(failed.exception, ConfigurationError)
    assert "embedding.use has to name one" in str(failed.exception)
