"""Questions of skills as elicitations: forms that a client shows to its person."""

import dataclasses
from typing import Any, Literal

from palaver import Question
from palaver_plugins.channels.mcp.protocol import PRIMED, Json

METHOD = "elicitation/create"
FIELD = "answer"
DENY = "Deny"
"""The answer of a person who declines to approve the call of a tool."""
MAX_MESSAGE = 8_000
"""Characters of what is asked, from the end of the reply: the question is there."""
Action = Literal["accept", "decline", "cancel"]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a person did with a form."""

    action: Action
    text: str = ""


def make_form(question: Question, version: str, said: str) -> Json:
    """Return the parameters of an elicitation. ``said`` is the reply that ends in the question.

    The options may be suggestions only, so that the form takes any text; those of an approval are
    the only answers.
    """
    field: Json = {"type": "string", "title": "Answer"}
    if question.approval:
        field["enum"] = list(question.options)
    elif question.options:
        field["description"] = "One of: " + ", ".join(question.options)
    mode = {} if version < PRIMED else {"mode": "form"}
    return {
        **mode,
        "message": (said if question.text in said else question.text)[-MAX_MESSAGE:],
        "requestedSchema": {
            "type": "object",
            "properties": {FIELD: field},
            "required": [FIELD],
        },
    }


def read_answer(result: Any) -> Answer | None:  # Any: a JSON value
    """Return what a client says that its person did; None: it is not of that form."""
    if not isinstance(result, dict):
        return None
    action, content = result.get("action"), result.get("content")
    if action in ("decline", "cancel"):
        return Answer(action)
    text = content.get(FIELD) if isinstance(content, dict) else None
    if action != "accept" or not isinstance(text, str):
        return None
    return Answer("accept", text)
