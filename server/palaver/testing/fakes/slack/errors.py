"""Errors of Slack's Web API."""

from palaver.testing.fakes.slack.objects import Json


class SlackError(Exception):
    """An answer of the Web API with ``ok: false``; ``details`` are further fields of it."""

    def __init__(self, error: str, **details: object) -> None:
        super().__init__(error)
        self.answer: Json = {"ok": False, "error": error, **details}


class RateLimitExceeded(Exception):
    """An answer with status 429."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


def invalid(message: str) -> SlackError:
    return SlackError("invalid_arguments", response_metadata={"messages": [f"[ERROR] {message}"]})
