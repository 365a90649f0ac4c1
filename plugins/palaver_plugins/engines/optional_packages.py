"""Import of packages that only some engines need."""

import importlib
from typing import Any

from palaver import ConfigurationError


def import_packages(engine: str, *names: str) -> list[Any]:  # Any: modules
    """Return the modules ``names``. Raises `ConfigurationError` that says how to install them."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ConfigurationError(
            f"engine {engine!r}: {error}; install it with: pip install 'palaver-server[{engine}]'"
        ) from error
