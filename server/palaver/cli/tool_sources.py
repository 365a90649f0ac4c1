"""Sources of tools, for commands: what is wrong with them."""

import asyncio
import os
from collections.abc import Mapping, Sequence

from palaver.cli.local_server import ask_server
from palaver.errors import PalaverError, contained, describe_raised
from palaver.tool_sources import ToolSource

CHECK_TIMEOUT = 60.0
"""Seconds in which a source has to check itself. Other programs may have to start."""


async def find_source_problems(address: str) -> dict[str, Sequence[str]]:
    """Return what is wrong with each source of the server at an address, by name."""
    token = os.environ.get("PALAVER_TOKEN")
    answer = await ask_server("GET", f"{address}/v1/tool-sources", token=token)
    return {source["name"]: source["problems"] for source in answer["sources"]}


async def check_sources(sources: Mapping[str, ToolSource]) -> dict[str, Sequence[str]]:
    """Return what is wrong with each source, by name. They are asked side by side."""
    problems = await asyncio.gather(*map(_check, sources.values()))
    return dict(zip(sources, problems, strict=True))


async def _check(source: ToolSource) -> Sequence[str]:
    try:
        with contained("its check"):
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await source.check()
    except TimeoutError:
        return (f"its programs did not answer within {CHECK_TIMEOUT:g} s",)
    except PalaverError as error:
        return (str(error),)
    except Exception as error:  # noqa: BLE001  the barrier of a source
        return (f"its check failed: {describe_raised(error)}",)
