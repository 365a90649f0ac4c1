"""Names that the settings give to programs."""

import re
from collections.abc import Iterable

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]|_(?!_)){0,23}(?<!_)")


def check_names(names: Iterable[str], noun: str) -> None:
    """Raise `ValueError` for a name that cannot be a part of a tool's name."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name of a {noun}: 1 to 24 letters, digits, - and single _"
            )
