"""Chat template, tokenizer and incremental detokenizer for the engines that run in this process.

They read a Hugging Face model directory: ``tokenizer.json``, the chat template in
``tokenizer_config.json`` or ``chat_template.jinja``, and the tokens that end a reply.
"""

import asyncio
import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Encoding, Tokenizer

from palaver import (
    ChatMessage,
    ConfigurationError,
    GenerationRequest,
    InvalidInput,
    StopStringFilter,
    ToolDefinition,
    compile_chat_template,
    count_characters,
    read_chat_template,
    read_json,
)
from palaver_plugins.engines.tool_formats import (
    ToolFormat,
    break_markup,
    find_format,
    markup_pattern,
    template_tools,
    tool_fields,
)

Json = dict[str, Any]  # a parsed JSON object
LONG_TEXT = 1_000
"""Characters above which encoding may take milliseconds, and runs outside the event loop."""
REPLACEMENT = "\ufffd"
"""Stands in decoded text for bytes that are not, or not yet, a complete character."""


def read_optional_json(file: Path) -> Json:
    """Return the object in ``file``, or an empty one when there is no such file."""
    return read_json(file) if file.exists() else {}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json``. Raises `ConfigurationError` that names the model."""
    # A batch is encoded in the thread that asks for it: not on all cores at once.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    read_json(folder / "tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the package raises nothing narrower
        raise ConfigurationError(f"model {str(folder)!r}: tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class ChatTokenizer:
    """Encodes messages to a prompt's tokens, and decodes tokens. ``end_tokens`` end a reply."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: "ChatTemplate",
        end_tokens: frozenset[int],
        vocabulary_size: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.end_tokens = end_tokens
        self._vocabulary_size = vocabulary_size
        self._template = template
        added = tokenizer.get_added_tokens_decoder().values()
        special = [it.content for it in added if it.special]
        self.tool_format = template.find_tool_format(special)
        """The format in which the model calls tools; None where it is not known."""
        self._special = markup_pattern(special, None)
        self._markup = markup_pattern(special, self.tool_format)

    @classmethod
    def load(cls, folder: Path) -> "ChatTokenizer":
        """Read the model directory. Raises `ConfigurationError` that names it."""
        tokenizer = load_tokenizer(folder)
        end_tokens = find_end_tokens(folder, tokenizer)
        return cls(tokenizer, ChatTemplate.load(folder), end_tokens, vocabulary_size(folder))

    @property
    def takes_images(self) -> bool:
        return self._template.takes_parts

    def encode_prompt(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> list[int]:
        """Return the tokens of the prompt, up to the start of the assistant's reply. Raises
        `InvalidInput` when the chat template refuses the messages."""
        return self.encode(self.render(messages, tools))

    def count_prompt(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        """Return the number of tokens of the prompt: a list of very many holds the interpreter's
        lock for long while it is made."""
        return len(self._encode(self.render(messages, tools)))

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()) -> str:
        """Return the text of the prompt, which has a placeholder for each image."""
        return self._template.render(messages, tools, escape=partial(break_markup, self._markup))

    def encode_partial(self, partial: str) -> list[int]:
        """Return the tokens of a partial reply. They are encoded apart from the prompt, because
        they were generated after exactly the prompt's tokens."""
        return self.encode(break_markup(self._special, partial))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``. Raises as `check_ids`."""
        ids: list[int] = self._encode(text).ids
        self.check(ids)
        return ids

    def check(self, ids: Sequence[int]) -> None:
        """Raises as `check_ids`."""
        check_ids(self.tokenizer, ids, self._vocabulary_size)

    def _encode(self, text: str) -> Encoding:
        # Of a batch, because `Tokenizer.encode` does not release the interpreter's lock.
        (encoding,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise `InvalidInput` when the model has no embedding of a token: some tokenizers have more
    tokens than their model."""
    largest = max(ids, default=0)
    if largest >= vocabulary_size:
        raise InvalidInput(
            f"the text has the token {tokenizer.id_to_token(largest)!r}, whose id {largest} the "
            f"model does not have: its vocabulary has {vocabulary_size}"
        )


async def count_prompt(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition]
) -> int:
    """Return the number of tokens of the prompt, counting a long one in a thread."""
    if count_characters(messages, tools) <= LONG_TEXT:
        return tokenizer.count_prompt(messages, tools)
    return await asyncio.to_thread(tokenizer.count_prompt, messages, tools)


async def encode_request(
    tokenizer: ChatTokenizer, request: GenerationRequest
) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and of the partial reply, encoding long ones in a thread."""

    def encode() -> tuple[list[int], list[int]]:
        prompt = tokenizer.encode_prompt(request.messages, request.tools)
        return prompt, tokenizer.encode_partial(request.partial)

    characters = count_characters(request.messages, request.tools) + len(request.partial)
    return encode() if characters <= LONG_TEXT else await asyncio.to_thread(encode)


def find_end_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end a reply, from all the files that may name them."""
    end_tokens: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_optional_json(folder / name).get("eos_token_id")
        end_tokens.update([value] if isinstance(value, int) else value or [])
    text = special_token_text(read_optional_json(folder / "tokenizer_config.json").get("eos_token"))
    index = tokenizer.token_to_id(text) if text else None
    if index is not None:
        end_tokens.add(index)
    return frozenset(end_tokens)


