"""Kinds of training data: the fields of a row, how they are read, and what must hold for them."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from palaver.errors import InvalidInput

KindName = Literal["chat", "instruction", "preference", "classification", "spans", "retrieval"]
KINDS: tuple[KindName, ...] = get_args(KindName)
Fields = Mapping[str, Any]  # Any: JSON values of a raw row
Text = Callable[[str], str]


class TrainingMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Example(msgspec.Struct, frozen=True):
    """A row of training data."""

    @property
    def given(self) -> str:
        """Return what the model gets: the text by which leaks are found."""
        raise NotImplementedError

    @property
    def questions(self) -> list[str]:
        """Return the single texts that the model gets."""
        return [self.given]

    @property
    def wanted(self) -> str:
        """Return what the model should write."""
        return ""

    @property
    def distinction(self) -> str:
        """Return what makes rows with nearly the same text different."""
        return ""

    def check(self) -> None:
        """Raise `InvalidInput` for a row that nothing can be learned from."""
        raise NotImplementedError

    def edit(self, edit: Text) -> "Example":
        """Return the row with all of its texts edited."""
        raise NotImplementedError


class Chat(Example, frozen=True):
    """A conversation. A model learns to write the assistant's messages."""

    messages: list[TrainingMessage]

    @property
    def given(self) -> str:
        return "\n".join(self.questions)

    @property
    def questions(self) -> list[str]:
        return [each.content for each in self.messages if each.role == "user"]

    @property
    def wanted(self) -> str:
        return "\n".join(each.content for each in self.messages if each.role == "assistant")

    def check(self) -> None:
        _check_messages(self.messages)
        if not self.messages or self.messages[-1].role != "assistant":
            raise InvalidInput("the last message is not the assistant's")

    def edit(self, edit: Text) -> "Chat":
        return Chat(_edit_messages(self.messages, edit))


class Instruction(Example, frozen=True):
    """An instruction, with an ``input`` or none, and what it should give."""

    instruction: str
    output: str
    context: str = msgspec.field(name="input", default="")

    @property
    def given(self) -> str:
        return f"{self.instruction}\n{self.context}".strip()

    def check(self) -> None:
        if not self.instruction or not self.output:
            raise InvalidInput("the instruction or the output is empty")

    def edit(self, edit: Text) -> "Instruction":
        return Instruction(edit(self.instruction), edit(self.output), edit(self.context))


class Preference(Example, frozen=True):
    """A prompt with a better reply and a worse one."""

    prompt: list[TrainingMessage]
    chosen: list[TrainingMessage]
    rejected: list[TrainingMessage]

    @property
    def given(self) -> str:
        return "\n".join(self.questions)

    @property
    def questions(self) -> list[str]:
        return [each.content for each in self.prompt if each.role == "user"]

    @property
    def wanted(self) -> str:
        return "\n".join(each.content for each in (*self.chosen, *self.rejected))

    def check(self) -> None:
        _check_messages(self.prompt)
        if not self.prompt or self.prompt[-1].role != "user":
            raise InvalidInput("the last message of the prompt is not the user's")
        for reply in (self.chosen, self.rejected):
            if [each.role for each in reply] != ["assistant"] or not reply[0].content:
                raise InvalidInput("chosen and rejected are one message of the assistant each")
        if self.chosen == self.rejected:
            raise InvalidInput("chosen and rejected are the same")

    def edit(self, edit: Text) -> "Preference":
        return Preference(
            *(_edit_messages(part, edit) for part in (self.prompt, self.chosen, self.rejected))
        )


class Classification(Example, frozen=True):
    """A text and its label."""

    text: str
    label: str

    @property
    def given(self) -> str:
        return self.text

    @property
    def distinction(self) -> str:
        return self.label

    def check(self) -> None:
        if not self.text or not self.label:
            raise InvalidInput("the text or the label is empty")

    def edit(self, edit: Text) -> "Classification":
        return Classification(edit(self.text), self.label)


class Span(msgspec.Struct, frozen=True):
    """Part of a text, in code points, and what it is."""

    start: int
    end: int
    label: str


