"""The web surface: websocket, HTTP API, server-sent events, the page, health and metrics."""

from palaver.web.application import UNDER_WAY, UnderWay, make_application
from palaver.web.authentication import check_bind

__all__ = ["UNDER_WAY", "UnderWay", "check_bind", "make_application"]
