"""Copies of the starter model, for tests that need a model that the embedded engine runs."""

import shutil
from pathlib import Path

from palaver.models.registry import shipped_models


def copy_starter(folder: Path) -> Path:
    """Copy the starter model into a new folder; return the folder."""
    folder.mkdir()
    for file in shipped_models()["starter"].iterdir():
        if file.suffix in (".json", ".safetensors"):
            shutil.copyfile(file, folder / file.name)
    return folder


def streaming_model(folder: Path) -> str:
    """Return the setting of a copy of the starter model that does not say what it was made for, so
    that skills check nothing first: replies are shown while they are written."""
    (copy_starter(folder) / "card.json").unlink()
    return f"engine.openvino.model={folder}"