class Spans(Example, frozen=True):
    """A text and the labelled parts of it."""

    text: str
    spans: list[Span]

    @property
    def given(self) -> str:
        return self.text

    def check(self) -> None:
        if not self.text:
            raise InvalidInput("the text is empty")
        for span in self.spans:
            if not 0 <= span.start < span.end <= len(self.text) or not span.label:
                raise InvalidInput("a span is outside of the text, empty, or without a label")

    def edit(self, edit: Text) -> "Spans":
        """Edit the text between the limits of the spans, and move these."""
        limits = sorted(
            {0, len(self.text), *(limit for each in self.spans for limit in (each.start, each.end))}
        )
        pieces, moved = [], {0: 0}
        for start, end in itertools.pairwise(limits):
            pieces.append(edit(self.text[start:end]))
            moved[end] = moved[start] + len(pieces[-1])
        spans = [Span(moved[each.start], moved[each.end], each.label) for each in self.spans]
        return Spans("".join(pieces), spans)

    def replace(self, replacements: Sequence[tuple[int, int, str]]) -> "Spans":
        """Replace parts of the text, in their order, and move the spans. A limit inside of a part
        moves to the part's own limit."""
        text, starts, ends, last = "", {}, {}, 0
        for start, end, new in (*replacements, (len(self.text), len(self.text), "")):
            for place in range(last, start + 1):
                starts[place] = ends[place] = len(text) + place - last
            text += self.text[last:start]
            for place in range(start + 1, end):
                starts[place], ends[place] = len(text), len(text) + len(new)
            text += new
            starts[end] = ends[end] = len(text)
            last = end
        spans = [Span(starts[each.start], ends[each.end], each.label) for each in self.spans]
        return Spans(text, spans)


class Retrieval(Example, frozen=True):
    """A query, the passages that answer it, and some that do not."""

    query: str
    positives: list[str]
    negatives: list[str] = []

    @property
    def given(self) -> str:
        return self.query

    @property
    def wanted(self) -> str:
        return "\n".join(self.positives)

    def check(self) -> None:
        if not self.query or not self.positives or not all(self.positives):
            raise InvalidInput("there is no query, or no passage that answers it")
        if set(self.positives) & set(self.negatives):
            raise InvalidInput("a passage answers the query and does not")

    def edit(self, edit: Text) -> "Retrieval":
        return Retrieval(
            edit(self.query), list(map(edit, self.positives)), list(map(edit, self.negatives))
        )


TYPES: Mapping[KindName, type[Example]] = {
    "chat": Chat,
    "instruction": Instruction,
    "preference": Preference,
    "classification": Classification,
    "spans": Spans,
    "retrieval": Retrieval,
}


def field_names(kind: KindName) -> tuple[str, ...]:
    """Return the names of the fields that a raw row of that kind may have."""
    own = tuple(field.encode_name for field in msgspec.structs.fields(TYPES[kind]))
    return (*own, "system", "history", "prompt", "reply") if kind == "chat" else own


def read_example(kind: KindName, fields: Fields) -> Example:
    """Return the row with these fields. Raises `InvalidInput` for one that is none of the kind."""
    try:
        example = msgspec.convert(_complete(kind, fields), TYPES[kind], strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"no {kind}: {error}") from error
    example.check()
    return example


def _complete(kind: KindName, fields: Fields) -> dict[str, Any]:
    """Return the fields in the form of the kind: a text in place of messages is one of them."""
    found = {name: _parse(name, value) for name, value in fields.items() if value is not None}
    if kind == "chat":
        messages = list(_messages(found.get("messages") or found.get("history") or [], "user"))
        if system := found.get("system"):
            messages.insert(0, {"role": "system", "content": system})
        for name, role in (("prompt", "user"), ("reply", "assistant")):
            messages += _messages(found.get(name) or [], role)
        return {"messages": messages}
    if kind == "preference":
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return found | {name: _messages(found.get(name, []), roles[name]) for name in roles}
    if kind == "retrieval":
        lists = [name for name in ("positives", "negatives") if isinstance(found.get(name), str)]
        return found | {name: [found[name]] for name in lists}
    return found


def _parse(name: str, value: Any) -> Any:
    """Return the value of a field. A column of a table holds a list as JSON, and a label may be a
    number."""
    if name in ("messages", "history", "spans") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"{name} are no JSON") from error
    return str(value) if name in ("text", "label") else value


def _messages(value: Any, role: str) -> list[Any]:
    """Return messages as ``{role, content}``; a text is one message of ``role``."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise InvalidInput("the messages are neither a text nor a list")
    return [
        {"role": each.get("role"), "content": each.get("content", each.get("text"))}
        if isinstance(each, dict)
        else each
        for each in value
    ]


def _check_messages(messages: Sequence[TrainingMessage]) -> None:
    spoken = [each for each in messages if each.role != "system"]
    if any(each.role == "system" for each in messages[1:]):
        raise InvalidInput("a message of the system is not the first one")
    if any(not each.content.strip() for each in messages):
        raise InvalidInput("a message is empty")
    roles = [each.role for each in spoken]
    if roles[:1] == ["assistant"] or any(a == b for a, b in itertools.pairwise(roles)):
        raise InvalidInput("user and assistant do not take turns")


def _edit_messages(messages: Sequence[TrainingMessage], edit: Text) -> list[TrainingMessage]:
    return [TrainingMessage(each.role, edit(each.content)) for each in messages]
