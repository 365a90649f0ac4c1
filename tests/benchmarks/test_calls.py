"""The path of a message stays short: function calls per turn are bounded."""

from benchmarks.calls import measure, package_of

MAX_CALLS = 1_500
"""For a turn of 32 chunks that come together, with the ledger in memory, C functions included."""


def test_a_turn_takes_few_function_calls() -> None:
    # Timers of a slow machine add calls: the best of three is free of them.
    calls = min((measure(turns=50) for _ in range(3)), key=lambda found: found["total"])
    assert 500 < calls["total"] <= MAX_CALLS, calls


def test_functions_belong_to_their_package() -> None:
    assert package_of("/x/server/palaver/turns/writer.py") == "palaver.turns"
    assert package_of("/x/server/palaver/pipeline.py") == "palaver.pipeline"
    assert package_of("/x/site-packages/aiohttp/web.py") == "aiohttp"
    assert package_of("/usr/lib/python3.11/asyncio/events.py") == "asyncio"
    assert package_of("/usr/lib/python3.11/json/decoder.py") == "standard library"
    assert package_of("~") == "built-in"
