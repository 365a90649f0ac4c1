"""The tests' model as a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palaver.models.model_files import read_json
from palaver_plugins.engines import gguf_conversion


def gguf_of(model: Path) -> Path:
    """Return the GGUF file of the model in a directory, beside it, written unless it is there; a
    file itself."""
    if model.is_file():
        return model
    file = model.with_name(f"{model.name}.gguf")
    return file if file.exists() else write_gguf(file, model)


def write_gguf(file: Path, model: Path, *, shards: int = 0, **metadata: Any) -> Path:
    """Write the model in a directory as a GGUF file, with further metadata. ``shards``: tensors of
    each shard, 0 for one file."""
    import gguf

    config, tokenizer = read_json(model / "config.json"), read_json(model / "tokenizer.json")
    settings = read_json(model / "tokenizer_config.json")
    writer = gguf.GGUFWriter(file, "qwen2", split_max_tensors=shards)
    gguf_conversion.add_metadata(writer, config)
    add_vocabulary(writer, config, tokenizer)
    if template := metadata.pop("chat_template", settings.get("chat_template")):
        writer.add_chat_template(template)
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in gguf_conversion.read_weights(model):
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_vocabulary(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Write the vocabulary, split as the tests' tokenizer splits text."""
    gguf_conversion.add_vocabulary(writer, dict(config), dict(tokenizer))
    writer.kv_data[0]["tokenizer.ggml.pre"].value = "gpt-2"
