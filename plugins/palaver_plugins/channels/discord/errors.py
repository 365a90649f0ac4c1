"""Errors of Discord and of its library, as those that the kit of channels knows."""

import contextlib
from collections.abc import Iterator

import aiohttp
import discord

from palaver.platforms import MessageGone, PostingError, RateLimited, Refused, Unreachable

UNKNOWN_MESSAGE = 10008
NO_HISTORY = 160002
"""A reply to a message needs the permission to read the history."""
THREAD_EXISTS = 160004
OLD_EDITS = 30046
"""A message older than an hour can be edited a few times only."""
ALREADY_ANSWERED = 40060
UNKNOWN_WEBHOOK = 10015
"""Discord does not have the first answer to an interaction yet."""
LATE_CODES = frozenset({10062, 50027})
"""An interaction was answered after 3 seconds, or after its token's 15 minutes."""
_REASONS = {
    10003: "the channel is deleted",
    50001: "the bot has no access to the channel",
    50007: "the person takes no direct messages of the bot",
    50013: "the bot may not write in the channel",
    50083: "the thread is archived",
    160005: "the thread is locked",
}
"""Codes of what does not go away by itself."""
DEFAULT_PAUSE = 60.0
"""Seconds to wait where Discord does not say for how long."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise a `PostingError` for what goes wrong in a call of Discord's API."""
    try:
        yield
    except discord.RateLimited as error:
        raise RateLimited(error.retry_after) from error
    except discord.HTTPException as error:
        raise posting_error(error) from error
    except (aiohttp.ClientError, OSError) as error:  # the library raises them as they are
        raise Unreachable(f"Discord cannot be reached: {type(error).__name__}") from error


def posting_error(error: discord.HTTPException) -> PostingError:
    if error.status == 429:  # without the header Via: from the network in front of Discord
        return RateLimited(_retry_after(error))
    if error.code in (UNKNOWN_MESSAGE, OLD_EDITS):
        return MessageGone("the message is deleted, or too old to be edited again")
    if reason := _REASONS.get(error.code):
        return Refused(f"{reason} (Discord's error {error.code})")
    if error.status == 401:
        return Unreachable("Discord refuses the bot's token")
    if error.status >= 500 or not error.code:  # without a code it is no answer of Discord's API
        return Unreachable(f"Discord answered with the status {error.status}")
    return Refused(f"Discord refuses the request with its error {error.code}")


def is_limit_of_old_edits(error: discord.HTTPException | discord.RateLimited) -> bool:
    """Return whether an edit fails since the message is older than an hour. Discord answers 429 and
    wants a long pause; then the library keeps no code."""
    return isinstance(error, discord.RateLimited) or error.code == OLD_EDITS


def _retry_after(error: discord.HTTPException) -> float:
    try:
        return max(1.0, float(error.response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return DEFAULT_PAUSE
