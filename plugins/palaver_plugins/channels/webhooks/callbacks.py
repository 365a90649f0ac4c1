"""Callbacks: post the events of conversations to their endpoints until they are taken.

Each conversation has one owner among all servers, by the lease of its outbox. The owner follows the
conversation until its turns have ended, notes an event for each, and posts what is due. An outbox
whose events wait for another attempt has no owner; a record of `RETRIES` wakes it in time. So a new
message wakes it as well, and does not wait for an earlier event.
"""

import logging
import random
from collections.abc import Mapping
from contextlib import suppress

from palaver import (
    Conflict,
    Conversation,
    ConversationService,
    LedgerUnavailable,
    Overloaded,
    PalaverError,
    Record,
    TooMany,
    describe_error,
    outbox_key,
)
from palaver.platforms import Times
from palaver.platforms.due_records import DueRecords
from palaver.platforms.outbox import Outbox, OutboxLost
from palaver_plugins.channels.webhooks.conversation import (
    RETRIES,
    ConversationEvents,
    LedgerClock,
)
from palaver_plugins.channels.webhooks.endpoint import CHANNEL, Endpoint, endpoint_name

MAX_OUTBOXES = 5_000
"""Outboxes that one process owns; each endpoint has its own limit as well."""
UNKNOWN_SECONDS = 60.0
"""Seconds after which another server is to look at an outbox whose endpoint this one lacks."""
BUSY_SECONDS = 5.0, 15.0
"""Seconds after which an outbox is looked at again whose endpoint is busy."""
OWNED_SECONDS = 5.0
"""Seconds after which an outbox is woken again that had an owner."""

log = logging.getLogger(__name__)


class Callbacks:
    """Posts events until it is closed. `wake` it after accepting a message."""

    def __init__(
        self,
        service: ConversationService,
        endpoints: Mapping[str, Endpoint],
        times: Times,
    ) -> None:
        self._service = service
        self._endpoints = endpoints
        self._times = times
        self._unknown: set[str] = set()
        """Names of endpoints that other servers have, or that were removed."""
        self._outboxes = DueRecords(
            service.records,
            CHANNEL,
            self._work,
            times=times,
            limit=MAX_OUTBOXES,
        )
        self._retries = DueRecords(
            service.records,
            RETRIES,
            self._wake_outbox,
            times=times,
            limit=MAX_OUTBOXES,
        )

    def start(self) -> None:
        self._outboxes.start()
        self._retries.start()

    async def close(self) -> None:
        """Stop. Other servers continue, or this one after its next start."""
        await self._retries.close()
        await self._outboxes.close()

    def wake(self) -> None:
        self._outboxes.wake()

    async def _work(self, record: Record) -> None:
        outbox = Outbox(self._service.records, record, self._times.lease)
        assert record.due_at is not None  # it is claimed
        clock = LedgerClock(record.due_at - self._times.lease)
        try:
            if await self._is_followed(outbox, clock):
                self.wake()  # it may have been woken meanwhile
        except OutboxLost:
            log.info("another server delivers the events of %s now", outbox.conversation)
        except Overloaded:  # nobody may subscribe any more: this server shuts down
            self._outboxes.stop_claiming()
            with suppress(OutboxLost, LedgerUnavailable):
                await outbox.finish(retry_in=0.0)
        except (LedgerUnavailable, TooMany) as error:
            log.info("events of %s wait: %s", outbox.conversation, describe_error(error))
        except Exception as error:  # noqa: BLE001  the barrier of a conversation
            log.error("events of %s failed: %s", outbox.conversation, describe_error(error))

    async def _is_followed(self, outbox: Outbox, clock: LedgerClock) -> bool:
        """Deliver the events of an outbox, unless it is given back at once."""
        name = endpoint_name(outbox.conversation)
        endpoint = self._endpoints.get(name)
        if endpoint is not None and endpoint.tenant != outbox.conversation.tenant:
            endpoint = None  # it was another tenant's
        if endpoint is None:
            if name not in self._unknown:
                log.warning("channels.%s.endpoints has no %r: its events wait", CHANNEL, name)
            self._unknown.add(name)
            await outbox.finish(retry_in=UNKNOWN_SECONDS)
            return False
        if not endpoint.callback:
            await self._skip(outbox)
            return True
        if endpoint.is_busy:
            await outbox.finish(retry_in=random.uniform(*BUSY_SECONDS))
            return False
        with endpoint.following():
            await ConversationEvents(self._service, endpoint, outbox, clock, self._times).run()
        return True

    async def _skip(self, outbox: Outbox) -> None:
        """Note that nobody wants the events so far: a callback that is configured later gets the
        turns that end from then on."""
        conversation, content = outbox.conversation, outbox.content
        content.cursor = str(await self._service.latest(conversation))
        page = await self._service.history(conversation, "", 1)
        content.posted = [entry.turn for entry in page.history]
        await outbox.finish()

    async def _wake_outbox(self, retry: Record) -> None:
        """Make an outbox due whose events have waited long enough."""
        try:
            await self._try_to_wake(retry)
        except Conflict:
            log.debug("another server has changed the record %s", retry.key)
        except PalaverError as error:
            log.info("events wait: %s", describe_error(error))

    async def _try_to_wake(self, retry: Record) -> None:
        records = self._service.records
        conversation = Conversation.parse(retry.value.decode())
        record = await records.read_record(CHANNEL, outbox_key(conversation))
        if record is not None and record.due_at is not None:  # it is owned, or will be
            await records.write_record(
                RETRIES, retry.key, retry.value, expect=retry.version, due_in=OWNED_SECONDS
            )
            return
        if record is not None:
            await records.write_record(
                CHANNEL, record.key, record.value, expect=record.version, due_in=0.0
            )
            self.wake()
        await records.delete_record(RETRIES, retry.key, expect=retry.version)
