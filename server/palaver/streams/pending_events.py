"""Pending events: what the events of turns that have begun have told and a snapshot lacks, such as
the reason of a choice, tools and citations. A client that begins with a snapshot gets them too."""

from collections.abc import Awaitable, Callable

import msgspec

from palaver.ledger import Page, PendingTurn, Snapshot
from palaver.messages import Asked, Attached, Cited, Event, Queued, Routed, Text, ToolCalled, encode

READ_BACK = 2_000
"""Events before the snapshot that are read; a turn that runs for longer lacks its earlier ones."""
PENDING_BYTES = 65_536
"""Bytes of events, as JSON, that are kept for each turn, the newest."""
_TOLD = (Routed, Queued, ToolCalled, Cited, Attached, Asked)


async def add_pending_events(
    snapshot: Snapshot, read: Callable[[int], Awaitable[Page]]
) -> Snapshot:
    """Return the snapshot with the events of turns that have begun. ``read`` returns the page of
    events after an offset."""
    told: dict[str, list[Event]] = {turn.turn: [] for turn in snapshot.pending if _has_begun(turn)}
    cursor = snapshot.cursor
    after = max(0, cursor.offset - READ_BACK)
    while told and after < cursor.offset:
        page = await read(after)
        if page.epoch != cursor.epoch or not page.events:
            break
        for item in page.events:
            if item.offset <= cursor.offset and item.event.turn in told:
                _add(told[item.event.turn], item.event)
        after = page.events[-1].offset
    pending = tuple(
        msgspec.structs.replace(turn, events=_newest(told.get(turn.turn, ())))
        for turn in snapshot.pending
    )
    return msgspec.structs.replace(snapshot, pending=pending)


def _has_begun(turn: PendingTurn) -> bool:
    """Return whether a turn runs, or waits for a takeover."""
    return turn.running or bool(turn.skill or turn.reply)


def _add(told: list[Event], event: Event) -> None:
    if isinstance(event, Text | Queued) and told and isinstance(told[-1], Queued):
        told.pop()  # it no longer waits, or at another place
    if isinstance(event, _TOLD):
        told.append(event)


def _newest(events: "list[Event] | tuple[()]") -> tuple[Event, ...]:
    kept: list[Event] = []
    left = PENDING_BYTES
    for event in reversed(events):
        left -= len(encode(event))
        if left < 0:
            break
        kept.append(event)
    return tuple(reversed(kept))
