"""The text of an answer is decoded while its JSON arrives, however it is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver.engines.answer_reader import (
    AnswerReader,
    JsonStringDecoder,
    encode_answer_start,
)

texts = st.text('ab"\\/\n\t\u00e4漢😀\u2028', max_size=12) | st.text(max_size=8)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


def read(reader: AnswerReader, pieces: list[str]) -> str:
    return "".join([*map(reader.push, pieces), reader.flush()])


@given(texts, st.booleans(), st.lists(st.integers(0, 4)))
def test_the_text_is_that_of_the_object(text: str, ascii: bool, sizes: list[int]) -> None:
    reader = AnswerReader()
    written = json.dumps({"answer": text}, ensure_ascii=ascii)
    assert read(reader, cut(written, sizes)) == text
    assert (reader.kind, reader.has_ended, reader.written) == ("answer", True, written)


@given(texts, texts, st.booleans())
def test_a_partial_answer_is_continued_in_its_string(first: str, second: str, ascii: bool) -> None:
    reader = AnswerReader("answer")
    rest = json.dumps(second, ensure_ascii=ascii)[1:] + "}"
    assert read(reader, list(rest)) == second
    assert json.loads(encode_answer_start(first) + rest) == {"answer": first + second}


@given(texts, st.integers(0, 40))
def test_a_text_that_is_cut_off_has_no_half_of_an_escape(text: str, length: int) -> None:
    reader = AnswerReader()
    written = json.dumps({"answer": text})[:length]
    said = read(reader, list(written))
    assert text.startswith(said.removesuffix("\ufffd"))
    assert reader.has_ended == (length >= len(json.dumps({"answer": text})) - 1)


@pytest.mark.parametrize("written", [' {\n "answer" :\t"Hi', '{"answer":"Hi"} and more "text"'])
def test_white_space_and_what_follows_are_not_text(written: str) -> None:
    assert read(AnswerReader(), list(written)) == "Hi"


@pytest.mark.parametrize(
    "written", ['{"tool":"roll"', '{"arguments":{}', '{"answers":"x"', '{"answer":["x"]}', "{}"]
)
def test_any_other_object_is_a_call(written: str) -> None:
    reader = AnswerReader()
    assert read(reader, list(written)) == ""
    assert (reader.kind, reader.written) == ("call", written)


@pytest.mark.parametrize("written", ["Hello {you}", "  [1]", '"{'])
def test_what_is_no_object_is_text(written: str) -> None:
    reader = AnswerReader()
    assert read(reader, list(written)) == written
    assert reader.kind == "text"


def test_nothing_is_nothing() -> None:
    reader = AnswerReader()
    assert (read(reader, ["", " ", '{"ans']), reader.kind) == ("", "")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d", "\ufffd"),
        (r"\ud83d!", "\ufffd!"),
        (r"\ud83d\n", "\ufffd\n"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ude00", "\ufffd"),
        (r"\uzzzz", "\ufffd"),
        (r"\q", "q"),
        ("raw\nline", "raw\nline"),
    ],
)
def test_what_json_does_not_allow_is_read_too(written: str, text: str) -> None:
    for pieces in ([written], list(written)):
        decoder = JsonStringDecoder()
        assert "".join([*map(decoder.push, pieces), decoder.flush()]) == text
