"""Between messages and tokens, for the engines that run in this process.

Reads what a Hugging Face style model directory says about text: ``tokenizer.json``, the chat
template of ``tokenizer_config.json`` (or ``chat_template.jinja``), and the tokens that end a reply.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

from palaver import ChatMessage, ConfigurationError, InvalidInput

Json = dict[str, Any]  # a parsed JSON object
BROKEN = "\ufffd"
"""What stands in decoded text for bytes that are not, or not yet, a character."""


def read_json(folder: Path, name: str, *, required: bool = True) -> Json:
    """The object in ``folder/name``. Raises `ConfigurationError` that names the file."""
    path = folder / name
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"model {str(folder)!r}: cannot read {name}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"model {str(folder)!r}: {name} is not a JSON object")
    return value


class ChatTokenizer:
    """Turns messages into the tokens of a prompt, and tokens into text.

    ``ends`` are the tokens that end a reply.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: "ChatTemplate", ends: frozenset[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.end_tokens = ends
        added = tokenizer.get_added_tokens_decoder().values()
        special = sorted((re.escape(it.content) for it in added if it.special), reverse=True)
        self._special = re.compile("|".join(special)) if special else None

    @classmethod
    def load(cls, folder: Path) -> "ChatTokenizer":
        """Read the model directory. Raises `ConfigurationError` that names it."""
        read_json(folder, "tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the package raises nothing narrower
            raise ConfigurationError(f"model {str(folder)!r}: tokenizer.json: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, ChatTemplate.load(folder), ending_tokens(folder, tokenizer))

    def encode_prompt(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The tokens after which the model begins its reply. Raises `InvalidInput` when the
        template of the model refuses the messages."""
        told = [ChatMessage(it.role, self._defused(it.content)) for it in messages]
        return self.encode(self.template.render(told))

    def encode_partial(self, partial: str) -> list[int]:
        """The tokens of a reply that has begun with ``partial``. They are encoded apart from the
        prompt, because they were generated after exactly the tokens of that."""
        return self.encode(self._defused(partial))

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> str:
        """The text of one token, also of a special one."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False)
        return text

    def _defused(self, text: str) -> str:
        """``text`` in which no frame of the prompt is written out, so that nobody can put words
        into the system's mouth: a zero-width space breaks what would be a special token."""
        if self._special is None:
            return text
        return self._special.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", text)


def ending_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """What ends a reply, by any of the files that may say it."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder, name, required=False).get("eos_token_id")
        ends.update([value] if isinstance(value, int) else value or [])
    said = text_of(read_json(folder, "tokenizer_config.json", required=False).get("eos_token"))
    index = tokenizer.token_to_id(said) if said else None
    if index is not None:
        ends.add(index)
    return frozenset(ends)


def text_of(token: str | Json | None) -> str:
    """A special token's text; it is given plainly or as an object."""
    return token["content"] if isinstance(token, dict) else token or ""


class ChatTemplate:
    """A model's own template, in the sandbox and with the helpers that Hugging Face gives it."""

    def __init__(self, source: str, variables: Json) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
        self._template = environment.from_string(source)
        self._variables = variables

    @classmethod
    def load(cls, folder: Path) -> "ChatTemplate":
        """The template of a model directory. Raises `ConfigurationError` that names it."""
        settings = read_json(folder, "tokenizer_config.json", required=False)
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.exists() else named(settings)
        if not source:
            raise ConfigurationError(
                f"model {str(folder)!r} has no chat template: expected chat_template.jinja, or "
                "'chat_template' in tokenizer_config.json (base models have none; take one that "
                "was tuned for chat)"
            )
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        try:
            return cls(source, {name: text_of(settings.get(name)) for name in names})
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"model {str(folder)!r}: chat template: {error}") from error

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt, up to where the assistant begins to speak."""
        plain = [{"role": it.role, "content": it.content} for it in messages]
        try:
            return self._template.render(
                messages=plain, add_generation_prompt=True, **self._variables
            )
        except jinja2.TemplateError as error:
            raise InvalidInput(f"the model's chat template refuses: {error}") from error


def named(settings: Json) -> str:
    """The chat template of a tokenizer_config.json; several are a list of names and templates."""
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        return str({it["name"]: it["template"] for it in template}.get("default", ""))
    return str(template)


def to_json(value: object, **options: Any) -> str:  # Any: the options of json.dumps
    """Jinja's own filter escapes for HTML, which no model has learned to read."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class StreamingDetokenizer:
    """Turns the tokens of one reply into pieces of text that can be said at once.

    A piece never ends inside a character. What may be the beginning of a stop string waits. A
    last character of which tokens are missing is left out.
    """

    def __init__(
        self, codec: ChatTokenizer, prompt: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        self._codec = codec
        # Some tokenizers drop the space before a first word, so the end of the prompt is decoded
        # along with the reply.
        self._ids = list(prompt[-4:])
        self._seen = codec.decode(self._ids)
        self._new: list[int] = []
        self._stops = StopStringFilter(stops) if stops else None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""
        return self._stops is not None and self._stops.found

    def push(self, ids: Sequence[int]) -> str:
        """The next piece, perhaps empty."""
        self._new += ids
        text = self._codec.decode(self._ids + self._new)
        if text.endswith(BROKEN):
            return ""
        piece = text[len(self._seen) :]
        self._ids, self._new = self._new, []
        self._seen = self._codec.decode(self._ids)
        return self._stops.push(piece) if self._stops else piece

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        left = self._codec.decode(self._ids + self._new)[len(self._seen) :].rstrip(BROKEN)
        if self._stops is None:
            return left
        return self._stops.push(left) + self._stops.flush()


class StopStringFilter:
    """Passes text on up to the first stop string, holding back only what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be said of the text so far."""
        if self.found:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            said, self._held = self._held[: min(places)], ""
            return said
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        said, self._held = self._held[:cut], self._held[cut:]
        return said

    def flush(self) -> str:
        said, self._held = self._held, ""
        return said


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` with which ``stop`` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
