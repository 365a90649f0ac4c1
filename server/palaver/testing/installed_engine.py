"""The engine of a server with given settings, for a test that needs a real model."""

from palaver.app import BackendBuilder, create_data_directory
from palaver.config.settings import Settings
from palaver.engine import Engine
from palaver.plugins import load_plugins


def installed_engine(settings: Settings | None = None) -> Engine:
    """Return the engine that ``settings`` choose; without settings, the embedded one with the
    starter model. The server, or its own ``start``, loads the model. Raises `ConfigurationError`.
    """
    settings = settings or Settings()
    create_data_directory(settings)
    return BackendBuilder(settings, load_plugins()).engine()
