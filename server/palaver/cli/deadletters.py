"""``palaver deadletters``: list, replay and discard turns that failed for good.

The commands open the ledger. SQLite serves one process, so the server must be stopped first; it
answers replayed turns after its next start.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from palaver.cli.console import EXIT_FAILED, Console, echo, echo_row, print_json
from palaver.errors import NotFound
from palaver.ledger import MAX_DEAD_LETTERS, QUEUE_ALL, ConcurrencyPolicies, DeadLetter, Ledger
from palaver.messages import merge_messages

MAX_SHOWN_CHARACTERS = 60
"""Characters of a message that ``list`` shows."""
MERGE_ALL = ConcurrencyPolicies(default="merge", merge_window=0.5)
"""Merges the messages of one turn into one turn again."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
turns_argument = click.argument("turns", nargs=-1)
all_option = click.option("--all", "all_turns", is_flag=True, help="All dead letters.")


@click.group()
def deadletters() -> None:
    """List, show, replay and discard turns that failed for good.

    With SQLite, stop the server first.
    """


@deadletters.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, MAX_DEAD_LETTERS))
@as_json
@click.pass_obj
def list_dead_letters(console: Console, limit: int, as_json: bool) -> None:
    """List the dead letters, newest first."""
    dead_letters = console.run_with_ledger(lambda ledger: ledger.dead_letters(limit))
    if as_json:
        print_json(dead_letters)
    for dead_letter in () if as_json else dead_letters:
        message = merge_messages(dead_letter.messages)
        words = " ".join(message.text.split())
        text = words if len(words) <= MAX_SHOWN_CHARACTERS else f"{words[:MAX_SHOWN_CHARACTERS]}…"
        echo(
            f"{dead_letter.turn}  {_format_time(dead_letter.at)}  {message.conversation}  {text!r}"
        )


@deadletters.command()
@click.argument("turn")
@as_json
@click.pass_obj
def show(console: Console, turn: str, as_json: bool) -> None:
    """Show everything that is stored about TURN."""
    (dead_letter,) = _find(console.run_with_ledger(_read_dead_letters), (turn,))
    if as_json:
        print_json(dead_letter)
        return
    rows = [
        ("turn", dead_letter.turn),
        ("conversation", str(dead_letter.messages[0].conversation)),
        ("failed", _format_time(dead_letter.at)),
        ("reason", dead_letter.reason),
        ("attempt", str(dead_letter.attempt)),
        ("skill", dead_letter.skill),
        *((message.person, message.text) for message in dead_letter.messages),
        ("reply", dead_letter.reply),
    ]
    for key, value in rows:
        if value:
            echo_row(key, value)


@deadletters.command()
@turns_argument
@all_option
@click.pass_obj
def replay(console: Console, turns: Sequence[str], all_turns: bool) -> None:
    """Answer TURNS after all, as if their messages had just arrived.

    Running it again has no effect: each turn is answered once.
    """
    _require_some(turns, all_turns)

    async def replay_all(ledger: Ledger) -> int:
        dead_letters = await _read_dead_letters(ledger)
        chosen = dead_letters if all_turns else _find(dead_letters, turns)
        for dead_letter in chosen:
            await replay_dead_letter(ledger, dead_letter)
            echo(f"Replayed {dead_letter.turn}.")
        return len(chosen)

    if not console.run_with_ledger(replay_all):
        echo("There are no dead letters.")


async def replay_dead_letter(ledger: Ledger, dead_letter: DeadLetter) -> None:
    """Accept the messages again and remove the dead letter.

    The ids of the messages derive from the turn, so an interrupted replay can be repeated. Raises
    `NotFound` when an erasure has changed the dead letter since it was read.
    """
    policies = MERGE_ALL if len(dead_letter.messages) > 1 else QUEUE_ALL
    policies = msgspec.structs.replace(policies, dead_letter=dead_letter.turn)
    for number, message in enumerate(dead_letter.messages):
        copy = msgspec.structs.replace(message, id=f"replay-{dead_letter.turn}-{number}")
        # The conversation may have expired, and its name may be another person's by now.
        is_owner = number == 0
        await ledger.accept(copy, msgspec.structs.replace(policies, members_only=is_owner))
    await ledger.discard_dead_letter(dead_letter.turn)


@deadletters.command()
@turns_argument
@all_option
@click.pass_obj
def discard(console: Console, turns: Sequence[str], all_turns: bool) -> None:
    """Discard TURNS."""
    _require_some(turns, all_turns)

    async def discard_all(ledger: Ledger) -> list[str]:
        chosen = (
            [dead_letter.turn for dead_letter in await _read_dead_letters(ledger)]
            if all_turns
            else turns
        )
        return [turn for turn in chosen if not await ledger.discard_dead_letter(turn)]

    missing = console.run_with_ledger(discard_all)
    for turn in missing:
        echo(f"There is no dead letter {turn!r}.", err=True)
    if missing:
        raise SystemExit(EXIT_FAILED)


def _require_some(turns: Sequence[str], all_turns: bool) -> None:
    if bool(turns) == all_turns:
        raise click.UsageError("name the turns, or give --all")


async def _read_dead_letters(ledger: Ledger) -> tuple[DeadLetter, ...]:
    return await ledger.dead_letters(MAX_DEAD_LETTERS)


def _find(dead_letters: Sequence[DeadLetter], turns: Sequence[str]) -> list[DeadLetter]:
    by_turn = {dead_letter.turn: dead_letter for dead_letter in dead_letters}
    for turn in turns:
        if turn not in by_turn:
            raise NotFound(f"there is no dead letter {turn!r}; see: palaver deadletters list")
    return [by_turn[turn] for turn in turns]


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
