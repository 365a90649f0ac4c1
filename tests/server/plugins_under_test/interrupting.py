"""A module whose hook raises a kind of Ctrl-C of its own."""

from collections.abc import Iterable

from palaver import Skill, hookimpl


class Impatient(KeyboardInterrupt):
    """A KeyboardInterrupt that nobody has typed."""


@hookimpl
def palaver_register_skills() -> Iterable[type[Skill]]:
    raise Impatient("too slow")
