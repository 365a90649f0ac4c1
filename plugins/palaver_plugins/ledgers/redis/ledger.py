"""RedisLedger: each method of `palaver.ledger.Ledger` is one script and one round trip."""

import math
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from palaver import (
    HISTORY_BYTES,
    INBOX_LIMIT,
    NO_PARTS,
    PAGE_BYTES,
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    Conversation,
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    DeadLetter,
    Erasure,
    Export,
    Feedback,
    FeedbackFilter,
    FeedbackReceipt,
    Guarantee,
    HistoryPage,
    LedgerUnavailable,
    LogEntry,
    Message,
    OnChange,
    Page,
    PalaverError,
    PendingQuestion,
    Progress,
    QueueDepth,
    RatedReply,
    Receipt,
    Record,
    ReplyParts,
    Share,
    Snapshot,
    StopState,
    StorageUsage,
    UnsettledCount,
    check_name,
    encode,
    finished_entry,
    new_id,
    no_alternative,
    no_message_to_revise,
    not_in_history,
    not_settled,
    parse_position,
    several_messages,
)
from palaver_plugins.ledgers.redis import personal_data
from palaver_plugins.ledgers.redis.client import Argument, RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.conversation_list import ConversationLists
from palaver_plugins.ledgers.redis.encoding import (
    encode_parts,
    pack_closing,
    pack_entries,
    pack_policies,
    received_event_suffix,
)
from palaver_plugins.ledgers.redis.feedback import FeedbackRecords
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of
from palaver_plugins.ledgers.redis.memories import Memories
from palaver_plugins.ledgers.redis.records import Records
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.waiting import WaitingMessages

BEGINNING = "-"
_REVISION_ERRORS: dict[object, Callable[[str], PalaverError]] = {
    b"unknown": no_message_to_revise,
    b"unsettled": lambda turn: not_settled(),
    b"several": several_messages,
}
"""The place before the first turn, in the scripts."""
_decode_claim = msgspec.json.Decoder(Claim).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_history_page = msgspec.json.Decoder(HistoryPage).decode
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
_decode_dead_letters = msgspec.json.Decoder(tuple[DeadLetter, ...]).decode


