"""Skills as tools: what a model is told about a skill that it may call, and what it gets back."""

import dataclasses
import functools
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol

import msgspec
import pydantic

from palaver.config.wording import describe_errors, join_problems
from palaver.errors import InvalidInput
from palaver.messages import Citation, Message
from palaver.tools import Tool

_TEXT = "The text or question for the skill to work on, in full: it sees nothing else."
_FILES = "Whether the skill reads the files of the person's message."
_MARK = re.compile(r"\[(\d{1,4})\]")


class RunnableSkill(Protocol):
    """What a turn needs of a skill that runs as a tool."""

    name: ClassVar[str]
    Arguments: ClassVar[type[pydantic.BaseModel]]

    @classmethod
    def description(cls) -> str: ...

    async def answer(self, turn: Any) -> None: ...  # Any: the Turn of the skill's Arguments


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SkillTool(Tool):
    """Skill as a tool. It is read-only as such: the tools that it calls are approved themselves."""

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values, typed ones
        try:
            return {"call": self.arguments.model_validate(dict(values))}
        except pydantic.ValidationError as error:
            problems = join_problems(describe_errors(error, values))
            raise InvalidInput(f"Tool {self.name!r}: {problems}") from error


@functools.cache
def _call_model(arguments: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
    """Return the model of a call: a skill's Arguments, with the ``text`` to work on, and with
    ``files``."""
    fields: dict[str, Any] = {"text": (str, pydantic.Field(description=_TEXT))}
    if "files" not in arguments.model_fields:  # Any: (type, default), as create_model takes them
        fields["files"] = (bool, pydantic.Field(default=False, description=_FILES))
    return pydantic.create_model(arguments.__name__, __base__=arguments, **fields)


def make_skill_tool(skill: RunnableSkill, run: Callable[[Any], Awaitable[str]]) -> SkillTool:
    """Return a skill as a tool. ``run`` gets the validated call, which has the skill's Arguments.

    It may run again after a takeover, since what it does is journaled.
    """

    async def function(call: pydantic.BaseModel) -> str:
        return await run(call)

    return SkillTool(
        function=function,
        name=skill.name,
        description=skill.description(),
        arguments=_call_model(skill.Arguments),
        idempotent=True,
        read_only=True,
    )


def message_of_call(message: Message, skill: RunnableSkill, call: Any) -> Message:
    """Return the message that a skill answers when a model calls it in a turn about ``message``.
    Any: the model of `make_skill_tool`."""
    has_files = "files" not in skill.Arguments.model_fields and call.files
    return msgspec.structs.replace(
        message,
        text=call.text,
        skill=skill.name,
        arguments={},
        attachments=message.attachments if has_files else (),
        program=msgspec.UNSET,
    )


def renumber_citations(
    text: str, citations: Mapping[int, Citation], taken: Collection[int]
) -> tuple[str, list[Citation]]:
    """Return the text and the citations of a skill, with other numbers in place of those that are
    ``taken`` in the reply."""
    last = max((0, *taken, *citations))
    numbers: dict[int, int] = {}
    for number in sorted(citations):
        last += number in taken
        numbers[number] = last if number in taken else number
    renumbered = _MARK.sub(lambda found: f"[{numbers.get(int(found[1]), int(found[1]))}]", text)
    return renumbered, [
        msgspec.structs.replace(citation, number=numbers[number])
        for number, citation in sorted(citations.items())
    ]
