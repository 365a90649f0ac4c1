"""The path of a message stays short: function calls per turn are bounded."""

import pytest
from benchmarks.calls import measure, package_of

pytestmark = pytest.mark.slow

MAX_CALLS = 1_660
"""For a turn of 32 chunks that come together, with the ledger in memory, C functions included."""


def test_a_turn_takes_few_function_calls() -> None:
    # Timers of a busy machine add calls: one measurement that is free of them is enough.
    for _ in range(10):
        calls = measure(turns=50)
        if calls["total"] <= MAX_CALLS:
            break
    assert 500 < calls["total"] <= MAX_CALLS, calls


def test_functions_belong_to_their_package() -> None:
    assert package_of("/x/server/palaver/turns/writer.py") == "palaver.turns"
    assert package_of("/x/server/palaver/pipeline.py") == "palaver.pipeline"
    assert package_of("/x/site-packages/aiohttp/web.py") == "aiohttp"
    assert package_of("/usr/lib/python3.11/asyncio/events.py") == "asyncio"
    assert package_of("/usr/lib/python3.11/json/decoder.py") == "standard library"
    assert package_of("~") == "built-in"
