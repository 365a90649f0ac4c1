"""Prompts of engine ``llamacpp``: rendered here, tokenized by llama.cpp."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2

from palaver import ChatMessage, ConfigurationError, Gguf, ToolDefinition
from palaver_plugins.engines.llamacpp_server import LlamaServer
from palaver_plugins.engines.tokenization import ChatTemplate
from palaver_plugins.engines.tool_formats import break_markup, markup_pattern

TOKENS, TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
VOCABULARY = frozenset({TOKENS, TOKEN_TYPES})
"""Keys of a GGUF header that `GgufPrompts` needs."""
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens
CONTROL_LIKE = re.compile(r"<[|｜].*[|｜]>")
"""Tokens that some converters call user-defined although they control the conversation."""
ROLES = ("bos", "eos", "eot", "eom", "unknown", "padding")


class GgufPrompts:
    """Prompts of one model. ``template``: the source of its chat template."""

    def __init__(self, gguf: Gguf, template: str) -> None:
        self._metadata = gguf.metadata
        special = special_tokens(gguf)
        try:
            self._template = ChatTemplate(template, self._variables())
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"{str(gguf.files[0])!r}: chat template: {error}") from error
        self.tool_format = self._template.find_tool_format(special)
        """The format in which the model calls tools; None where it is not known."""
        self._special = markup_pattern(special, None)
        self._markup = markup_pattern(special, self.tool_format)

    def _variables(self) -> dict[str, str]:
        roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        return {f"{name}_token": self._token(role) for name, role in roles.items()}

    def _token(self, role: str) -> str:
        tokens = self._metadata.get(TOKENS, ())
        number = self._metadata.get(f"tokenizer.ggml.{role}_token_id", -1)
        return tokens[number] if 0 <= number < len(tokens) else ""

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()) -> str:
        """Return the text of the prompt. Raises `InvalidInput` when the template refuses it."""
        return self._template.render(messages, tools, escape=partial(break_markup, self._markup))

    async def encode(self, server: LlamaServer, text: str) -> list[int]:
        """Return the tokens of a rendered prompt."""
        tokens = await tokenize(server, text)
        begin = self._metadata.get("tokenizer.ggml.bos_token_id", -1)
        lacks_begin = begin >= 0 and tokens[:1] != [begin]
        wants_begin = self._metadata.get("tokenizer.ggml.add_bos_token") is True
        return [begin, *tokens] if wants_begin and lacks_begin else tokens

    async def encode_partial(self, server: LlamaServer, text: str) -> list[int]:
        """Return the tokens of a partial reply, as they are after a prompt."""
        if not text:
            return []
        text = break_markup(self._special, text)
        if self._metadata["tokenizer.ggml.model"] != "llama":
            return await tokenize(server, text)
        # SentencePiece puts a space before a text: not within a reply.
        lead = await tokenize(server, "\n")
        return (await tokenize(server, f"\n{text}"))[len(lead) :]


async def tokenize(server: LlamaServer, text: str) -> list[int]:
    body = {"content": text, "add_special": False, "parse_special": True}
    tokens: list[int] = (await server.call("/tokenize", body))["tokens"]
    return tokens


def special_tokens(gguf: Gguf) -> list[str]:
    """Return the tokens that a message must not contain."""
    tokens = gguf.metadata.get(TOKENS, [])
    types = gguf.metadata.get(TOKEN_TYPES, [])
    numbers = {gguf.metadata.get(f"tokenizer.ggml.{role}_token_id", -1) for role in ROLES}
    return [
        token
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind in (UNKNOWN, CONTROL)
        or number in numbers
        or (kind == USER_DEFINED and CONTROL_LIKE.fullmatch(token))
    ]


def read_template(gguf: Gguf, file: str) -> str:
    """Return the source of the chat template: of ``file`` if that is given, else of the model.

    Raises `ConfigurationError` when there is none.
    """
    if file:
        try:
            return Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"engine.llamacpp.chat_template {file!r}: {error}") from error
    if not gguf.chat_template:
        raise ConfigurationError(
            f"model {str(gguf.files[0])!r} has no chat template (base models have none; choose one "
            "that was tuned for chat), and engine.llamacpp.chat_template names no file with one"
        )
    return gguf.chat_template
