"""Durations are measured by monotonic clocks: the wall clock may be set at any time."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
ALLOWED = {
    "server/palaver/clock.py": "the clock of a store, which follows its steps",
    "server/palaver/testing/ledger.py": "the default of that clock",
    "server/palaver/models/registry.py": "shows when a model was added",
    "plugins/palaver_plugins/ledgers/sqlite/__init__.py": "the default of that clock",
    "plugins/palaver_plugins/ledgers/sqlite/rows.py": "the default of the retention's clock",
    "plugins/palaver_plugins/ledgers/redis/guarantee.py": "is compared with the clock of Redis",
    "server/palaver/models/chat_template.py": "the date in a prompt",
    "server/palaver/evaluation/runs.py": "shows when a run began",
    "server/palaver/files/store.py": "the default of the clock of files, which outlive a process",
    "server/palaver/files/objects.py": "is compared with the times of files on the disk",
    "server/palaver/jobs/folder.py": "shows when a job has done a step",
    "server/palaver/jobs/store.py": "shows when a job was created",
    "server/palaver/platforms/consents.py": "shows when somebody has consented",
    "server/palaver/platforms/delivery.py": "when a turn was settled, for the next owner",
    "server/palaver/platforms/pairing.py": "the expiry of codes, which every replica checks",
    "server/palaver/platforms/policy.py": "when bots have written, to any server",
    "server/palaver/platforms/parking.py": "when a conversation was parked, by any server",
    "server/palaver/sites.py": "the expiry of identities that others sign",
    "server/palaver/turns/approvals.py": "the expiry of approvals, which every replica checks",
    "server/palaver/visitors.py": "the expiry of tokens, which every replica checks",
    "server/palaver/testing/fakes/slack/fake.py": "apps compare the time of a signature with it",
    "server/palaver/web/expiry.py": "how long such a token is still valid",
    "server/palaver/web/websocket.py": "the same, for the answer to its renewal",
    "plugins/palaver_plugins/channels/webhooks/channel.py": "the times of signatures",
    "plugins/palaver_plugins/tools/dates.py": "the time that a person asks for",
    "plugins/palaver_plugins/channels/openai_api/chat.py": "the time of a reply",
}
"""Modules that read the wall clock, and why."""


def find_wall_clocks(source: str) -> set[str]:
    """Return the names of wall clocks that the source mentions."""
    names = {
        ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)
    }
    return {
        clock for clock in WALL_CLOCKS if any(f".{name}".endswith(f".{clock}") for name in names)
    }


def modules() -> list[Path]:
    return [
        path for folder in ("server", "plugins", "skills") for path in (ROOT / folder).rglob("*.py")
    ]


@pytest.mark.slow
def test_only_listed_modules_read_the_wall_clock() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        if find_wall_clocks(path.read_text("utf-8"))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "source", ["import time\ntime.time()", "x = datetime.datetime.now(tz)", "f(clock=time.time)"]
)
def test_a_wall_clock_is_found(source: str) -> None:
    assert find_wall_clocks(source)


@pytest.mark.parametrize("source", ["time.monotonic()", "loop.time()", "retention_clock.time"])
def test_another_clock_is_none(source: str) -> None:
    assert not find_wall_clocks(source)
