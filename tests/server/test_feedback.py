"""What docs/feedback.md and docs/protocol.md say about feedback."""

import re
from pathlib import Path

import msgspec

from palaver.cli.feedback import SuiteCase
from palaver.feedback import (
    FEEDBACK_BYTES,
    FEEDBACK_REASONS,
    MAX_COMMENT_LENGTH,
    Feedback,
    take_before,
)
from palaver.ledger import HISTORY_BYTES
from palaver.messages import HistoryEntry, encode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "feedback.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text().partition("### Feedback")[2]
STRINGS = (ROOT / "server/palaver/web/frontend/page/strings/en.ts").read_text()


def test_the_reasons_are_those_of_the_page() -> None:
    described = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.partition("## What is kept")[0], re.M)
    assert [name for name, _ in described] == list(FEEDBACK_REASONS)
    reasons = STRINGS.partition("feedbackForm: {")[2].partition("reasons: {")[2].partition("}")[0]
    assert described == re.findall(r'(\w+): "(.+?)"', reasons)
    for reason in FEEDBACK_REASONS:
        assert f"`{reason}`" in PROTOCOL


def test_the_limits_are_described() -> None:
    assert f"up to {MAX_COMMENT_LENGTH:,} characters" in PAGE
    assert f"up to {MAX_COMMENT_LENGTH:,} characters" in PROTOCOL
    assert f"at most {HISTORY_BYTES:,} bytes" in PAGE
    assert FEEDBACK_BYTES == 2**20
    assert "1\nMiB" in PAGE or "1 MiB" in PAGE


def test_every_field_of_a_case_is_described() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.partition("```json")[2], re.M)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert names == set(SuiteCase.__struct_fields__)


def test_the_example_of_a_case_is_one() -> None:
    example = PAGE.partition("```json\n")[2].partition("```")[0]
    case = msgspec.json.decode(example, type=SuiteCase)
    assert msgspec.json.decode(encode(case)) == msgspec.json.decode(example)


def test_history_is_taken_up_to_a_number_of_bytes() -> None:
    entries = [HistoryEntry(role="user", text=text, turn="t", at=1.0) for text in ("b", "a")]
    size = len(encode(entries[0]))
    assert take_before(entries, 2 * size) == ((entries[1], entries[0]), False)
    assert take_before(entries, 2 * size - 1) == ((entries[0],), True)
    assert take_before(entries, size - 1) == ((), True)
    assert take_before((), 0) == ((), False)


def test_feedback_without_a_reason_is_small() -> None:
    assert encode(Feedback(turn="t", rating="up")) == b'{"turn":"t","rating":"up"}'
