"""Routing: how a message finds its skill."""

from palaver.routing.router import Decision, Router

__all__ = ["Decision", "Router"]