class RedisLedger:
    """`palaver.ledger.Ledger` in Redis, for any number of servers."""

    def __init__(
        self, settings: RedisLedgerSettings, *, client: type[RedisClient] = RedisClient
    ) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix, settings.partitions)
        self._client = client(settings, self._keys)
        retention = round(settings.retention_seconds * 1000)
        self._memories = Memories(self._client, self._keys, retention)
        self._lists = ConversationLists(self._client, self._keys)
        self._records = Records(self._client, self._keys)
        self._feedback = FeedbackRecords(self._client, self._keys)
        self._waiting = WaitingMessages(self._client, self._keys, settings.history_kept)
        self._first_partition = 0  # of the last claim

    async def start(self) -> None:
        """Connect and check the server. Raises `ConfigurationError` when this Redis cannot keep a
        ledger's promises, and `LedgerUnavailable` when it cannot be reached."""
        await self._client.open()
        await personal_data.index_dead_letters(self._client, self._keys)

    async def inspect(self) -> None:
        """Check the server as `start` does, and write nothing."""
        await self._client.open(read_only=True)

    async def close(self) -> None:
        await self._client.close()

    # Turns

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        if message.after and not message.after.isalnum():
            raise not_in_history(message.after)
        name = name_of(message.conversation)
        partition = self._keys.partition(name)
        turn, ahead, duplicate, joined = await self._client.run(
            "accept",
            partition,
            partition.conversation_keys(name),
            name,
            new_id(),
            message.id,
            message.digest,
            message.person,
            encode(message),
            received_event_suffix(message),
            int(bool(message.skill)),
            pack_policies(policies),
            INBOX_LIMIT,
            partition.person_index_prefix(message.conversation.tenant),
            partition.dead_letter(policies.dead_letter) if policies.dead_letter else "",
            "" if message.after is None else message.after or BEGINNING,
            partition.record_list(message.conversation.channel),
            partition.due_records(message.conversation.channel),
            message.order,
        )
        return Receipt(
            turn=turn.decode(), ahead=ahead, duplicate=duplicate == 1, joined=joined == 1
        )

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  the protocol's
        await self._client.wait_until_connected()
        await self._client.work.wait(timeout)

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        notifications = self._client.work.count
        partitions = self._keys.partitions
        self._first_partition = (self._first_partition + 1) % len(partitions)
        waits = []
        unavailable: LedgerUnavailable | None = None
        for partition in partitions[self._first_partition :] + partitions[: self._first_partition]:
            try:
                found = await self._claim_from(partition, worker, lease, history, history_bytes)
            except LedgerUnavailable as error:  # the other nodes of a Cluster may have work
                unavailable = error
                continue
            if isinstance(found, Claim):
                return found
            waits.append(found)
        if unavailable is not None:
            raise unavailable
        self._client.work.clear_until_due(notifications, min(waits))
        return None

    async def _claim_from(
        self, partition: Partition, worker: str, lease: float, history: int, history_bytes: int
    ) -> Claim | float:
        """Return a claim, or the seconds until a turn may be due."""
        found = await self._client.run(
            "claim",
            partition,
            (partition.state, partition.queue, partition.claim(new_id())),
            partition.conversation_prefix,
            worker,
            _milliseconds(lease),
            history,
            partition.owner_channel_prefix,
            self._client.owner_id,
            history_bytes,
        )
        if isinstance(found, bytes):
            return _decode_claim(found)
        return math.inf if found < 0 else found / 1000

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        if not entries:
            return _progress(
                await self._run_as_owner("append", claim, expect, _milliseconds(lease), b"")
            )
        tenant = claim.conversation.tenant
        return _progress(
            await self._run_as_owner(
                "append",
                claim,
                expect,
                _milliseconds(lease),
                pack_entries(entries),
                self._keys.partition(name_of(claim.conversation)).memories_prefix(tenant),
                await self._memories.newest_version(tenant, entries),
            )
        )

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        expect: int,
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
        parts: ReplyParts = NO_PARTS,
    ) -> Progress:
        finished = finished_entry(claim.turn, entries)
        partition = self._keys.partition(name_of(claim.conversation))
        tenant = claim.conversation.tenant
        closing = pack_closing(
            claim,
            finished,
            pending_question,
            taken_steering,
            dead_letter_reason,
            partition.dead_letter_index_prefix(claim.conversation.tenant),
            next_turn=new_id(),
            parts=encode_parts(parts.present),
            person_indexes=partition.person_index_prefix(tenant),
            memories=partition.memories_prefix(tenant),
            memory_version=await self._memories.newest_version(tenant, entries),
            events_kept=self._settings.events_kept,
            history_kept=self._settings.history_kept,
        )
        more_keys = (partition.dead_letters,)
        packed = pack_entries(entries)
        return _progress(
            await self._run_as_owner("settle", claim, expect, packed, closing, more_keys=more_keys)
        )

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        return _decode_messages(await self._run_as_owner("read_steering", claim))

    async def release(self, claim: Claim) -> None:
        await self._run_as_owner("release", claim)

    async def _run_as_owner(
        self, script: str, claim: Claim, *arguments: Argument, more_keys: tuple[str, ...] = ()
    ) -> RedisReply:
        """Run a script that compares the fence of the claim."""
        name = name_of(claim.conversation)
        partition = self._keys.partition(name)
        keys = (*partition.conversation_keys(name), *more_keys)
        return await self._client.run(
            script, partition, keys, name, claim.turn, claim.fence, *arguments
        )

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        if turn is None:  # named once: a script that runs again after a lost reply stops no other
            oldest = await self._client.command(
                partition, "LINDEX", partition.unsettled_turns(name), 0
            )
            turn = "" if oldest is None else oldest.decode()
        state, stopped = await self._run_on(
            "stop",
            conversation,
            name,
            turn,
            self._settings.history_kept,
            partition.person_index_prefix(conversation.tenant),
        )
        return state.decode(), stopped.decode()

    async def change_waiting(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> bool:
        return await self._waiting.change(conversation, message, text, policies)

    async def select(self, conversation: Conversation, turn: str) -> None:
        result = await self._run_on("select", conversation, turn)
        if result == b"unknown":
            raise no_alternative(turn)
        if result == b"unsettled":
            raise not_settled()

    async def revise(
        self,
        conversation: Conversation,
        person: str,
        turn: str,
        text: str,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> None:
        name = name_of(conversation)
        indexes = self._keys.partition(name).person_index_prefix(conversation.tenant)
        result = await self._run_on(
            "revise",
            conversation,
            name,
            person,
            turn,
            encode(text),
            pack_policies(policies),
            indexes,
        )
        if error := _REVISION_ERRORS.get(result):
            raise error(turn)

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return _decode_page(await self._run_on("read", conversation, after, limit, PAGE_BYTES))

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = name_of(conversation)
        channel = self._keys.partition(name).channel(name)
        return await self._client.watch(channel, on_change)

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        reply = await self._run_on("snapshot", conversation, history, history_bytes)
        return _decode_snapshot(reply)

    async def history(
        self,
        conversation: Conversation,
        before: str,
        limit: int,
        history_bytes: int = HISTORY_BYTES,
    ) -> HistoryPage:
        if before:
            parse_position(before)
        reply = await self._run_on("read_history", conversation, before, limit, history_bytes)
        return _decode_history_page(reply)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        found = await self._client.command(partition, "SMEMBERS", partition.members(name))
        return frozenset(member.decode() for member in found)

    async def storage_usage(self, tenant: str, person: str = "") -> StorageUsage:
        size = conversations = 0
        for partition in self._keys.partitions:
            prefix = partition.person_index_prefix(tenant)
            index = prefix + check_name(person, "person") if person else prefix
            keys = (partition.state, partition.queue, index)
            stored, count = await self._client.run("storage_usage", partition, keys)
            size += stored
            conversations += count
        return StorageUsage(bytes=size, conversations=conversations)

    async def queue_depth(self) -> QueueDepth:
        queued = running = 0
        for partition in self._keys.partitions:
            counts = await self._client.command(
                partition, "HMGET", partition.state, "queued", "running"
            )
            queued += int(counts[0] or 0)
            running += int(counts[1] or 0)
        return QueueDepth(queued=queued, running=running)

    async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
        rows: list[UnsettledCount] = []
        for partition in self._keys.partitions:
            keys = partition.conversation_keys("")
            prefix = partition.conversation_prefix
            values = await self._client.run("count_unsettled", partition, keys, prefix)
            rows += [
                UnsettledCount(
                    tenant=tenant.decode(), person=person.decode(), turns=turns, bytes=size
                )
                for tenant, person, turns, size in zip(*[iter(values)] * 4, strict=True)
            ]
        return tuple(rows)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        found: list[DeadLetter] = []
        for partition in self._keys.partitions:
            found += _decode_dead_letters(
                await self._client.run(
                    "list_dead_letters", partition, partition.dead_letter_keys, limit
                )
            )
        found.sort(key=lambda letter: letter.at, reverse=True)
        return tuple(found[: max(limit, 0)])

    async def discard_dead_letter(self, turn: str) -> bool:
        deleted = [
            await self._client.run(
                "discard_dead_letter", partition, partition.dead_letter_keys, turn
            )
            for partition in self._keys.partitions
        ]
        return any(deleted)

    # Lists and shares

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        return await self._lists.read(tenant, person, filter, before, limit)

    async def change_conversation(
        self, conversation: Conversation, person: str, change: ConversationChange
    ) -> ConversationSummary:
        return await self._lists.change(conversation, person, change)

    async def share(
        self, conversation: Conversation, person: str, share: Share, content: bytes, *, epoch: str
    ) -> None:
        await self._lists.share(conversation, person, share, content, epoch)

    async def shares(self, conversation: Conversation) -> tuple[Share, ...]:
        return await self._lists.shares(conversation)

    async def shared_content(self, share: str) -> bytes | None:
        return await self._lists.content(share)

    async def revoke_share(self, conversation: Conversation, share: str) -> bool:
        return await self._lists.revoke(conversation, share)

    # Records of channels

    async def read_record(self, channel: str, key: str) -> Record | None:
        return await self._records.read(channel, key)

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        return await self._records.write(channel, key, value, expect, due_in)

    async def claim_record(self, channel: str, lease: float) -> Record | None:
        return await self._records.claim(channel, lease)

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        await self._records.delete(channel, key, expect)

    async def list_records(
        self, channel: str, prefix: str = "", *, after: str = ""
    ) -> tuple[Record, ...]:
        return await self._records.list(channel, prefix, after)

    # Feedback

    async def give_feedback(
        self, conversation: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        return await self._feedback.give(conversation, person, feedback)

    async def withdraw_feedback(self, conversation: Conversation, person: str, turn: str) -> bool:
        return await self._feedback.withdraw(conversation, person, turn)

    async def feedback(self, conversation: Conversation, person: str) -> tuple[Feedback, ...]:
        name = name_of(conversation)
        return await self._feedback.read(self._keys.partition(name), name, person)

    def rated_replies(
        self, tenant: str, filter: FeedbackFilter, *, history_bytes: int = HISTORY_BYTES
    ) -> AsyncGenerator[RatedReply, None]:
        return self._feedback.rated_replies(tenant, filter, history_bytes)

    # People

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return await self._memories.recall(tenant, person, key)

    async def count_memories(self, tenant: str, person: str) -> int:
        return len(await self._memories.read_all(tenant, person))

    def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        return personal_data.export(self._memories, tenant, person)

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        return await personal_data.erase(
            self._memories,
            tenant,
            person,
            conversation,
            history_kept=self._settings.history_kept,
        )

    async def guarantee(self) -> Guarantee:
        return await self._client.guarantee()

    async def _run_on(
        self, script: str, conversation: Conversation, *arguments: Argument
    ) -> RedisReply:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        return await self._client.run(
            script, partition, partition.conversation_keys(name), *arguments
        )


def _progress(reply: RedisReply) -> Progress:
    index, offset, stop_requested, steering_count = reply
    return Progress(index, offset, stop_requested == 1, steering_count)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
