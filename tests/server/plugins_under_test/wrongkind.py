"""A hook that returns something else."""

from palaver import hookimpl


@hookimpl
def palaver_register_tools() -> list[str]:
    return ["hammer"]
