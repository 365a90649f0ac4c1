"""Measure tokens per second, time to first text and gaps: websockets and a real engine.

All streams begin at once, as in ``benchmarks.engines``. Runs in its own process::

    python -m benchmarks.streams URL STREAMS ROUNDS
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
import uuid

import aiohttp

Round = tuple[float, int, list[list[float]]]


async def stream_turn(
    session: aiohttp.ClientSession, url: str, number: int, start: asyncio.Barrier
) -> tuple[int, list[float], float]:
    """Run one turn. Return its tokens, the times of its texts and of its end in seconds."""
    async with session.ws_connect(url + "ws", max_msg_size=0) as socket:
        thread = uuid.uuid4().hex
        await socket.send_json({"type": "hello", "thread": thread, "person": thread})
        await socket.receive()
        await start.wait()
        began = time.perf_counter()
        prompt = f"Tell me about the weather, part {number} of {thread}"
        await socket.send_json({"type": "send", "id": "1", "text": prompt, "skill": "relay"})
        times: list[float] = []
        while True:
            frame = json.loads(await socket.receive_str())
            now = time.perf_counter() - began
            if frame["type"] == "text":
                times.append(now)
            elif frame["type"] == "finished":
                return frame["usage"]["completion_tokens"], times, now


async def run_round(url: str, streams: int) -> Round:
    start = asyncio.Barrier(streams)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        turns = [stream_turn(session, url, number, start) for number in range(streams)]
        results = await asyncio.gather(*turns)
    return (
        max(end for _, _, end in results),
        sum(tokens for tokens, _, _ in results),
        [times for _, times, _ in results],
    )


def median_figures(rounds: list[Round]) -> dict[str, float]:
    """Return medians over the rounds; times in milliseconds."""

    def of(one: Round) -> tuple[float, float, float, float]:
        seconds, tokens, arrivals = one
        gaps = sorted(b - a for times in arrivals for a, b in itertools.pairwise(times)) or [0.0]
        first = statistics.median(times[0] for times in arrivals)
        middle, late = gaps[len(gaps) // 2], gaps[len(gaps) * 99 // 100]
        return tokens / seconds, first * 1e3, middle * 1e3, late * 1e3

    columns = zip(*map(of, rounds), strict=True)
    names = ("tokens_per_second", "first_p50", "gap_p50", "gap_p99")
    return {name: statistics.median(column) for name, column in zip(names, columns, strict=True)}


async def measure_streams(url: str, streams: int, rounds: int) -> dict[str, float]:
    await run_round(url, streams)  # warm-up
    return median_figures([await run_round(url, streams) for _ in range(rounds)])


def main() -> None:
    url, streams, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(json.dumps(asyncio.run(measure_streams(url, streams, rounds))) + "\n")


if __name__ == "__main__":
    main()
