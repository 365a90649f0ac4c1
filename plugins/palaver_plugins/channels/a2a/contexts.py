"""Contexts and tasks: where the server has what A2A names.

A context is a conversation of one person; nobody else can name it. A task is a turn, together with
the turns that answer its questions. Both ids tell where the conversation is, so that no server has
to remember them.
"""

import base64
import binascii
import dataclasses
import hashlib

from palaver import Conversation, Principal
from palaver_plugins.channels.a2a.errors import InvalidParams, TaskNotFound

CHANNEL = "a2a"
MAX_CONTEXT_BYTES = 130
"""Bytes of a context's id in UTF-8."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Whose contexts and tasks a request may name."""

    tenant: str
    person: str

    @classmethod
    def of(cls, principal: Principal, person: str | None) -> "Caller":
        return cls(principal.tenant, principal.resolve_person(person))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.person.encode()).hexdigest()[:16]

    @property
    def tenant_digest(self) -> str:
        """Return what stands for the caller in the keys of records of all tenants."""
        return hashlib.sha256(f"{self.tenant}\0{self.person}".encode()).hexdigest()[:32]

    def conversation(self, context_id: str) -> Conversation:
        return Conversation(self.tenant, CHANNEL, f"{self.digest}.{_encode(context_id)}")


@dataclasses.dataclass(frozen=True, slots=True)
class TaskName:
    """Where a task is: its context, and its first turn."""

    context_id: str
    turn: str

    def __str__(self) -> str:
        return f"{_encode(self.context_id)}.{self.turn}"

    @classmethod
    def parse(cls, text: str) -> "TaskName":
        """Return the name that ``str`` has written. Raises `TaskNotFound`."""
        context, _, turn = text.rpartition(".")
        context_id = _decode(context)
        if not context_id or not turn.isascii() or not turn.isalnum() or len(turn) > 64:
            raise TaskNotFound
        return cls(context_id, turn)


def context_of(conversation: Conversation) -> str:
    """Return the context of a conversation of this channel."""
    return _decode(conversation.thread.partition(".")[2])


def check_context(context_id: str) -> str:
    """Return the id of a context. Raises `InvalidParams` for one that is too long."""
    try:
        size = len(context_id.encode())
    except UnicodeEncodeError:
        size = MAX_CONTEXT_BYTES + 1
    if size > MAX_CONTEXT_BYTES:
        raise InvalidParams(
            f"a context's id may have {MAX_CONTEXT_BYTES} bytes", "message.contextId"
        )
    return context_id


def context_for(caller: Caller, message_id: str) -> str:
    """Return the context of a message that names none: the same when it is sent again."""
    return hashlib.sha256(f"{caller.person}\0{message_id}".encode()).hexdigest()[:32]


def message_id_for(message_id: str) -> str:
    """Return the id under which the ledger knows a message of the caller."""
    return hashlib.sha256(f"{CHANNEL}\0{message_id}".encode()).hexdigest()[:32]


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _decode(text: str) -> str:
    """Return what `_encode` was given; empty for anything else."""
    if not text.isascii() or len(text) > 4 * MAX_CONTEXT_BYTES:
        return ""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = decoded.decode()
    except (binascii.Error, ValueError):
        return ""
    return found if _encode(found) == text else ""
