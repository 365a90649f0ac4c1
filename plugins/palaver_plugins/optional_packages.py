"""Import of packages that only some engines, channels and sources of tools need."""

import importlib
from typing import Any, Literal

from palaver import ConfigurationError


def import_packages(
    kind: Literal["engine", "embedder", "channel", "knowledge base", "tool source"],
    name: str,
    *packages: str,
) -> list[Any]:  # Any: modules
    """Return the modules ``packages``, which the extra ``name`` installs. Raises
    `ConfigurationError` that says so."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise ConfigurationError(
            f"{kind} {name!r}: {error}; install it with: pip install 'palaver-server[{name}]'"
        ) from error
