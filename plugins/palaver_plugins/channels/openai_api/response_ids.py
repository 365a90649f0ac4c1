"""Ids of responses, conversations and items: each says where the ledger has the thing.

A response is a turn. Its id is ``resp_``, the thread of its conversation (after ``k`` where the
conversation has an id of its own) and its turn; an item's ends in its place in the response's input
or output.
"""

import re
from typing import NamedTuple

from palaver import Conversation, new_id
from palaver_plugins.channels.openai_api.errors import NoSuchObject

_CONVERSATION = re.compile(r"conv_[0-9a-f]{32}")
_RESPONSE = re.compile(r"resp_(k?)([0-9a-f]{32})([0-9a-zA-Z-]{1,64})")
_ITEM = re.compile(r"[a-z]{2,8}_(k?[0-9a-f]{32}[0-9a-zA-Z-]{1,64})_(i?)([0-9]{1,4})")


def new_conversation_id() -> str:
    return f"conv_{new_id()}"


def check_conversation_id(id: str) -> str:
    """Return the thread of a conversation. Raises `NoSuchObject`."""
    if not _CONVERSATION.fullmatch(id):
        raise NoSuchObject("conversation", id)
    return id


class ResponseId(NamedTuple):
    """Where the ledger has a response."""

    conversation: Conversation
    turn: str

    @classmethod
    def parse(cls, id: str, tenant: str, channel: str) -> "ResponseId":
        """Return the value that ``str`` has written. Raises `NoSuchObject`."""
        found = _RESPONSE.fullmatch(id)
        if found is None:
            raise NoSuchObject("response", id)
        is_kept, thread, turn = found.groups()
        return cls(Conversation(tenant, channel, f"conv_{thread}" if is_kept else thread), turn)

    @property
    def is_in_conversation(self) -> bool:
        """Return whether the response belongs to a conversation that has an id of its own."""
        return self.conversation.thread.startswith("conv_")

    @property
    def tail(self) -> str:
        thread = self.conversation.thread
        return (
            f"k{thread.removeprefix('conv_')}{self.turn}"
            if self.is_in_conversation
            else f"{thread}{self.turn}"
        )

    def __str__(self) -> str:
        return f"resp_{self.tail}"

    def item(self, prefix: str, index: int) -> str:
        """Return the id of an item of the output."""
        return f"{prefix}_{self.tail}_{index}"

    def input_item(self, index: int) -> str:
        """Return the id of an item of the input."""
        return f"msg_{self.tail}_i{index}"


class ItemId(NamedTuple):
    """Where the ledger has an item."""

    response: ResponseId
    is_input: bool
    place: int

    @classmethod
    def parse(cls, id: str, tenant: str, channel: str) -> "ItemId":
        """Return the place of an item. Raises `NoSuchObject`."""
        found = _ITEM.fullmatch(id)
        if found is None:
            raise NoSuchObject("item", id)
        response = ResponseId.parse(f"resp_{found[1]}", tenant, channel)
        return cls(response, bool(found[2]), int(found[3]))
