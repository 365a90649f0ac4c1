"""Clients of all Redis nodes that a process uses, and the node of each partition.

Every partition is on the first node, unless that is a node of a Redis Cluster. Then the node
answers MOVED, or, during a migration, ASK, with the address of another node."""

from collections import deque
from collections.abc import Callable, Sequence

from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.node_client import Locate, NodeClient


class SeedAddresses:
    """Addresses to try in turn."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = deque(addresses)

    async def locate(self) -> Address:
        """Return the next address."""
        self._addresses.rotate(-1)
        return self._addresses[-1]

    def add(self, address: Address) -> None:
        if address not in self._addresses:
            self._addresses.append(address)


class NodePool:
    """Node clients, made by ``make_node``. The ``first`` one connects where ``locate`` says and
    receives published messages. Every known node becomes a seed."""

    def __init__(
        self, locate: Locate, seeds: SeedAddresses, make_node: Callable[[Locate], NodeClient]
    ) -> None:
        self.first = make_node(locate)
        self._seeds = seeds
        self._make_node = make_node
        self._others: dict[Address, NodeClient] = {}
        self._assigned: dict[int, NodeClient] = {}

    def node_for(self, partition: Partition) -> NodeClient:
        """Return the node of ``partition``; while it is disconnected, the first node, which may
        redirect to another."""
        node = self._assigned.get(partition.number)
        return node if node is not None and node.is_connected else self.first

    def node_at(self, location: str, source: NodeClient) -> NodeClient:
        """Return the node that ``source`` named as ``<slot> <host>:<port>``."""
        host, _, port = location.rpartition(" ")[2].rpartition(":")
        known = source.connected_address
        address = known._replace(host=host or known.host, port=int(port))
        if address == self.first.address:
            return self.first
        if address not in self._others:
            self._seeds.add(address)
            self._others[address] = self._make_node(SeedAddresses([address]).locate)
            self._others[address].start_in_background()
        return self._others[address]

    async def assign(self, partition: Partition, node: NodeClient) -> None:
        """Record the new node of a partition, and close the old one if no partition uses it."""
        old = self._assigned.get(partition.number)
        self._assigned[partition.number] = node
        if old is not None and old not in (self.first, *self._assigned.values()):
            self._others = {at: other for at, other in self._others.items() if other is not old}
            await old.close()

    async def close(self) -> None:
        for node in (self.first, *self._others.values()):
            await node.close()
        self._others.clear()
        self._assigned.clear()
