"""Results of operations on the SQLite ledger."""

from typing import Generic, NamedTuple, TypeVar

from palaver import Event

T = TypeVar("T")


class NothingDue(NamedTuple):
    """Result of a claim when nothing is due before ``until``, in seconds since the epoch."""

    until: float


class OperationResult(NamedTuple, Generic[T]):
    """Value of an operation, and the notifications that follow its commit.

    ``events`` were appended to the stream of ``conversation``, the first with ``offset``. ``wake``:
    a turn may be due. ``scrub``: deleted words may remain in the write-ahead log.
    """

    value: T
    conversation: str = ""
    offset: int = 0
    events: tuple[Event, ...] = ()
    wake: bool = False
    scrub: bool = False
