"""A skill whose answer is a plain function."""

from palaver import Skill


class Unanswering(Skill):
    """Forget async."""

    name = "unanswering"

    def answer(self, turn: object) -> None: ...  # type: ignore[override]
