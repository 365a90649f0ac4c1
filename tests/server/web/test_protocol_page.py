"""docs/protocol.md describes the frames that the server sends."""

import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.server.web.live_server import LiveServer

from palaver.messages import Event

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


def test_the_table_of_events_has_every_event_with_its_fields() -> None:
    table = PAGE.partition("\n## Events\n")[2].partition("\n\n`outcome`")[0]
    rows = re.findall(r"^\| `(\w+)` \| (`.+?) \| ", table, re.MULTILINE)
    rows = [row for row in rows if row[0] != "type"]
    described = {kind: re.findall(r"\b\w+\b", re.sub(r": \{.*\}", "", row)) for kind, row in rows}
    defined = {}
    for event in typing.get_args(Event):
        names = [field.name for field in msgspec.structs.fields(event)]
        defined[event.__struct_config__.tag] = sorted(names)
    assert {kind: sorted([*names, "turn"]) for kind, names in described.items()} == defined


async def test_the_pages_rules_for_text_rebuild_a_reply(live_server: LiveServer) -> None:
    code = re.search(r"```python\n(def apply.*?)```", PAGE, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}  # Any: what the page defines
    exec(code[1], names)
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("naïve ", "雨 😀")
        assert await client.wait_for_reply(turn) == "naïve 雨 😀"
        reply = ""
        for frame in client.frames:
            if frame["type"] in ("text", "text_reset", "started", "finished"):
                reply = names["apply"](reply, frame)
                reply = names["apply"](reply, frame)  # a second copy changes nothing
    assert reply == "naïve 雨 😀"
    missing = {"type": "text", "position": len(reply) + 1, "text": "x"}
    with pytest.raises(AssertionError, match="reconnect"):
        names["apply"](reply, missing)
