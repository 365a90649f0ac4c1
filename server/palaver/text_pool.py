"""Text pool: threads for work on long texts, which would stall the event loop.

Such work must take linear time: one call of a C function (a search, a split) stalls the loop from
a thread as well, unless it releases the interpreter's lock.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SHORT_TEXT = 1_000
"""Characters up to which a text is worked on in the event loop: a millisecond or two."""
THREADS = 2
"""Threads of the process: each more may delay the event loop by another 5 milliseconds."""

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="palaver-text")


async def run_on_text(
    work: Callable[Concatenate[str, P], T], text: str, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return ``work(text, …)``: of a long text from a thread, so that the event loop goes on."""
    if len(text) <= SHORT_TEXT:
        return work(text, *args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, lambda: work(text, *args, **kwargs))
