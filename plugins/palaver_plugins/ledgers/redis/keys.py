"""Keys of the Redis ledger. No other module makes a key.

``<prefix>:{pNN}:<noun>:<tenant>/…``: the hash tag keeps all keys of a script in one slot of a Redis
Cluster. Ids contain none of ``{}:*/`` (see `palaver.messages.check_name`), so that no id can
address another's keys.

    state, queue     of the partition
    c:<name>         a conversation (hash), and with a suffix:
                     :q unsettled turns, :h history, :w history of turns that were stopped while
                     they waited behind unsettled ones, :s stream, :m dedupe records, :o their
                     order, :u members, :x ids of shares, :b the outbox, :e the channel; of one turn
                     :t:<turn> its fields, :r:<turn> the reply, :j:<turn> the journal, :g:<turn> the
                     steering messages; :l:<person> the feedback of a member
    p:<person>       the conversations of a person, or of a tenant
    b:<person>       the bytes that a person or a tenant has stored in each of them
    a:<person>       the conversations of a person by the time of the last message
    x:<share>        a shared snapshot
    k:<person>       the memories about a person that turns of this partition wrote
    d, d:<turn>      dead letters
    l:<person>       the dead letters with messages of a person
    y:<channel>      names of the channel's records; yd:<channel> those that are due, by the time
    y:<channel>:<record>    a record; an outbox is with its conversation
    n:<nonce>        the conversation of a claim, in case its reply is lost

Every key expires, except ``state`` and ``queue``: they contain only counts and the names of
conversations with unsettled turns."""

import zlib
from typing import NamedTuple

from palaver import Conversation, check_name


def scoped(tenant: str, rest: str) -> str:
    """Return ``rest`` with the tenant before it. Every key that has a tenant gets it here."""
    return f"{check_name(tenant, 'tenant')}/{rest}"


class Partition(NamedTuple):
    """Keys of one partition."""

    number: int
    base: str
    state: str
    queue: str
    """Sorted set of conversations; also the channel for new work."""
    conversation_prefix: str
    absent_key: str
    """Key that never exists. While a Cluster moves a slot it refuses commands with a missing key,
    so a script that names this one never runs on half of its keys."""

    @property
    def owner_channel_prefix(self) -> str:
        """Return the prefix of the channels of processes that hold claims."""
        return f"{self.base}w:"

    def claim(self, nonce: str) -> str:
        return f"{self.base}n:{nonce}"

    def conversation(self, name: str) -> str:
        return self.conversation_prefix + name

    def members(self, name: str) -> str:
        """Return the key of the set of people who have sent to a conversation."""
        return f"{self.conversation_prefix}{name}:u"

    def feedback(self, name: str, person: str) -> str:
        """Return the key of the hash of a member's feedback by turn."""
        return f"{self.conversation_prefix}{name}:l:{check_name(person, 'person')}"

    def shares(self, name: str) -> str:
        """Return the key of the list of the ids of a conversation's shares."""
        return f"{self.conversation_prefix}{name}:x"

    def share(self, id: str) -> str:
        return f"{self.base}x:{check_name(id, 'share')}"

    def unsettled_turns(self, name: str) -> str:
        """Return the key of the list of a conversation's unsettled turns."""
        return f"{self.conversation_prefix}{name}:q"

    def turn(self, name: str, turn: str) -> str:
        """Return the key of an unsettled turn."""
        return f"{self.conversation_prefix}{name}:t:{turn}"

    def channel(self, name: str) -> bytes:
        """Return the channel of a conversation's events."""
        return f"{self.conversation_prefix}{name}:e".encode()

    def outbox(self, name: str) -> str:
        return f"{self.conversation_prefix}{name}:b"

    def record_list(self, channel: str) -> str:
        """Return the key of the sorted set of the records of a channel."""
        return f"{self.base}y:{check_name(channel, 'channel')}"

    def due_records(self, channel: str) -> str:
        """Return the key of the sorted set of the records that are due, by the time in ms."""
        return f"{self.base}yd:{check_name(channel, 'channel')}"

    def record_prefix(self, channel: str) -> str:
        return f"{self.record_list(channel)}:"

    def record(self, channel: str, key: str) -> str:
        return self.record_prefix(channel) + key

    @property
    def dead_letters(self) -> str:
        """Return the key of the sorted set of dead letters."""
        return f"{self.base}d"

    def dead_letter(self, turn: str) -> str:
        return f"{self.dead_letters}:{check_name(turn, 'turn')}"

    def conversation_keys(self, name: str) -> tuple[str, str, str]:
        """Return the keys of a script about a conversation."""
        return self.state, self.queue, self.conversation(name)

    @property
    def dead_letter_keys(self) -> tuple[str, str, str]:
        """Return the keys of a script about dead letters."""
        return self.state, self.queue, self.dead_letters

    @property
    def dead_letter_indexes(self) -> str:
        """Return the prefix of the keys of `dead_letter_index`, up to the tenant."""
        return f"{self.base}l:"

    def dead_letter_index_prefix(self, tenant: str) -> str:
        return f"{self.dead_letter_indexes}{scoped(tenant, '')}"

    def dead_letter_index(self, tenant: str, person: str) -> str:
        """Return the key of the dead letters of this partition with messages of the person."""
        return self.dead_letter_index_prefix(tenant) + check_name(person, "person")

    def person_index_prefix(self, tenant: str) -> str:
        return f"{self.base}p:{scoped(tenant, '')}"

    def conversation_list(self, tenant: str, person: str) -> str:
        """Return the key of the conversations of `person_index` by the time of the last message."""
        return f"{self.base}a:{scoped(tenant, check_name(person, 'person'))}"

    def memories_prefix(self, tenant: str) -> str:
        return f"{self.base}k:{scoped(tenant, '')}"

    def memories(self, tenant: str, person: str) -> str:
        """Return the key of the memories about a person that turns of this partition wrote."""
        return self.memories_prefix(tenant) + check_name(person, "person")

    def person_index(self, tenant: str, person: str) -> str:
        """Return the key of the conversations of this partition to which the person has sent."""
        return self.person_index_prefix(tenant) + check_name(person, "person")


class Keys:
    """Key space under ``prefix``, spread over ``partitions``."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.partitions = tuple(_partition(prefix, number) for number in range(partitions))

    def partition(self, name: str) -> Partition:
        """Return the partition of ``name``: the same in every process with this many partitions."""
        partitions = self.partitions
        if len(partitions) == 1:
            return partitions[0]
        return partitions[zlib.crc32(name.encode()) % len(partitions)]


def name_of(conversation: Conversation) -> str:
    """Return the conversation's name in keys and in the queue."""
    return scoped(conversation.tenant, f"{conversation.channel}/{conversation.thread}")


def _partition(prefix: str, number: int) -> Partition:
    base = f"{prefix}:{{p{number:02d}}}:"
    return Partition(number, base, f"{base}state", f"{base}queue", f"{base}c:", f"{base}absent")
