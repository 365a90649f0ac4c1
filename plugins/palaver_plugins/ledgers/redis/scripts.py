"""Lua scripts: each makes a method of the ledger one atomic step in Redis.

Redis runs a script by its SHA-1. The parts that scripts share are concatenated here, as a script
cannot include another.
"""

import hashlib
import re
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

PARTS: dict[str, tuple[str, ...]] = {
    "permissions": ("permissions",),
    "register_run": ("register_run",),
    "accept": (
        "common",
        "expiry",
        "storage",
        "events",
        "alternatives",
        "feedback",
        "turns",
        "concurrency",
        "branches",
        "records",
        "accept",
    ),
    "select": ("common", "expiry", "alternatives", "branches", "select"),
    "revise": ("common", "expiry", "storage", "alternatives", "branches", "revise"),
    "change_waiting": (
        "common",
        "expiry",
        "storage",
        "events",
        "alternatives",
        "feedback",
        "turns",
        "change_waiting",
    ),
    "storage_usage": ("common", "expiry", "storage_usage"),
    "claim": ("common", "history", "claim"),
    "append": ("common", "expiry", "events", "memories", "entries", "fence", "append"),
    "settle": (
        "common",
        "expiry",
        "events",
        "alternatives",
        "feedback",
        "turns",
        "memories",
        "entries",
        "claims",
        "dead_letters",
        "store_dead_letter",
        "fence",
        "settle",
    ),
    "read_steering": ("common", "expiry", "fence", "read_steering"),
    "release": ("common", "expiry", "events", "claims", "fence", "release"),
    "stop": ("common", "expiry", "events", "alternatives", "feedback", "turns", "stop"),
    "read": ("common", "read"),
    "snapshot": ("common", "history", "snapshot"),
    "read_history": ("common", "history", "read_history"),
    "list_conversations": ("common", "list_conversations"),
    "change_conversation": ("common", "change_conversation"),
    "share": ("common", "expiry", "share"),
    "revoke_share": ("common", "revoke_share"),
    "write_record": ("common", "expiry", "records", "write_record"),
    "claim_record": ("common", "expiry", "records", "claim_record"),
    "delete_record": ("common", "expiry", "records", "delete_record"),
    "give_feedback": ("common", "expiry", "feedback", "give_feedback"),
    "withdraw_feedback": ("common", "withdraw_feedback"),
    "list_feedback": ("common", "feedback", "list_feedback"),
    "read_rated": ("common", "expiry", "alternatives", "feedback", "read_rated"),
    "count_unsettled": ("common", "count_unsettled"),
    "list_dead_letters": ("common", "dead_letters", "list_dead_letters"),
    "discard_dead_letter": ("common", "dead_letters", "discard_dead_letter"),
    "export": ("common", "history", "export"),
    "export_pending": ("common", "export_pending"),
    "export_dead_letters": ("common", "dead_letters", "export_dead_letters"),
    "erase_some": ("common", "expiry", "alternatives", "feedback", "erase_history", "erase_some"),
    "erase": (
        "common",
        "expiry",
        "events",
        "alternatives",
        "feedback",
        "turns",
        "claims",
        "erase_history",
        "erase",
    ),
    "index_dead_letters": ("common", "dead_letters", "index_dead_letters"),
    "erase_dead_letters": ("common", "dead_letters", "erase_dead_letters"),
}


REFUSED_WHEN_FULL = frozenset({"accept", "give_feedback", "revise"})
"""Scripts that Redis refuses at its ``maxmemory``. The others run: a turn always ends."""


class Script(NamedTuple):
    """Lua ``source`` and its SHA-1, by which Redis runs it once it is loaded."""

    name: str
    source: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """Return every script by name. Reads files: do not call it in the event loop."""
    folder = resources.files(__package__) / "lua"
    sources = {
        name: _flags(name)
        + "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        for name, parts in PARTS.items()
    }
    return {name: make_script(name, source) for name, source in sources.items()}


def _flags(name: str) -> str:
    """Return the first line, which also lets Redis refuse a script before it begins."""
    return "#!lua\n" if name in REFUSED_WHEN_FULL else "#!lua flags=allow-oom\n"


def make_script(name: str, source: str) -> Script:
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha)


def commands_of(scripts: Iterable[Script]) -> frozenset[str]:
    """Return the commands that the scripts call, in lower case."""
    found = (re.findall(r"redis\.p?call\(\s*['\"](\w+)['\"]", script.source) for script in scripts)
    return frozenset(name.lower() for names in found for name in names)
