"""A hook with a misspelt name."""

from palaver import hookimpl


@hookimpl
def palaver_register_skils() -> None: ...
