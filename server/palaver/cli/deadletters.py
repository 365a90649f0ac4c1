"""``palaver deadletters``: list, replay and discard turns that failed for good, and conversations
whose replies a chat platform refuses for good.

The commands open the ledger. SQLite serves one process, so the server must be stopped first; it
answers replayed turns after its next start.
"""

from collections.abc import Sequence
from itertools import zip_longest

import click
import msgspec

from palaver.cli.console import EXIT_FAILED, Console, echo, echo_row, format_time, print_json
from palaver.cli.parked import is_conversation, parked_in
from palaver.errors import NotFound
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies, DeadLetter, Ledger
from palaver.messages import Conversation, Message, merge_messages
from palaver.platforms.parking import ParkedConversation

MAX_SHOWN_CHARACTERS = 60
"""Characters of a message that ``list`` shows."""
MERGE_WINDOW = 30.0
"""Seconds within which the next message of a turn is replayed; the last one ends the wait."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
names_argument = click.argument("names", nargs=-1, metavar="TURN|CONVERSATION...")
all_option = click.option("--all", "is_all", is_flag=True, help="All that are listed.")


@click.group()
def deadletters() -> None:
    """List, show, replay and discard what failed for good.

    Turns are here that no attempt has finished, and conversations whose replies a chat platform
    refuses. With SQLite, stop the server first.
    """


@deadletters.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, MAX_DEAD_LETTERS))
@as_json
@click.pass_obj
def list_dead_letters(console: Console, limit: int, as_json: bool) -> None:
    """List the dead letters and the parked conversations, newest first."""

    async def read(ledger: Ledger) -> list[DeadLetter | ParkedConversation]:
        found: list[DeadLetter | ParkedConversation] = [*await ledger.dead_letters(limit)]
        found += await parked_in(console, ledger).list()
        return sorted(found, key=lambda each: -each.at)[:limit]

    found = console.run_with_ledger(read)
    if as_json:
        print_json([_to_json(each) for each in found])
    for each in () if as_json else found:
        echo(_describe(each))


def _describe(each: DeadLetter | ParkedConversation) -> str:
    if isinstance(each, ParkedConversation):
        return f"{each.conversation}  {format_time(each.at)}  {each.problem}"
    message = merge_messages(each.messages)
    words = " ".join(message.text.split())
    text = words if len(words) <= MAX_SHOWN_CHARACTERS else f"{words[:MAX_SHOWN_CHARACTERS]}…"
    return f"{each.turn}  {format_time(each.at)}  {message.conversation}  {text!r}"


def _to_json(each: DeadLetter | ParkedConversation) -> object:
    if isinstance(each, DeadLetter):
        return each
    return {"conversation": str(each.conversation), "problem": each.problem, "at": each.at}


@deadletters.command()
@click.argument("name", metavar="TURN|CONVERSATION")
@as_json
@click.pass_obj
def show(console: Console, name: str, as_json: bool) -> None:
    """Show what is stored about a turn or a conversation."""

    async def read(ledger: Ledger) -> DeadLetter | ParkedConversation:
        if is_conversation(name):
            return await parked_in(console, ledger).find(name)
        (dead_letter,) = _find(await _read_dead_letters(ledger), (name,))
        return dead_letter

    found = console.run_with_ledger(read)
    if as_json:
        print_json(_to_json(found))
        return
    for key, value in _rows(found):
        if value:
            echo_row(key, value)


def _rows(found: DeadLetter | ParkedConversation) -> list[tuple[str, str]]:
    if isinstance(found, ParkedConversation):
        return [
            ("conversation", str(found.conversation)),
            ("parked", format_time(found.at)),
            ("problem", found.problem),
        ]
    return [
        ("turn", found.turn),
        ("conversation", str(found.messages[0].conversation)),
        ("failed", format_time(found.at)),
        ("reason", found.reason),
        ("attempt", str(found.attempt)),
        ("skill", found.skill),
        *((message.person, message.text) for message in found.messages),
        ("reply", found.reply),
    ]


@deadletters.command()
@names_argument
@all_option
@click.pass_obj
def replay(console: Console, names: Sequence[str], is_all: bool) -> None:
    """Answer turns and post replies of conversations after all.

    The messages of a turn count as if they had just arrived. Running it again has no effect:
    each turn is answered once.
    """
    _require_some(names, is_all)

    async def replay_all(ledger: Ledger) -> int:
        parked = parked_in(console, ledger)
        dead_letters = await _read_dead_letters(ledger)
        if is_all:
            conversations = await parked.list()
        else:
            conversations = [await parked.find(name) for name in names if is_conversation(name)]
            turns = [name for name in names if not is_conversation(name)]
            dead_letters = tuple(_find(dead_letters, turns))
        for dead_letter in dead_letters:
            await replay_dead_letter(ledger, dead_letter)
            echo(f"Replayed {dead_letter.turn}.")
        for each in conversations:
            await parked.replay(each.conversation)
            echo(f"Replayed {each.conversation}.")
        return len(dead_letters) + len(conversations)

    if not console.run_with_ledger(replay_all):
        echo("There are no dead letters.")


async def replay_dead_letter(ledger: Ledger, dead_letter: DeadLetter) -> None:
    """Accept the messages again and remove the dead letter.

    The ids of the messages derive from the turn, so an interrupted replay can be repeated. Raises
    `NotFound` when an erasure has changed the dead letter since it was read.
    """
    messages = dead_letter.messages
    for number, (message, following) in enumerate(zip_longest(messages, messages[1:])):
        id = f"replay-{dead_letter.turn}-{number}"
        copy = msgspec.structs.replace(message, id=id, order="")
        policies = ConcurrencyPolicies(
            default="merge" if len(messages) > 1 else "queue",
            merge_window=MERGE_WINDOW if following and _merge(message, following) else 0.0,
            # The conversation may have expired, and its name may be another person's by now.
            members_only=number == 0,
            dead_letter=dead_letter.turn,
        )
        await ledger.accept(copy, policies)
    await ledger.discard_dead_letter(dead_letter.turn)


def _merge(message: Message, following: Message) -> bool:
    """Return True when one turn answers both."""
    return message.person == following.person and not following.skill


@deadletters.command()
@names_argument
@all_option
@click.pass_obj
def discard(console: Console, names: Sequence[str], is_all: bool) -> None:
    """Discard turns, and replies that could not be posted."""
    _require_some(names, is_all)

    async def discard_all(ledger: Ledger) -> list[str]:
        parked = parked_in(console, ledger)
        chosen = names
        if is_all:
            turns = [dead_letter.turn for dead_letter in await _read_dead_letters(ledger)]
            chosen = [*turns, *(str(each.conversation) for each in await parked.list())]
        missing = []
        for name in chosen:
            if is_conversation(name):
                is_found = await parked.discard(Conversation.parse(name))
            else:
                is_found = await ledger.discard_dead_letter(name)
            missing += [] if is_found else [name]
        return missing

    missing = console.run_with_ledger(discard_all)
    for name in missing:
        echo(f"There is no dead letter {name!r}.", err=True)
    if missing:
        raise SystemExit(EXIT_FAILED)


def _require_some(names: Sequence[str], is_all: bool) -> None:
    if bool(names) == is_all:
        raise click.UsageError("name the turns and conversations, or give --all")


async def _read_dead_letters(ledger: Ledger) -> tuple[DeadLetter, ...]:
    return await ledger.dead_letters(MAX_DEAD_LETTERS)


def _find(dead_letters: Sequence[DeadLetter], turns: Sequence[str]) -> list[DeadLetter]:
    by_turn = {dead_letter.turn: dead_letter for dead_letter in dead_letters}
    for turn in turns:
        if turn not in by_turn:
            raise NotFound(f"there is no dead letter {turn!r}; see: palaver deadletters list")
    return [by_turn[turn] for turn in turns]
