"""Sealed texts: only the server can have written them, for one purpose."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver.seals import MAX_SEALED_LENGTH, Seals


class Note(msgspec.Struct, frozen=True):
    text: str
    number: int = 0


def test_a_statement_comes_back_on_every_replica() -> None:
    sealed = Seals([b"secret"], "notes").seal(Note("hällo", 7))
    assert Seals([b"secret"], "notes").read(sealed, Note) == Note("hällo", 7)


def test_the_earlier_secret_reads_while_rotating() -> None:
    sealed = Seals([b"old"], "notes").seal(Note("x"))
    assert Seals([b"new", b"old"], "notes").read(sealed, Note) == Note("x")
    assert Seals([b"new"], "notes").read(sealed, Note) is None


def test_another_purpose_is_another_key() -> None:
    sealed = Seals([b"secret"], "notes").seal(Note("x"))
    assert Seals([b"secret"], "letters").read(sealed, Note) is None


def test_without_secrets_each_server_has_its_own() -> None:
    sealed = Seals([], "notes").seal(Note("x"))
    assert Seals([], "notes").read(sealed, Note) is None


@given(st.integers(min_value=0), st.characters(codec="ascii"))
def test_no_changed_text_is_read(place: int, character: str) -> None:
    seals = Seals([b"secret"], "notes")
    sealed = seals.seal(Note("x"))
    place %= len(sealed)
    changed = sealed[:place] + character + sealed[place + 1 :]
    assert changed == sealed or seals.read(changed, Note) is None


@pytest.mark.parametrize("text", ["", "=", "ä", "a", "A" * (MAX_SEALED_LENGTH + 1), "\ud800"])
def test_any_text_may_come(text: str) -> None:
    assert Seals([b"secret"], "notes").read(text, Note) is None
