"""Nodes: the links of one process, and which of them leads to where a partition lives.

Everything is on the first, unless that is a node of a Redis Cluster: then it says of a partition
that it has MOVED, or, while that goes on, to ASK another node.
"""

from collections import deque
from collections.abc import Callable, Sequence

from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.node_client import Locate, NodeClient


class SeedAddresses:
    """Addresses that are tried in turn; any of them will do."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = deque(addresses)

    async def locate(self) -> Address:
        self._addresses.rotate(-1)
        return self._addresses[-1]

    def add(self, address: Address) -> None:
        if address not in self._addresses:
            self._addresses.append(address)


class NodePool:
    """``first`` is made with ``make`` like all others, goes where ``locate`` says, and hears what
    is published. Every node that is heard of becomes a seed."""

    def __init__(
        self, locate: Locate, seeds: SeedAddresses, make: Callable[[Locate], NodeClient]
    ) -> None:
        self.first = make(locate)
        self._seeds = seeds
        self._make_node = make
        self._others: dict[Address, NodeClient] = {}
        self._assigned: dict[int, NodeClient] = {}

    def node_for(self, partition: Partition) -> NodeClient:
        """The link to ask for ``partition``. While the node of it is away that is the first, which
        may know of another."""
        home = self._assigned.get(partition.number)
        return home if home is not None and home.is_connected else self.first

    def node_at(self, place: str, said_by: NodeClient) -> NodeClient:
        """The link to the node that ``said_by`` calls ``<slot> <host>:<port>``."""
        host, _, port = place.rpartition(" ")[2].rpartition(":")
        address = said_by.connected_address._replace(
            host=host or said_by.connected_address.host, port=int(port)
        )
        if address == self.first.address:
            return self.first
        if address not in self._others:
            self._seeds.add(address)
            self._others[address] = self._make_node(SeedAddresses([address]).locate)
            self._others[address].start_in_background()
        return self._others[address]

    async def assign(self, partition: Partition, home: NodeClient) -> None:
        """``partition`` lives there from now on; a link that leads to none any more is closed."""
        old = self._assigned.get(partition.number)
        self._assigned[partition.number] = home
        if old is not None and old not in (self.first, *self._assigned.values()):
            self._others = {at: link for at, link in self._others.items() if link is not old}
            await old.close()

    async def close(self) -> None:
        for link in (self.first, *self._others.values()):
            await link.close()
        self._others.clear()
        self._assigned.clear()
