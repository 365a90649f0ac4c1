"""Storage quotas: decide whether a person and a tenant may store a message."""

from palaver.errors import TooMany
from palaver.ledger import ConcurrencyPolicies, StorageQuota, StorageUsage

RETRY_AFTER = 3600.0
"""Seconds after which a client may try again: somebody has to delete something first."""


def check_storage(
    size: int,
    policies: ConcurrencyPolicies,
    person: StorageUsage,
    tenant: StorageUsage,
    *,
    is_new: bool,
    is_member: bool,
) -> None:
    """Raise `TooMany` when ``size`` more bytes are beyond a quota. ``is_new``: it begins a
    conversation; ``is_member``: its author has written to the conversation before."""
    for owner, usage, quota, added in (
        ("person", person, policies.person_storage, not is_member),
        ("tenant", tenant, policies.tenant_storage, is_new),
    ):
        if excess := _excess(usage, quota, size, int(added)):
            raise storage_exceeded(owner, excess)


def _excess(usage: StorageUsage, quota: StorageQuota, size: int, conversations: int) -> str:
    """Return the name of the limit that would be exceeded, or an empty string."""
    if quota.bytes is not None and usage.bytes + size > quota.bytes:
        return "stored_bytes"
    if (
        quota.conversations is not None
        and conversations
        and usage.conversations + conversations > quota.conversations
    ):
        return "conversations"
    return ""


def storage_exceeded(owner: str, limit: str) -> TooMany:
    """Return the error for a person or a tenant that has stored as much as it may."""
    whose = "you have" if owner == "person" else "your organisation has"
    what = "messages" if limit == "stored_bytes" else "conversations"
    detail = (
        f"{whose} stored as many {what} as allowed (admission.{owner}.{limit}); erase data, or ask "
        "the operator for more"
    )
    return TooMany(detail, retry_after=RETRY_AFTER, reason=f"{owner}_{limit}")


def reply_size(reply: str) -> int:
    """Return the bytes that a reply counts."""
    return len(reply) if reply.isascii() else len(reply.encode())
