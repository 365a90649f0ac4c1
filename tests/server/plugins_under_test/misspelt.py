"""A hook with a slip of the pen."""

from palaver import hookimpl


@hookimpl
def palaver_register_skils() -> None: ...
