"""Suites of feedback: what people said about replies, as a test of new replies."""

import json
from pathlib import Path

from palaver.errors import InvalidInput
from palaver.private_files import write_private_file

SUITE = """\
description = "Replies that people have rated"
target = "server"
metrics = ["liked_overlap", "disliked_repeats"]

[rows]
files = [{file}]
split = "feedback"
id = "{{id}}"
text = "{{message}}"
history = "{{history}}"
expected = "{{reply}}"
rating = "{{rating}}"
note = "{{about}}"
"""


def write_feedback_suite(replies: Path, suite: Path) -> int:
    """Write the suite of a file of ``palaver feedback export``; return its number of replies.

    The rows go beside the suite. Raises `InvalidInput` for a file of something else.
    """
    if suite.suffix != ".toml":
        raise InvalidInput(f"the name of a suite ends in .toml, not {suite.name!r}")
    rows = suite.with_suffix(".jsonl")
    for path in (suite, rows):
        if path.exists():
            raise InvalidInput(f"{str(path)!r} exists already")
    lines = []
    for number, line in enumerate(replies.read_text("utf-8").splitlines(), 1):
        try:
            row = dict(json.loads(line))
            kept = {name: row[name] for name in ("id", "message", "history", "reply", "rating")}
            said = [row.get("reason"), row.get("comment")]
            kept["about"] = ": ".join(filter(None, said))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(
                f"line {number} of {str(replies)!r} is no rated reply: {error!r}"
            ) from error
        lines.append(json.dumps(kept, ensure_ascii=False))
    if not lines:
        raise InvalidInput(f"{str(replies)!r} holds no rated replies")
    write_private_file(rows, ("\n".join(lines) + "\n").encode())
    write_private_file(suite, SUITE.format(file=json.dumps(rows.name)).encode())
    return len(lines)
