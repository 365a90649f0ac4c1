"""Skills that make one part of the server visible in their replies, without a model."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pydantic

from palaver.skills import Skill
from palaver.turns.turn import Turn


class AnyArguments(pydantic.BaseModel):
    """Arguments of any name: a probe never asks for one."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)


class RouterProbe(Skill):
    """Reply with nothing: the choice of the skill is all that counts."""

    needs = frozenset()
    Arguments = AnyArguments

    async def answer(self, turn: Turn[Any]) -> None:
        pass


class RetrieverProbe(Skill):
    """Cite the passages that a search for the message finds, best first."""

    name = "search"
    needs = frozenset()
    passages: ClassVar[int]

    async def answer(self, turn: Turn[Any]) -> None:
        for passage in await turn.search(turn.message.text, self.passages):
            turn.cite(passage)


def probe_labels(labels: Mapping[str, Sequence[str]]) -> dict[str, Skill]:
    """Return a skill for each label, with its examples."""
    return {
        label: _make_probe(label, (RouterProbe,), examples=tuple(examples), __doc__=label)
        for label, examples in labels.items()
    }


def probe_skills(skills: Mapping[str, type[Skill]]) -> dict[str, Skill]:
    """Return probes that the router chooses exactly as it chooses ``skills``."""
    return {
        name: _make_probe(name, (RouterProbe, skill), __doc__=skill.__doc__)
        for name, skill in skills.items()
    }


def probe_retriever(passages: int) -> dict[str, Skill]:
    """Return the skill that searches for the best ``passages``."""
    return {RetrieverProbe.name: _make_probe("search", (RetrieverProbe,), passages=passages)}


def _make_probe(name: str, bases: tuple[type[Skill], ...], **attributes: object) -> Skill:
    kind = type("Probe", bases, {"name": name, **attributes})
    probe: Skill = kind()
    return probe
