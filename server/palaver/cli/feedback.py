"""``palaver feedback export``: the rated replies as an evaluation suite, one JSON object a line.

The command opens the ledger. SQLite serves one process, so the server must be stopped first.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from palaver.cli.console import Console, echo
from palaver.cli.people import tenant_option
from palaver.control_characters import escape_json
from palaver.errors import InvalidInput
from palaver.feedback import (
    RATINGS,
    FeedbackFilter,
    FeedbackReason,
    RatedReply,
    Rating,
)
from palaver.ledger import HISTORY_BYTES, Ledger
from palaver.messages import HistoryEntry, Outcome, Role, check_name, encode
from palaver.private_files import open_private_file

PSEUDONYM_BYTES = 8
NamePerson = Callable[[str], str]


class SuiteMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Message or reply that came before a rated one."""

    role: Role
    text: str
    person: str = ""


class SuiteCase(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rated reply. docs/feedback.md describes the fields."""

    id: str
    skill: str = ""
    outcome: Outcome
    rating: Rating
    reason: FeedbackReason | None = None
    comment: str = ""
    at: float
    person: str = ""
    history: tuple[SuiteMessage, ...]
    history_cut: bool = False
    message: str
    reply: str


@click.group()
def feedback() -> None:
    """Use the feedback that people give on replies."""


@feedback.command("export")
@tenant_option
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Only what was given at this time or later, in UTC.",
)
@click.option("--skill", help="Only replies of this skill.")
@click.option("--rating", type=click.Choice(RATINGS), help="Only this rating.")
@click.option(
    "--people",
    type=click.Choice(["none", "pseudonyms", "ids"]),
    default="none",
    show_default=True,
    help="How the people who wrote and rated are named. Pseudonyms differ in each export.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@click.pass_obj
def export_feedback(
    console: Console,
    tenant: str,
    since: datetime | None,
    skill: str | None,
    rating: Rating | None,
    people: str,
    output: Path | None,
) -> None:
    """Write the rated replies as an evaluation suite in JSON Lines.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    at = since.replace(tzinfo=UTC).timestamp() if since else 0.0
    selection = FeedbackFilter(since=at, rating=rating, skill=skill)

    name = _NAMING[people]()

    async def write_all(ledger: Ledger, write: Callable[[bytes], None]) -> int:
        count = 0
        replies = ledger.rated_replies(tenant, selection, history_bytes=HISTORY_BYTES)
        async with contextlib.aclosing(replies):
            async for rated in replies:
                await asyncio.to_thread(write, encode(make_case(rated, name)))
                count += 1
        return count

    with _open_output(output) as write:
        count = console.run_with_ledger(lambda ledger: write_all(ledger, write))
    if output is not None:
        echo(f"Wrote {count} rated replies to {output}.")


def make_case(rated: RatedReply, name: NamePerson) -> SuiteCase:
    """Return the case of a rated reply, with people as ``name`` names them."""
    given = rated.feedback
    asked = [entry.text for entry in rated.entries if entry.role == "user"]
    (reply,) = (entry for entry in rated.entries if entry.role == "assistant")
    return SuiteCase(
        id=_case_id(rated),
        skill=given.skill,
        outcome=reply.outcome or "done",
        rating=given.rating,
        reason=given.reason,
        comment=given.comment,
        at=given.at,
        person=name(rated.person),
        history=tuple(_suite_messages(rated.history, name)),
        history_cut=rated.is_cut,
        message="\n\n".join(asked),
        reply=reply.text,
    )


def _suite_messages(entries: Iterable[HistoryEntry], name: NamePerson) -> Iterator[SuiteMessage]:
    for entry in entries:
        person = name(entry.person) if entry.person else ""
        yield SuiteMessage(role=entry.role, text=entry.text, person=person)


def _case_id(rated: RatedReply) -> str:
    """Return an id that is the same in each export, and does not reveal the turn or the person."""
    about = f"{rated.conversation}/{rated.feedback.turn}/{rated.person}"
    return hashlib.sha256(about.encode()).hexdigest()[:32]


def _leave_out() -> NamePerson:
    return lambda person: ""


def _keep() -> NamePerson:
    return lambda person: person


def _pseudonymize() -> NamePerson:
    """Return a function that names a person by a hash with a random key, which is forgotten."""
    key = secrets.token_bytes(32)

    def name(person: str) -> str:
        return hashlib.blake2b(person.encode(), key=key, digest_size=PSEUDONYM_BYTES).hexdigest()

    return name


_NAMING: dict[str, Callable[[], NamePerson]] = {
    "none": _leave_out,
    "pseudonyms": _pseudonymize,
    "ids": _keep,
}


@contextlib.contextmanager
def _open_output(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes a line to the file, or to standard output."""
    if path is None:
        yield lambda line: echo(escape_json(line.decode()), keep_lines=True)
        return
    try:
        with open_private_file(path) as stream:
            yield lambda line: stream.writelines((line, b"\n"))
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} cannot be written: {error.strerror}") from error
