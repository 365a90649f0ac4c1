"""``palaver deadletters``: turns that were given up, to look at, try again or throw away.

The commands open the ledger themselves. With SQLite, which serves one process, the server must be
stopped meanwhile; what is replayed is answered when it runs again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from palaver.cli.console import EXIT_FAILED, Console, print_json
from palaver.errors import NotFound
from palaver.ledger import MAX_DEAD_LETTERS, QUEUE_ALL, ConcurrencyPolicies, DeadLetter, Ledger
from palaver.messages import merge_messages

SHOWN = 60
"""Characters of a message that ``list`` shows."""
TOGETHER = ConcurrencyPolicies(default="merge", merge_window=0.5)
"""Messages that were one turn become one turn again."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
turns_argument = click.argument("turns", nargs=-1)
every = click.option("--all", "every", is_flag=True, help="All that there are.")


@click.group()
def deadletters() -> None:
    """Turns that were given up: list, show, replay, discard.

    With SQLite, stop the server first.
    """


@deadletters.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, MAX_DEAD_LETTERS))
@as_json
@click.pass_obj
def list_letters(console: Console, limit: int, as_json: bool) -> None:
    """List them, the newest first."""
    letters = console.with_ledger(lambda ledger: ledger.dead_letters(limit))
    if as_json:
        print_json(letters)
    for letter in () if as_json else letters:
        message = merge_messages(letter.messages)
        words = " ".join(message.text.split())
        text = words if len(words) <= SHOWN else f"{words[:SHOWN]}…"
        click.echo(f"{letter.turn}  {_time(letter.at)}  {message.conversation}  {text!r}")


@deadletters.command()
@click.argument("turn")
@as_json
@click.pass_obj
def show(console: Console, turn: str, as_json: bool) -> None:
    """Show all that is kept of TURN."""
    (letter,) = _find(console.with_ledger(_letters), (turn,))
    if as_json:
        print_json(letter)
        return
    rows = [
        ("turn", letter.turn),
        ("conversation", str(letter.messages[0].conversation)),
        ("given up", _time(letter.at)),
        ("reason", letter.reason),
        ("attempt", str(letter.attempt)),
        ("skill", letter.skill),
        *((message.person, message.text) for message in letter.messages),
        ("reply", letter.reply),
    ]
    for key, value in rows:
        if value:
            click.echo(f"{key:<14}{value}")


@deadletters.command()
@turns_argument
@every
@click.pass_obj
def replay(console: Console, turns: Sequence[str], every: bool) -> None:
    """Let TURNS be answered after all, as if their messages had just come.

    Running it again does no harm: each is answered once.
    """
    _require_some(turns, every)

    async def replay_all(ledger: Ledger) -> int:
        letters = await _letters(ledger)
        chosen = letters if every else _find(letters, turns)
        for letter in chosen:
            await replay_letter(ledger, letter)
            click.echo(f"Replayed {letter.turn}.")
        return len(chosen)

    if not console.with_ledger(replay_all):
        click.echo("There are no dead letters.")


async def replay_letter(ledger: Ledger, letter: DeadLetter) -> None:
    """Accept its messages anew, and remove it. Their ids follow from the letter: a replay that
    was cut in the middle can be repeated."""
    policies = TOGETHER if len(letter.messages) > 1 else QUEUE_ALL
    for number, message in enumerate(letter.messages):
        again = msgspec.structs.replace(message, id=f"replay-{letter.turn}-{number}")
        await ledger.accept(again, policies)
    await ledger.discard_dead_letter(letter.turn)


@deadletters.command()
@turns_argument
@every
@click.pass_obj
def discard(console: Console, turns: Sequence[str], every: bool) -> None:
    """Throw TURNS away."""
    _require_some(turns, every)

    async def discard_all(ledger: Ledger) -> list[str]:
        chosen = [letter.turn for letter in await _letters(ledger)] if every else turns
        return [turn for turn in chosen if not await ledger.discard_dead_letter(turn)]

    missing = console.with_ledger(discard_all)
    for turn in missing:
        click.echo(f"There is no dead letter {turn!r}.", err=True)
    if missing:
        raise SystemExit(EXIT_FAILED)


def _require_some(turns: Sequence[str], every: bool) -> None:
    if bool(turns) == every:
        raise click.UsageError("name the turns, or give --all")


async def _letters(ledger: Ledger) -> tuple[DeadLetter, ...]:
    return await ledger.dead_letters(MAX_DEAD_LETTERS)


def _find(letters: Sequence[DeadLetter], turns: Sequence[str]) -> list[DeadLetter]:
    held = {letter.turn: letter for letter in letters}
    for turn in turns:
        if turn not in held:
            raise NotFound(f"there is no dead letter {turn!r}; `palaver deadletters list` tells")
    return [held[turn] for turn in turns]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
