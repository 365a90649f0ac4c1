"""Redaction: check digits, what is found and what is left alone, spans that move."""

from pathlib import Path

import pytest
from tests.server.data.personal_data import HARMLESS, measure
from tests.server.data.preparing import manifest, prepare, rows_of, write_rows

from palaver.data.identifiers import CHECKS, is_valid
from palaver.data.redaction import REDACTION_KINDS, Redactor

pytest.importorskip("phonenumbers")
REGIONS = ("US", "GB", "DE", "FR", "ES")
VALID = {
    "iban": (
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "FR1420041010050500013M02606",
    ),
    "card": ("4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"),
    "us_ssn": ("078-05-1120",),
    "de_tax_id": ("86095742719", "47036892816"),
    "fr_nir": ("1 85 05 78 006 084 91", "2 55 08 14 168 025 38"),
    "es_dni": ("12345678Z", "X1234567L"),
    "nl_bsn": ("111222333",),
    "uk_nhs": ("943 476 5919",),
}
"""Examples that the issuers, or articles about them, have published."""


@pytest.mark.parametrize("kind", CHECKS)
def test_published_examples_are_valid_and_a_changed_digit_is_not(kind: str) -> None:
    for text in VALID[kind]:
        assert is_valid(kind, text)
        if kind != "us_ssn":  # it has no check digit
            place = next(at for at, letter in reversed(list(enumerate(text))) if letter.isdigit())
            changed = str((int(text[place]) + 1) % 10)
            assert not is_valid(kind, text[:place] + changed + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ada@example.org, please", "write to [EMAIL], please"),
        ("call +49 30 901820 or (212) 736-5000 now", "call [PHONE] or [PHONE] now"),
        ("from 10.20.30.40. Then 2001:db8::1", "from [IP]. Then [IP]"),
        ("redis://ada:secret@db.example.org/0 is it", "[URL] is it"),
        ("IBAN DE89 3704 0044 0532 0130 00 by Friday", "IBAN [IBAN] by Friday"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("BSN: 111222333", "BSN: [NL_BSN]"),
        ("https://example.org/a and 127.0.0.1", "https://example.org/a and 127.0.0.1"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, expected: str) -> None:
    redactor = Redactor(REDACTION_KINDS, REGIONS)
    assert redactor.redact(text) == expected
    assert redactor.redact(expected) == expected, "doing it twice changes nothing"


def test_only_the_kinds_of_the_recipe_are_replaced() -> None:
    text = "ada@example.org and +49 30 901820"
    assert Redactor(("email",), REGIONS).redact(text) == "[EMAIL] and +49 30 901820"


@pytest.mark.slow
def test_what_is_made_up_is_found() -> None:
    """docs/data.md has the figures for more sentences."""
    for kind, score in measure(60, 7).items():
        assert score.recall >= 0.97, kind
        assert score.precision >= 0.85, kind


def test_most_sentences_without_personal_data_stay() -> None:
    redactor = Redactor(REDACTION_KINDS, REGIONS)
    assert sum(bool(redactor.find(text)) for text in HARMLESS) <= 2


def test_spans_move_with_the_text(tmp_path: Path) -> None:
    text = "Write\u200b to ada@example.org, says  Ada Lovelace of London"
    spans = [
        {"start": text.index(words), "end": text.index(words) + len(words), "label": label}
        for words, label in (("Ada Lovelace", "person"), ("London", "place"), ("example", "host"))
    ]
    write_rows(tmp_path / "rows.jsonl", [{"text": text, "spans": spans}])
    recipe = 'kind = "spans"\n[[sources]]\nname = "rows"\nfiles = ["rows.jsonl"]'
    job = prepare(tmp_path, recipe)
    [row] = rows_of(job)
    assert row["text"] == "Write to [EMAIL], says Ada Lovelace of London"
    marked = [row["text"][span["start"] : span["end"]] for span in row["spans"]]
    assert marked == ["Ada Lovelace", "London", "[EMAIL]"]
    assert manifest(job)["steps"]["redact"]["redactions"] == {"email": 1}
