"""The data of an evaluation: examples, the outputs of the server, and both together as cases."""

import msgspec

from palaver.messages import Outcome, Role, Usage


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """Message or reply that came before the message of an example."""

    role: Role
    text: str


class Program(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a reply with code is run. ``prelude`` comes before the code, ``test`` after it; it fails
    by raising. ``function``: the reply may define it, or be the rest of its body."""

    prelude: str
    test: str
    function: str
    timeout: float


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of a suite: the message, and what is expected of the reply.

    ``expected`` are alternatives: skills, texts or answers; an empty tuple says that there is no
    answer. ``relevant`` are the ids of the documents with the answer. ``rating`` is that of the
    reply in ``expected``, where people have rated it.
    """

    id: str
    text: str
    skill: str | None = None
    arguments: dict[str, str] = {}
    history: tuple[Turn, ...] = ()
    expected: tuple[str, ...] = ()
    relevant: tuple[str, ...] = ()
    rating: str = ""
    note: str = ""
    program: Program | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the server made of an example. ``text`` is the reply, freed of what the suite removes;
    ``reply`` is the whole, where that differs. ``score`` is the router's probability.

    ``documents`` are the ids of the cited documents, in order; ``baselines`` those that the search
    finds by words or vectors alone, where the suite compares with that. ``logprob`` is the sum over
    ``logprob_tokens`` generated tokens. ``error``: why the turn or the program failed.
    """

    text: str
    reply: str = ""
    skill: str = ""
    reason: str = ""
    score: float | None = None
    outcome: Outcome
    documents: tuple[str, ...] = ()
    baselines: dict[str, tuple[str, ...]] = {}
    usage: Usage = Usage()
    first_token_seconds: float | None = None
    seconds: float
    logprob: float = 0.0
    logprob_tokens: int = 0
    passed: bool | None = None
    error: str = ""


class Case(msgspec.Struct, frozen=True):
    """An example with its outputs: one, or as many as the suite has samples."""

    example: Example
    outputs: tuple[Output, ...]

    @property
    def output(self) -> Output:
        return self.outputs[0]
