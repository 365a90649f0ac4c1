"""A process that accepts messages into a SQLite ledger, prints what was acknowledged, and dies.

Arguments: the directory, and how it ends. ``killed``: it goes on until it is killed. ``honest``:
it kills itself in its third batch of messages, before the commit. ``hasty``: the same, but it
acknowledges before it commits, which is the mistake that the test must be able to see.
"""

import asyncio
import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path

from palaver.messages import Conversation, Message
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings
from palaver_plugins.ledgers.sqlite.database_thread import DatabaseThread, JobResult
from palaver_plugins.ledgers.sqlite.rows import Database

AT_ONCE = 8
LAST = 3
printed = threading.Event()


class DiesInCommit(DatabaseThread):
    commits = 0

    def commit(self, database: Database, results: list[JobResult]) -> None:
        self.commits += 1
        if self.commits == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit(database, results)


class AcknowledgesEarly(DiesInCommit):
    def commit(self, database: Database, results: list[JobResult]) -> None:
        printed.clear()
        self.deliver(results)
        printed.wait(5)
        super().commit(database, results)


WRITERS: dict[str, type[DatabaseThread]] = {
    "killed": DatabaseThread,
    "honest": DiesInCommit,
    "hasty": AcknowledgesEarly,
}


async def accept(ledger: SQLiteLedger, identity: str) -> None:
    where = Conversation("acme", "web", identity)
    await ledger.accept(Message(conversation=where, id=identity, person="ada", text="hello"))
    sys.stdout.write(f"{identity}\n")
    sys.stdout.flush()
    printed.set()


async def main(directory: Path, end: str) -> None:
    ledger = SQLiteLedger(SQLiteLedgerSettings(), directory, thread=WRITERS[end])
    await ledger.start()
    for number in count():
        await asyncio.gather(*(accept(ledger, f"m{number}-{each}") for each in range(AT_ONCE)))


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
