"""The web surface: websocket, HTTP API, server-sent events, the page, health and metrics."""

from palaver.web.application import ACTIVE_REQUESTS, ActiveRequests, make_application

__all__ = ["ACTIVE_REQUESTS", "ActiveRequests", "make_application"]
