"""Libraries of the optional extras, imported when something needs one."""

import importlib
from typing import Any

from palaver.errors import ConfigurationError


def load_library(name: str, *, extra: str = "evaluation") -> Any:  # Any: mypy does not know it
    """Return the module. Raises `ConfigurationError` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {name.partition('.')[0]}, which is not installed: "
            f"pip install 'palaver-server[{extra}]'"
        ) from error
