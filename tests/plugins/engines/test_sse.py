"""Server-sent events arrive in chunks that end anywhere."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_plugins.engines.sse import MAX_EVENT_BYTES, SseParser

line = st.one_of(
    st.sampled_from(
        [b"", b"", b"data: ", b"data", b": comment", b"event: x", b"id:1", b"retry: 5"]
    ),
    st.binary(max_size=12).map(lambda it: b"data: " + re.sub(rb"[\r\n]", b"", it)),
    st.binary(max_size=6).map(lambda it: b"data:" + re.sub(rb"[\r\n]", b"", it)),
)
stream = st.lists(st.tuples(line, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=30).map(
    lambda lines: b"".join(text + end for text, end in lines)
)


def read(*chunks: bytes) -> list[bytes]:
    reader = SseParser()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def parse_whole(text: bytes) -> list[bytes]:
    """Return the events of the whole text, by the rules of the format."""
    events: list[bytes] = []
    data: list[bytes] = []
    for row in re.split(rb"\r\n|\n|\r", text)[:-1]:
        name, _, value = row.partition(b":")
        if not row:
            events += [b"\n".join(data)] if data else []
            data = []
        elif name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
    return events


@given(stream, st.lists(st.integers(0, 400), max_size=8))
def test_events_do_not_depend_on_the_chunks(text: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    chunks = [text[start:end] for start, end in pairwise(places)]
    assert read(*chunks) == parse_whole(text)


@given(stream)
def test_chunks_may_be_single_bytes(text: bytes) -> None:
    assert read(*(text[place : place + 1] for place in range(len(text)))) == parse_whole(text)


def test_several_data_lines_are_one_event() -> None:
    assert read(b"data: one\ndata:two\ndata\n\n") == [b"one\ntwo\n"]


def test_comments_and_other_fields_are_skipped() -> None:
    assert read(b": hello\nevent: message\nid: 7\ndata: x\nretry: 1\n\n: bye\n\n") == [b"x"]


def test_an_incomplete_event_is_skipped() -> None:
    assert read(b"data: whole\n\ndata: half\n") == [b"whole"]


def test_a_byte_order_mark_is_skipped() -> None:
    assert read(b"\xef\xbb\xbfdata: x\n\n") == [b"x"]


def test_an_event_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        read(b"data: ", *[b"x" * (MAX_EVENT_BYTES // 4)] * 5)
    with pytest.raises(ValueError, match="longer than"):
        read(*[b"data: " + b"x" * (MAX_EVENT_BYTES // 4) + b"\n"] * 5)
