"""Resume: the cursor from which a subscription replays a whole conversation."""

from palaver.messages import Cursor

REPLAY_LIMIT = 5_000
"""Most events that are replayed; a longer conversation starts from a snapshot."""


def replay_start(latest: Cursor) -> Cursor | None:
    """Return the cursor before the first event, or None when there are too many to replay."""
    return Cursor(latest.epoch, 0) if latest.offset <= REPLAY_LIMIT else None
