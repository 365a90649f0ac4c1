"""Scripts: the Lua that makes each method of the ledger one atomic step in Redis.

Redis runs a script by its SHA-1; the parts that scripts share are put together here, since a
script cannot include another.
"""

import hashlib
import re
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

PARTS: dict[str, tuple[str, ...]] = {
    "rights": ("rights",),
    "attest": ("attest",),
    "accept": ("common", "expiry", "events", "turns", "policies", "accept"),
    "claim": ("common", "claim"),
    "append": ("common", "expiry", "events", "entries", "owner", "append"),
    "settle": (
        "common",
        "expiry",
        "events",
        "turns",
        "entries",
        "letters",
        "bury",
        "owner",
        "settle",
    ),
    "steering": ("common", "expiry", "owner", "steering"),
    "release": ("common", "expiry", "events", "owner", "release"),
    "stop": ("common", "stop"),
    "read": ("common", "read"),
    "snapshot": ("common", "snapshot"),
    "unsettled": ("common", "unsettled"),
    "dead_letters": ("common", "letters", "dead_letters"),
    "discard": ("common", "letters", "discard"),
    "export": ("common", "export"),
    "export_letters": ("common", "letters", "export_letters"),
    "erase": ("common", "expiry", "events", "turns", "erase"),
    "erase_letters": ("common", "letters", "erase_letters"),
}


class Script(NamedTuple):
    """``sha`` is how Redis knows ``source`` once it has been loaded."""

    name: str
    source: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """Every script by name. Reads files: not for the event loop."""
    folder = resources.files(__package__) / "lua"
    sources = {
        name: "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        for name, parts in PARTS.items()
    }
    return {name: make_script(name, source) for name, source in sources.items()}


def make_script(name: str, source: str) -> Script:
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha)


def commands_of(scripts: Iterable[Script]) -> frozenset[str]:
    """The commands that the scripts call, in lower case."""
    found = (re.findall(r"redis\.p?call\(['\"](\w+)['\"]", each.source) for each in scripts)
    return frozenset(name.lower() for names in found for name in names)
