"""Poster: posts the replies of a channel's conversations as messages of its platform.

Each conversation has one owner among all servers, by the lease of its outbox. The owner posts what
there is to post, see `Delivery`, and gives the outbox up.
"""

import logging

from palaver.channels import ConversationService
from palaver.errors import LedgerUnavailable, Overloaded, TooMany, describe_error
from palaver.messages import Cursor
from palaver.platforms.calls import DEFAULT_TIMES, Times
from palaver.platforms.delivery import Delivery
from palaver.platforms.due_records import DueRecords
from palaver.platforms.outbox import Outbox, OutboxLost
from palaver.platforms.platform import Platform
from palaver.records import Record

MAX_OUTBOXES = 2_000
"""Conversations to which one process posts at once: more than there are turns that run."""

log = logging.getLogger(__name__)


class Poster:
    """Posts replies of one channel until it is closed. `wake` it after accepting a message."""

    def __init__(
        self,
        service: ConversationService,
        channel: str,
        platform: Platform,
        *,
        times: Times = DEFAULT_TIMES,
        limit: int = MAX_OUTBOXES,
    ) -> None:
        self._service = service
        self._platform = platform
        self._times = times
        self._channel = channel
        self.problem = ""
        """Why nothing can be posted, while that is so: the platform does not know the token."""
        self._due = DueRecords(
            service.records,
            channel,
            self._deliver,
            times=times,
            limit=limit,
        )

    def start(self) -> None:
        self._due.start()

    async def close(self) -> None:
        """Stop posting. Other servers continue, or this one after its next start."""
        await self._due.close()

    def wake(self) -> None:
        """Look for outboxes that are due."""
        self._due.wake()

    async def _deliver(self, record: Record) -> None:
        outbox = Outbox(self._service.records, record, self._times.lease)
        try:
            await self._deliver_from(outbox)
        except OutboxLost:
            log.info("another server posts to %s now", outbox.conversation)
        except (LedgerUnavailable, TooMany) as error:
            log.info("posting to %s pauses: %s", outbox.conversation, describe_error(error))
        except Exception as error:  # noqa: BLE001  the barrier of a conversation
            log.error("posting to %s failed: %s", outbox.conversation, describe_error(error))

    async def _deliver_from(self, outbox: Outbox) -> None:
        delivery = Delivery(
            self._service,
            self._platform,
            outbox,
            await self._start_of(outbox),
            self._times,
            on_problem=self._note_problem,
            is_crowded=lambda: self._due.is_full,
        )
        try:
            await delivery.run()
            if delivery.is_shut_down:
                self._due.stop_claiming()
            self.wake()  # it may have been woken meanwhile
        except Overloaded:  # nobody may subscribe any more: this server shuts down
            self._due.stop_claiming()
            await outbox.finish(retry_in=0.0)
        except (OutboxLost, LedgerUnavailable, TooMany):
            raise
        except Exception as error:
            await delivery.note_failure(describe_error(error))
            raise

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.error("the channel %s does not post: %s", self._channel, problem)
        self.problem = problem

    async def _start_of(self, outbox: Outbox) -> Cursor:
        """Return the place in the stream after which there are replies to post."""
        if outbox.content.cursor:
            return Cursor.parse(outbox.content.cursor)
        latest = await self._service.latest(outbox.conversation)
        return Cursor(latest.epoch, 0)
