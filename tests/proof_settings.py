"""How far the slow proofs go: a short form in every run, a long one under ``make prove``."""

import os

IS_LONG_RUN = bool(os.environ.get("PALAVER_PROVE"))
SEED = int(os.environ.get("PALAVER_SEED", "20261122"))
"""Of everything that happens at random. A failing test prints it."""


def short_or_long(short: int, long: int) -> int:
    """How many cases to try."""
    return long if IS_LONG_RUN else short
