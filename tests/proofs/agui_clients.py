"""Official clients of AG-UI that talk through a load balancer while replicas are killed."""

import asyncio
import json
from collections import Counter
from typing import Any

from tests.chaos.findings import Findings
from tests.live.agui_client import Json, talking_clients
from tests.proofs.reference_plugin import reply_to

TURN_SECONDS = 60.0
"""Seconds after which a turn without an end is lost."""


HISTORY = 40
"""Messages of a thread that a new client gets, see the setting ``dispatch.history``."""


class AguiClients:
    """Clients that each talk in a thread of their own, and post a run again when its connection is
    lost. ``resumed`` counts the further posts, ``snapshots`` those of the messages, ``results``
    the results of the tool."""

    def __init__(self, url: str) -> None:
        self.findings = Findings()
        self.count = 0
        """Turns with an end, or without one in time."""
        self.resumed = 0
        self.snapshots = 0
        self.results: Counter[str] = Counter()
        self._url = url
        self._said: dict[str, list[str]] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no further turn."""
        self._stopping.set()

    async def run(self, count: int) -> None:
        """Run ``count`` clients until `stop`, and compare what the threads have in the end."""
        scenario = {"url": self._url, "threads": count, "seconds": TURN_SECONDS}
        async with talking_clients(**scenario) as process, asyncio.TaskGroup() as group:
            assert process.stdin is not None
            assert process.stdout is not None
            group.create_task(self._close(process.stdin))
            async for line in process.stdout:
                seen: Json = json.loads(line)
                if "restored" in seen:
                    self._compare(seen)
                else:
                    self._check(seen)
            self.stop()
            assert await process.wait() == 0, "the clients have failed"

    async def _close(self, stdin: asyncio.StreamWriter) -> None:
        await self._stopping.wait()
        stdin.close()

    def _check(self, seen: Json) -> None:
        """Check what a client has of one turn."""
        self.count += 1
        self.resumed += seen["posts"] - 1
        self.snapshots += seen["snapshots"]
        text = seen["text"]
        self._said.setdefault(text.split()[0], []).append(text)
        if seen["outcome"] is None:
            self.findings.record("lost", f"no end of {text!r}")
            return
        if seen["outcome"] != {"type": "success"}:
            self.findings.record("wrong", f"{text!r} ended with {seen['outcome']}")
        messages = seen["messages"]
        by_role: dict[str, list[Any]] = {"user": [], "assistant": [], "tool": []}
        for message in messages:
            by_role[message["role"]].append(message["content"])
        self._check_all(f"{text!r}", by_role["user"], [text])
        self._check_all(f"the reply to {text!r}", by_role["assistant"], [reply_to(text)])
        calls = [call["id"] for each in messages for call in each.get("toolCalls") or ()]
        results = [each["toolCallId"] for each in messages if each["role"] == "tool"]
        self._check_all(f"the calls of {text!r}", calls, results)
        self._check_all(f"the number of calls of {text!r}", [str(len(calls))], ["1"])
        self.results.update(by_role["tool"])

    def _compare(self, seen: Json) -> None:
        """Compare the threads, as a new client gets them, with what was said last."""
        for event in seen["refused"]:
            self.findings.record("wrong", f"the protocol's schemas refuse {str(event)[:200]}")
        for thread, messages in seen["restored"].items():
            shown = [it["content"] for it in messages if it["role"] in ("user", "assistant")]
            said = self._said.get(thread, ())
            expected = [each for text in said for each in (text, reply_to(text))]
            self._check_all(thread, shown, expected[-HISTORY:])

    def _check_all(self, what: str, shown: list[str], expected: list[str]) -> None:
        """Record where the two differ, and how."""
        if shown == expected:
            return
        kind = "wrong"
        if len(shown) != len(expected):
            kind = "duplicated" if len(shown) > len(expected) else "lost"
        self.findings.record(kind, f"{what}: {str(shown)[:300]} for {str(expected)[:300]}")
