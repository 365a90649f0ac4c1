"""What each script uses: names of checks, which become the table of docs/clients.md."""

import json
from collections.abc import Callable

_done: dict[str, bool] = {}


def check(name: str, ok: bool, seen: object = "") -> None:
    """Note that the client can do ``name``; end the script when it cannot."""
    if not ok:
        raise SystemExit(f"{name}: {seen!r}")
    _done[name] = True


def report() -> None:
    """Print the checks for the test that runs the script."""
    print(json.dumps(list(_done)))


def temperature(city: str) -> str:
    """How warm it is in a city."""
    return f"15 degrees in {city}"


Tool = Callable[[str], str]