def vocabulary_size(folder: Path) -> int:
    """Return the number of tokens that the model has embeddings of. Raises `ConfigurationError`."""
    config = read_json(folder / "config.json")
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not isinstance(size, int):
        raise ConfigurationError(f"model {str(folder)!r}: config.json has no vocab_size")
    return size


def special_token_text(token: str | Json | None) -> str:
    """Return the text of a special token, which the files give as a string or as an object."""
    return token["content"] if isinstance(token, dict) else token or ""


PROBE_TEXT = "palaver"


class ChatTemplate:
    """A model's chat template.

    Templates take the content of a message as a text, or as a list of parts, which may be images.
    """

    def __init__(self, source: str, variables: Json) -> None:
        self._template = compile_chat_template(source)
        self._variables = variables
        self.takes_parts = self._takes([{"type": "text", "text": PROBE_TEXT}])
        self._only_parts = self.takes_parts and not self._takes(PROBE_TEXT)

    @classmethod
    def load(cls, folder: Path) -> "ChatTemplate":
        """Read the template of a model directory. Raises `ConfigurationError` that names it."""
        source, variables = read_chat_template(folder)
        try:
            return cls(source, variables)
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"model {str(folder)!r}: chat template: {error}") from error

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] = (),
        *,
        escape: Callable[[str], str] = str,
    ) -> str:
        """Return the prompt, up to the start of the assistant's reply. ``escape`` is applied to
        each text of a message and of a tool."""
        as_parts = self._only_parts or any(message.images for message in messages)
        names: dict[str, str] = {}
        plain = []
        for it in messages:
            text = escape(it.content)
            content = content_parts(text, len(it.images)) if as_parts else text
            calls = [(call.id, call.name, call.arguments) for call in it.tool_calls]
            fields = tool_fields(calls, it.tool_call_id, names, escape)
            plain.append({"role": it.role, "content": content} | fields)
        defined = template_tools([dataclasses.asdict(tool) for tool in tools], escape)
        try:
            return self._render(plain, defined)
        except Exception as error:  # templates raise any exception
            raise InvalidInput(f"the model's chat template refuses: {error}") from error

    def find_tool_format(self, special: Sequence[str]) -> ToolFormat | None:
        """Return the format of the template's calls: `palaver_plugins.engines.tool_formats`."""
        return None if self._only_parts else find_format(self._render, special)

    def _render(self, messages: list[Json], tools: list[Json] | None = None) -> str:
        more = {"tools": tools} if tools else {}
        return self._template.render(
            messages=messages, add_generation_prompt=True, **more, **self._variables
        )

    def _takes(self, content: str | list[Json]) -> bool:
        """Return whether a message with such content is rendered as its text."""
        try:
            text = self._render([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001  templates raise any exception
            return False
        return PROBE_TEXT in text and "'type'" not in text and '"type"' not in text


def content_parts(text: str, images: int) -> list[Json]:
    """Return the content of a message as the parts that chat templates take."""
    parts: list[Json] = [{"type": "image"} for _ in range(images)]
    return [*parts, {"type": "text", "text": text}] if text else parts


class StreamingDetokenizer:
    """Decodes the tokens of one reply to pieces of text that can be delivered at once.

    A piece never ends inside a character, and a possible beginning of a stop string is withheld.
    An incomplete last character is dropped.
    """

    def __init__(
        self, tokenizer: ChatTokenizer, prompt: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        # Some tokenizers drop the space before a first word, so the end of the prompt is decoded
        # together with the reply.
        self._ids = list(prompt[-4:])
        self._text = tokenizer.decode(self._ids)
        self._pending: list[int] = []
        self._stops = StopStringFilter(stops)

    @property
    def stopped(self) -> bool:
        """Return whether a stop string has ended the reply."""
        return self._stops.found

    def push(self, ids: Sequence[int]) -> str:
        """Return the next piece, which may be empty."""
        self._pending += ids
        text = self._tokenizer.decode(self._ids + self._pending)
        if text.endswith(REPLACEMENT):
            return ""
        piece = text[len(self._text) :]
        self._ids, self._pending = self._pending, []
        self._text = self._tokenizer.decode(self._ids)
        return self._stops.push(piece)

    def flush(self) -> str:
        """Return the withheld text at the end of the reply."""
        text = self._tokenizer.decode(self._ids + self._pending)
        return self._stops.push(text[len(self._text) :].rstrip(REPLACEMENT)) + self._stops.flush()
