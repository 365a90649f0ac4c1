"""A package whose skill and tool are defined in a module of its own."""

from tests.server.plugins_under_test.package.parts import Gambler, roll

__all__ = ["Gambler", "roll"]
