"""The libraries of the extra ``evaluation``, imported when a metric needs one."""

import importlib
from typing import Any

from palaver.errors import ConfigurationError


def load_library(name: str) -> Any:  # Any: a module, which mypy does not know
    """Return the module. Raises `ConfigurationError` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"evaluation needs {name.partition('.')[0]}, which is not installed: "
            "pip install 'palaver-server[evaluation]'"
        ) from error
