"""Definition: a tool of another program, cleaned, named and identified by a digest."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Json = Any  # JSON values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A tool of another program. ``tool`` is that program's name of it, ``name`` that of the tool
    here; ``problem``: why it cannot be used, or empty."""

    tool: str
    name: str
    description: str
    schema: Mapping[str, Json]
    digest: str
    problem: str = ""
    read_only: bool = False
    idempotent: bool = False
    needs_approval: bool = False
