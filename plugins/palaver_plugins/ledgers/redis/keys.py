"""Keys: where everything lives. No other module makes a key.

``<prefix>:{pNN}:<noun>:<tenant>/…``: the hash tag keeps all that one script touches in one slot of
a Redis Cluster. Ids hold none of ``{}:*/`` (see `palaver.messages.check_name`), so that no id
reaches outside its own keys.

    state, queue     the partition's own
    c:<name>…        a conversation: a hash, and with a suffix its turns, stream, history, marks, …
    p:<person>       the conversations of a person
    k:<person>       what is remembered about a person
    d, d:<turn>      dead letters
    n:<nonce>        the answer to a claim, for the case that it is lost on the way

Every key expires, but for ``state`` and ``queue``: they are as old as the partition, and hold
nothing but counts, and the names of conversations with unsettled turns.
"""

import zlib
from typing import NamedTuple

from palaver import Conversation, check_name


def scoped(tenant: str, rest: str) -> str:
    """The one place where a tenant enters a key."""
    return f"{check_name(tenant, 'tenant')}/{rest}"


class Partition(NamedTuple):
    """The keys that all conversations of a partition share."""

    number: int
    base: str
    state: str
    queue: str
    """The sorted set of conversations; also the channel that tells of work."""
    conversation_prefix: str
    """What the key of every conversation begins with."""
    absent_key: str
    """A key that never is. A Cluster that moves a slot refuses commands whose keys are not all
    there: a script that names this one never runs while half of its keys are gone."""

    @property
    def owner_channel_prefix(self) -> str:
        """What the channel of every process that holds claims begins with."""
        return f"{self.base}w:"

    def claim(self, nonce: str) -> str:
        return f"{self.base}n:{nonce}"

    def conversation(self, name: str) -> str:
        return self.conversation_prefix + name

    def members(self, name: str) -> str:
        """The set of people who have sent to a conversation."""
        return f"{self.conversation_prefix}{name}:u"

    def channel(self, name: str) -> bytes:
        """Where a conversation's events are told."""
        return f"{self.conversation_prefix}{name}:e".encode()

    @property
    def dead_letters(self) -> str:
        """The set of turns that were given up."""
        return f"{self.base}d"

    def person_index_prefix(self, tenant: str) -> str:
        """What the key `person` begins with."""
        return f"{self.base}p:{scoped(tenant, '')}"

    def person_index(self, tenant: str, person: str) -> str:
        """The set of conversations of this partition to which the person has sent."""
        return self.person_index_prefix(tenant) + check_name(person, "person")


class Keys:
    """The key space under ``prefix``, spread over ``partitions``."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.partitions = tuple(_partition(prefix, number) for number in range(partitions))

    def partition(self, name: str) -> Partition:
        """Where ``name`` lives: the same in every process, for as long as the count is."""
        partitions = self.partitions
        if len(partitions) == 1:
            return partitions[0]
        return partitions[zlib.crc32(name.encode()) % len(partitions)]

    def memories(self, tenant: str, person: str) -> tuple[Partition, str]:
        """The partition and the key of what is remembered about a person."""
        name = scoped(tenant, check_name(person, "person"))
        partition = self.partition(name)
        return partition, f"{partition.base}k:{name}"


def name_of(conversation: Conversation) -> str:
    """The conversation's name, in keys and in the queue."""
    return scoped(conversation.tenant, f"{conversation.channel}/{conversation.thread}")


def _partition(prefix: str, number: int) -> Partition:
    base = f"{prefix}:{{p{number:02d}}}:"
    return Partition(number, base, f"{base}state", f"{base}queue", f"{base}c:", f"{base}absent")
