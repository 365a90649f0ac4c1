"""The web surface: websocket, HTTP API, server-sent events, the page, health and metrics."""

from palaver.web.application import make_application
from palaver.web.authentication import check_bind

__all__ = ["check_bind", "make_application"]
