"""Models from strangers: headers, configurations, templates and tokenizers that do harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.models import write_model

from palaver.errors import ConfigurationError
from palaver.models import chat_check
from palaver.models.chat_check import check_model, probe_chat
from palaver.models.checkpoint import WEIGHTS_INDEX
from palaver.models.registry import ModelRegistry

pytestmark = pytest.mark.slow

Harm = Callable[[Path], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "walker")


def weights(header: object, size: int = 0) -> Harm:
    """Write a file of weights with a header, as JSON or bytes, and ``size`` bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(size)
    return lambda directory: (directory / "model.safetensors").write_bytes(content)


def tensor(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def content(name: str, text: str | bytes) -> Harm:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda directory: (directory / name).write_bytes(data)


def template(source: str) -> Harm:
    return content("chat_template.jinja", source)


def edited(name: str, **changes: object) -> Harm:
    def edit(directory: Path) -> None:
        file = directory / name
        value = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(value | changes))

    return edit


MESSAGES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TINY = {"model.embed_tokens.weight": tensor("U8", [50, 2], 0, 100)}
NO_TEMPLATE = "has no chat template: expected chat_template.jinja, or 'chat_template' in"

HARMS: dict[str, tuple[Harm, str]] = {
    "overlap": (
        weights({"a": tensor("U8", [10], 0, 10), "b": tensor("U8", [10], 0, 10)}, 10),
        "model.safetensors is not a safetensors file: its tensor 'b' overlaps another one",
    ),
    "gap": (weights({"a": tensor("U8", [5], 5, 10)}, 10), "its tensor 'a' begins after a gap"),
    "backwards": (weights({"a": tensor("U8", [5], 10, 5)}, 5), "its tensor 'a' begins after a gap"),
    "negative": (weights({"a": tensor("U8", [5], -5, 5)}, 5), "its header is malformed"),
    "other size": (
        weights({"a": tensor("F32", [5], 0, 5)}, 5),
        "its tensor 'a' has another size than its shape",
    ),
    "many dimensions": (
        weights({"a": tensor("F32", [10**18] * 100_000, 0, 5)}, 5),
        "its header is malformed",
    ),
    "huge dimensions": (
        weights({"a": tensor("F32", [2**52] * 16, 0, 5)}, 5),
        "its tensor 'a' has another size than its shape",
    ),
    "fractions": (weights({"a": tensor("F32", [1.5], 0, 6)}, 6), "its header is malformed"),
    "unknown type": (weights({"a": tensor("X9", [1], 0, 1)}, 1), "the unknown data type 'X9'"),
    "deep header": (
        weights(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "its header is not JSON",
    ),
    "large header": (weights(b" " * 20_000_001), "model.safetensors is not a safetensors file"),
    "header of 16 exabytes": (
        content("model.safetensors", b"\xff" * 8),
        "model.safetensors is not a safetensors file",
    ),
    "empty index": (
        content(WEIGHTS_INDEX, '{"weight_map": {}}'),
        "model.safetensors.index.json has no weight_map of plain names of files",
    ),
    "deep configuration": (content("config.json", '{"a":' * 200_000), "config.json cannot be read"),
    "code of the tokenizer": (
        edited("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]}),
        "has its own code (auto_map in tokenizer_config.json), which is never executed",
    ),
    "code of the processor": (
        edited("processor_config.json", auto_map={"AutoProcessor": "x.X"}),
        "has its own code (auto_map in processor_config.json), which is never executed",
    ),
    "no template": (content("tokenizer_config.json", "{}"), NO_TEMPLATE),
    "a template that is no text": (
        content("tokenizer_config.json", '{"chat_template": {"a": 1}}'),
        NO_TEMPLATE,
    ),
    "a template that is not UTF-8": (
        content("chat_template.jinja", b"\xff"),
        "chat_template.jinja cannot be read: 'utf-8' codec",
    ),
    "a large template": (
        template("x" * 2_000_001),
        "chat_template.jinja is larger than 2_000_000 bytes",
    ),
    "wrong syntax": (template("{% for m in %}"), "its chat template is not valid: Expected an"),
    "deep syntax": (template("{% if 1 %}" * 5_000 + "{% endif %}" * 5_000), "maximum recursion"),
    "a refusal": (
        template("{{ raise_exception('no \n way') }}"),
        "its chat template refuses a conversation: no way",
    ),
    "nothing of the messages": (
        template("Hello."),
        "its chat template leaves out what people say",
    ),
    "endless recursion": (
        template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}" + MESSAGES),
        "its chat template refuses a conversation: maximum recursion depth exceeded",
    ),
    "all memory": (
        template("{{ 'a' * 10 ** 11 }}" + MESSAGES),
        "its chat template refuses a conversation: MemoryError",
    ),
    "Python's own classes": (
        template("{{ ''.__class__.__mro__ }}" + MESSAGES),
        "refuses a conversation: access to attribute '__class__' of 'str' object is unsafe.",
    ),
    "other files": (
        template("{% include '/etc/passwd' %}" + MESSAGES),
        "its chat template refuses a conversation: no loader for this environment specified",
    ),
    "no tokenizer": (
        content("tokenizer.json", "{}"),
        "its tokenizer.json cannot be read: Model missing",
    ),
    "a deep tokenizer": (
        content("tokenizer.json", '{"model":' + "[" * 100_000),
        "its tokenizer.json cannot be read: recursion limit exceeded",
    ),
    "tokens without vectors": (
        weights(TINY, 100),
        "its tokenizer writes the token 423 for a conversation, but the weights have 50 tokens",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmful_model_is_refused_with_its_file(model: Path, tmp_path: Path, harm: str) -> None:
    do_harm, words = HARMS[harm]
    do_harm(model)
    registry = ModelRegistry(tmp_path / "data", {})
    with pytest.raises(ConfigurationError) as caught:
        registry.add_directory(model)
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.startswith(f"model {str(model)!r}")
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert not registry.models()


def test_a_template_that_computes_without_end_is_ended(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_check, "CPU_SECONDS", 1)
    template(LOOP + MESSAGES)(model)
    with pytest.raises(ConfigurationError, match="its chat template takes more than 1 seconds or"):
        probe_chat(model)


@pytest.mark.parametrize(
    "source",
    [
        MESSAGES,
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{% if false %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "{{ strftime_now('%Y') }}" + MESSAGES,
    ],
)
def test_templates_in_use_are_taken(model: Path, source: str) -> None:
    template(source)(model)
    assert probe_chat(model).vocabulary == 424


def test_it_is_told_what_a_template_takes(model: Path) -> None:
    assert probe_chat(model).has_system_role
    assert not probe_chat(model).shows_tools
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template(no_system + "{{ tools | tojson if tools else '' }}" + MESSAGES)(model)
    assert not probe_chat(model).has_system_role
    assert probe_chat(model).shows_tools


def test_the_data_type_and_the_tokens_of_the_weights_are_read(model: Path) -> None:
    checkpoint, _ = check_model(model)
    assert (checkpoint.data_type, checkpoint.embeddings) == ("F32", 448)
    edited("config.json", quantization_config={"quant_method": "awq"})(model)
    assert check_model(model)[0].data_type == "F32, awq"
