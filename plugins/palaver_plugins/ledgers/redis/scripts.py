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
    "accept": ("common", "events", "accept"),
    "claim": ("common", "claim"),
    "append": ("common", "events", "entries", "owner", "append"),
    "settle": ("common", "events", "entries", "owner", "settle"),
    "release": ("common", "events", "owner", "release"),
    "stop": ("common", "stop"),
    "read": ("common", "read"),
    "snapshot": ("common", "snapshot"),
    "export": ("common", "export"),
    "erase": ("common", "events", "erase"),
}


class Script(NamedTuple):
    """``sha`` is how Redis knows ``source`` once it has been loaded."""

    name: str
    source: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """Every script by name. Reads files: not for the event loop."""
    folder = resources.files(__package__) / "lua"
    scripts = {}
    for name, parts in PARTS.items():
        source = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        scripts[name] = Script(name, source, sha)
    return scripts


def commands_of(scripts: Iterable[Script]) -> frozenset[str]:
    """The commands that the scripts call, in lower case."""
    found = (re.findall(r"redis\.p?call\(['\"](\w+)['\"]", each.source) for each in scripts)
    return frozenset(name.lower() for names in found for name in names)
