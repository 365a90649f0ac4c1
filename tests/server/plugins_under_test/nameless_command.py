"""A plugin whose command is none."""

from collections.abc import Iterable

from palaver import hookimpl


@hookimpl
def palaver_register_commands() -> Iterable[object]:
    return ["serve"]
