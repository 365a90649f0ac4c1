"""The web surface: websocket, HTTP API, server-sent events, the page, health and metrics."""

from palaver.web.application import LONG_REQUESTS, make_application

__all__ = ["LONG_REQUESTS", "make_application"]
