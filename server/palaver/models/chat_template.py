"""Chat template of a model: where it stands, and how it is compiled.

A template comes from strangers. It is rendered in Jinja's sandbox, with the helpers that Hugging
Face offers to it. The sandbox limits what it reaches, not how long it computes: see
`palaver.models.chat_check`.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from palaver.errors import ConfigurationError
from palaver.models.gguf import find_gguf, read_gguf
from palaver.models.model_files import Json, broken_file, read_json

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 2_000_000
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_chat_template(directory: Path) -> tuple[str, dict[str, str]]:
    """Return the source of the template and the special tokens that it may name.

    Raises `ConfigurationError` when the model has no template; that of a GGUF file is then empty.
    """
    if gguf := find_gguf(directory):
        return read_gguf(gguf).chat_template, {}
    settings = _read_optional_json(directory / "tokenizer_config.json")
    # A model with images may have the template of its processor in a file of its own.
    source = (
        _read_template_file(directory / TEMPLATE_FILE)
        or _default_template(settings)
        or _default_template(_read_optional_json(directory / "chat_template.json"))
    )
    if not source:
        raise ConfigurationError(
            f"model {str(directory)!r} has no chat template: expected {TEMPLATE_FILE}, or "
            "'chat_template' in tokenizer_config.json (base models have none; choose one that "
            "was tuned for chat)"
        )
    return source, {name: _token_text(settings.get(name)) for name in SPECIAL_TOKENS}


def _read_template_file(file: Path) -> str:
    if not file.is_file():
        return ""
    if file.stat().st_size > MAX_TEMPLATE_BYTES:
        raise broken_file(file, f"is larger than {MAX_TEMPLATE_BYTES:_} bytes")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise broken_file(file, f"cannot be read: {error}") from error


def _read_optional_json(file: Path) -> Json:
    return read_json(file) if file.exists() else {}


def _default_template(settings: Json) -> str:
    """Return the chat template in a ``tokenizer_config.json``: a string or a list of named ones."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {it.get("name"): it.get("template") for it in template if isinstance(it, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _token_text(token: object) -> str:
    """Return the text of a special token, which the files give as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def compile_chat_template(source: str) -> jinja2.Template:
    """Return the template of a model. Raises `jinja2.TemplateError`."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationTag],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_template_error
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
    return environment.from_string(source)


def _to_json(value: object, **options: Any) -> str:  # Any: the options of json.dumps
    """Return ``value`` as JSON. Jinja's own filter escapes for HTML, which models do not know."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}``, which marks the assistant's text for training, and prints its body."""

    tags = {"generation"}  # noqa: RUF012  as its base declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
