"""Models whose files do not fit together are refused by name when they are converted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.models import write_model

from palaver import ConfigurationError
from palaver_plugins.engines.gguf_conversion import ConversionOptions, convert_cached

pytest.importorskip("gguf")

Json = dict[str, Any]  # JSON values


def change_config(key: str, value: object) -> Callable[[Json, Json], None]:
    return lambda config, tokenizer: config.__setitem__(key, value)


def change_token(value: object) -> Callable[[Json, Json], None]:
    def change(config: Json, tokenizer: Json) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary[next(iter(vocabulary))] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_config("vocab_size", 10**12),
        change_config("vocab_size", -1),
        change_config("vocab_size", "many"),
        change_config("num_attention_heads", 0),
        change_token(10**9),
        change_token(-3),
        change_token("one"),
        lambda config, tokenizer: tokenizer.pop("model"),
        lambda config, tokenizer: tokenizer["model"].__setitem__("merges", [3]),
    ],
)
def test_a_model_whose_files_do_not_fit_together_is_named(
    tmp_path: Path, change: Callable[[Json, Json], None]
) -> None:
    model = write_model(tmp_path / "model")
    config, tokenizer = model / "config.json", model / "tokenizer.json"
    values = json.loads(config.read_text()), json.loads(tokenizer.read_text())
    change(*values)
    config.write_text(json.dumps(values[0]))
    tokenizer.write_text(json.dumps(values[1]))
    with pytest.raises(ConfigurationError, match="model "):
        convert_cached(model, tmp_path / "cache", ConversionOptions())
    assert list((tmp_path / "cache").iterdir()) == []
