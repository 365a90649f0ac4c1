"""Lists of conversations, titles and shared snapshots in the Redis ledger.

Each partition has a list of its own: a list of all of them is put together here."""

from typing import NamedTuple

from palaver import (
    MAX_SHARES,
    Conversation,
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    Share,
    check_share,
    list_position,
    not_in_list,
    parse_list_position,
)
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of


class Position(NamedTuple):
    """Time of a conversation in the list, in milliseconds, and its name."""

    milliseconds: int
    name: str

    def __str__(self) -> str:
        return list_position(self.milliseconds / 1000, self.name)


class ConversationLists(NamedTuple):
    """The lists and shares in all partitions."""

    client: RedisClient
    keys: Keys

    async def read(
        self, tenant: str, person: str, filter: ConversationFilter, before: str, limit: int
    ) -> ConversationList:
        time, name = parse_list_position(before)
        start = Position(round(time * 1000), name) if before else None
        found: list[tuple[Position, ConversationSummary]] = []
        unread: list[Position] = []
        for partition in self.keys.partitions:
            rows, end = await self._read(partition, tenant, person, filter, start, limit)
            found += rows
            unread += [end] if end else []
        # What a partition has not been asked for yet may come before what another one gave.
        complete_to = max(unread, default=None)
        found.sort(key=lambda item: item[0], reverse=True)
        known = [item for item in found if complete_to is None or item[0] >= complete_to]
        following = known[limit - 1][0] if len(known) > limit else complete_to
        return ConversationList(
            conversations=tuple(summary for _, summary in known[:limit]),
            next=str(following) if following else "",
        )

    async def _read(
        self,
        partition: Partition,
        tenant: str,
        person: str,
        filter: ConversationFilter,
        start: Position | None,
        limit: int,
    ) -> tuple[list[tuple[Position, ConversationSummary]], Position | None]:
        """Return conversations of one partition, and up to where it was read if not to its end."""
        rows, end = await self.client.run(
            "list_conversations",
            partition,
            (partition.state, partition.queue, partition.conversation_list(tenant, person)),
            partition.conversation_prefix,
            person,
            filter.channel,
            int(filter.archived),
            int(filter.pinned),
            start.milliseconds if start else "+inf",
            start.name if start else "",
            limit,
        )
        found = []
        for name, time, title, pinned, archived in rows:
            position = Position(int(time), name.decode())
            summary = _summary(Conversation.parse(position.name), time, title, pinned, archived)
            found.append((position, summary))
        return found, Position(int(end[0]), end[1].decode()) if end else None

    async def change(
        self, conversation: Conversation, person: str, change: ConversationChange
    ) -> ConversationSummary:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        found = await self.client.run(
            "change_conversation",
            partition,
            (
                *partition.conversation_keys(name),
                partition.conversation_list(conversation.tenant, person),
            ),
            name,
            person,
            int(change.title is not None),
            change.title or "",
            int(change.only_untitled),
            "" if change.pinned is None else int(change.pinned),
            "" if change.archived is None else int(change.archived),
        )
        if found is None:
            raise not_in_list(conversation, person)
        return _summary(conversation, *found)

    async def titles(self, names: list[tuple[Partition, str]]) -> dict[str, str]:
        """Return the titles of those conversations that have one, by name."""
        found = {
            name: await self.client.command(
                partition, "HGET", partition.conversation(name), "title"
            )
            for partition, name in names
        }
        return {name: title.decode() for name, title in found.items() if title}

    async def share(
        self, conversation: Conversation, person: str, share: Share, content: bytes, epoch: str
    ) -> None:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        is_member, current_epoch, ids = await self.client.run(
            "share",
            partition,
            (*partition.conversation_keys(name), partition.share(share.id)),
            person,
            share.id,
            repr(share.at),
            content,
            epoch,
            MAX_SHARES,
        )
        if not is_member:
            raise not_in_list(conversation, person)
        known = tuple(id.decode() for id in ids)
        check_share(epoch, current_epoch.decode(), share, known)

    async def shares(self, conversation: Conversation) -> tuple[Share, ...]:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        key = partition.shares(name)
        ids = [id.decode() for id in await self.client.command(partition, "LRANGE", key, 0, -1)]
        times = [
            await self.client.command(partition, "HGET", partition.share(id), "at") for id in ids
        ]
        return tuple(
            Share(id=id, at=float(at)) for id, at in zip(ids, times, strict=True) if at is not None
        )

    async def content(self, share: str) -> bytes | None:
        for partition in self.keys.partitions:
            key = partition.share(share)
            if content := await self.client.command(partition, "HGET", key, "content"):
                found: bytes = content
                return found
        return None

    async def revoke(self, conversation: Conversation, share: str) -> bool:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        keys = (*partition.conversation_keys(name), partition.share(share))
        return bool(await self.client.run("revoke_share", partition, keys, share))


def _summary(
    conversation: Conversation, time: bytes, title: bytes, pinned: bytes, archived: bytes
) -> ConversationSummary:
    return ConversationSummary(
        conversation=conversation,
        active_at=int(time) / 1000,
        title=title.decode(),
        pinned=pinned == b"1",
        archived=archived == b"1",
    )
