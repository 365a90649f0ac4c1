"""A skill with a plain function as its answer."""

from palaver import Skill


class Unanswering(Skill):
    """Forget async."""

    name = "unanswering"

    def answer(self, turn: object) -> None: ...  # type: ignore[override]
