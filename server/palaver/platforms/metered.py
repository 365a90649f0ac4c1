"""MeteredCalls: counts the calls of a platform."""

from collections.abc import Awaitable
from typing import TypeVar

from palaver.metrics import CallResult, ChannelMetrics, PlatformCall
from palaver.platforms.platform import (
    AlreadyPosted,
    MessageGone,
    NotEditable,
    OutgoingPost,
    Platform,
    PostFull,
    PostTooLong,
    RateLimited,
    Refused,
    Unreachable,
)

T = TypeVar("T")
RESULTS: tuple[tuple[type[BaseException], CallResult], ...] = (
    (RateLimited, "rate_limited"),
    (Unreachable, "unreachable"),
    (Refused, "refused"),
    (MessageGone, "gone"),
    (NotEditable, "gone"),
    (PostTooLong, "refused"),
    (PostFull, "done"),
    (AlreadyPosted, "done"),
)


class MeteredCalls:
    """The calls of a platform that post, counted."""

    def __init__(self, platform: Platform, channel: str, metrics: ChannelMetrics) -> None:
        self._platform = platform
        self._channel = channel
        self._metrics = metrics

    async def create(self, post: OutgoingPost) -> str:
        return await self._count("create", self._platform.create(post))

    async def edit(self, post: OutgoingPost) -> None:
        await self._count("edit", self._platform.edit(post))

    async def delete(self, post: OutgoingPost) -> None:
        await self._count("delete", self._platform.delete(post))

    async def find(self, post: OutgoingPost) -> str:
        found = await self._count("find", self._platform.find(post))
        if found:
            self._metrics.lost_answer(self._channel)
        return found

    async def _count(self, call: PlatformCall, made: Awaitable[T]) -> T:
        result: CallResult = "failed"
        try:
            answer = await made
            result = "done"
            return answer
        except BaseException as error:
            result = next((name for kind, name in RESULTS if isinstance(error, kind)), "failed")
            raise
        finally:
            self._metrics.called(self._channel, call, result)
