"""Settings of the slow tests: short by default, long under ``make prove``."""

import os

IS_LONG_RUN = bool(os.environ.get("PALAVER_PROVE"))
SEED = int(os.environ.get("PALAVER_SEED", "20261122"))
"""Seed of every random number. A failing test prints it."""


def short_or_long(short: int, long: int) -> int:
    """Return the number of cases, turns or seconds for this run."""
    return long if IS_LONG_RUN else short
