"""What an operation on the SQLite ledger returns."""

from typing import Generic, NamedTuple, TypeVar

from palaver import Event

T = TypeVar("T")


class NothingDue(NamedTuple):
    """Nothing is due before ``until`` (by the ledger's clock)."""

    until: float


class OperationResult(NamedTuple, Generic[T]):
    """What an operation did: its result, and who should hear of it.

    ``events`` went to the stream of the conversation ``name``, the first with ``offset``.
    ``wake``: a turn may be due now. ``scrub``: overwritten words may remain in the log.
    """

    value: T
    conversation: str = ""
    offset: int = 0
    events: tuple[Event, ...] = ()
    wake: bool = False
    scrub: bool = False
