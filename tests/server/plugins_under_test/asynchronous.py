"""A hook that is a coroutine function."""

from palaver import hookimpl


@hookimpl
async def palaver_register_skills() -> None: ...
