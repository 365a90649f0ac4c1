"""Endings of a skill that the server raises through it."""

from collections.abc import Sequence

import msgspec

from palaver.messages import Approval, ClientCall


class SkillEnded(BaseException):
    """Ends a skill. A BaseException, so that a skill's ``except Exception`` does not swallow it."""


class Suspended(SkillEnded):
    """Ends a skill that has asked a question with ``options``; the answer runs the skill again.
    ``approval``: the call of a tool that the question is about. ``client_calls``: in place of a
    question, calls of the program's tools, whose results are the answer."""

    def __init__(
        self,
        options: Sequence[str] = (),
        approval: Approval | msgspec.UnsetType = msgspec.UNSET,
        client_calls: Sequence[ClientCall] = (),
    ) -> None:
        super().__init__()
        self.options = tuple(options)
        self.approval = approval
        self.client_calls = tuple(client_calls)


class QuestionWithdrawn(SkillEnded):
    """Ends a turn as stopped: its message withdraws a question, and there is nothing to answer."""


class ReplyLimitReached(SkillEnded):
    """Ends a skill that would let the model write more than the program asked for."""
