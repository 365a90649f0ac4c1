"""Tool: a typed function that skills and models call."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that skills may call. ``run`` gets validated ``arguments``.

    ``idempotent``: running it twice has the effect of running it once; only such a tool is run
    again when a turn is taken over in the middle of the call.
    """

    name: str
    description: str
    arguments: type[pydantic.BaseModel]
    run: Callable[[Any], Awaitable[str]]  # Any: an instance of `arguments`
    idempotent: bool = False
