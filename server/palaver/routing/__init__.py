"""Routing: the choice of the skill that answers a message."""

from palaver.routing.router import Decision, Router

__all__ = ["Decision", "Router"]
