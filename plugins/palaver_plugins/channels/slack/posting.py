"""Posting: messages that are posted as a whole, changed and deleted."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from palaver import run_on_text
from palaver.platforms import OutgoingPost, PostTooLong, Refused
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.api import Installations, RefusedCall, call
from palaver_plugins.channels.slack.blocks import Block, fallback, notice, variants
from palaver_plugins.channels.slack.pace import Pace, pausing

REPLY, NOTICE = "palaver_reply", "palaver_notice"
"""What the metadata of a message says about it."""
TOO_LONG = frozenset({"msg_blocks_too_long", "msg_too_long"})
UNUSABLE = frozenset({"invalid_blocks", "invalid_blocks_format", "block_mismatch"})
"""Errors after which a simpler form of the same text may be taken."""

Json = dict[str, Any]
_Call = Callable[[list[Block]], Awaitable[AsyncSlackResponse]]


class Posting:
    def __init__(self, installations: Installations, pace: Pace) -> None:
        self._installations = installations
        self._pace = pace

    async def create(self, thread: Thread, post: OutgoingPost, below: Sequence[Block]) -> str:
        """Post a message and return its ts."""
        client = await self._installations.client(thread.team)
        text = await run_on_text(fallback, post.text)

        async def send(blocks: list[Block]) -> AsyncSlackResponse:
            return await self._post(
                client, thread, text=text, blocks=blocks, metadata=reply_metadata(post)
            )

        answer = await _simplified(post.text, below, send)
        return str(answer["ts"])

    async def update(self, thread: Thread, post: OutgoingPost, below: Sequence[Block]) -> None:
        """Replace a message. While the reply goes on, it raises `RateLimited` rather early."""
        client = await self._installations.client(thread.team)
        if post.reply.outcome is None and post.is_last:
            self._pace.updates.take(thread.team)
        text = await run_on_text(fallback, post.text)

        async def send(blocks: list[Block]) -> AsyncSlackResponse:
            answer = client.chat_update(
                channel=thread.channel,
                ts=post.message,
                text=text,
                blocks=blocks,
                metadata=reply_metadata(post),
            )
            with pausing(self._pace.updates, thread.team):
                return await call(answer)

        await _simplified(post.text, below, send)

    async def delete(self, thread: Thread, ts: str) -> None:
        client = await self._installations.client(thread.team)
        await call(client.chat_delete(channel=thread.channel, ts=ts))

    async def notify(self, thread: Thread, user: str, text: str) -> None:
        """Tell one person something: in a channel only that person sees it."""
        client = await self._installations.client(thread.team)
        if thread.is_direct:
            metadata = {"event_type": NOTICE, "event_payload": {}}
            await self._post(client, thread, text=notice(text), metadata=metadata)
        else:  # in a thread it is only seen by people who look at it
            await call(
                client.chat_postEphemeral(channel=thread.channel, user=user, text=notice(text))
            )

    async def _post(
        self, client: AsyncWebClient, thread: Thread, **content: Any
    ) -> AsyncSlackResponse:
        """Any: the arguments of ``chat.postMessage``."""
        channel = f"{thread.team}.{thread.channel}"
        await self._pace.posts.wait(channel)
        answer = client.chat_postMessage(
            channel=thread.channel,
            thread_ts=thread.root or None,
            unfurl_links=False,
            unfurl_media=False,
            **content,
        )
        with pausing(self._pace.posts, channel):
            return await call(answer)


def reply_metadata(post: OutgoingPost) -> Json:
    return {"event_type": REPLY, "event_payload": {"id": post.id}}


async def _simplified(text: str, below: Sequence[Block], send: _Call) -> AsyncSlackResponse:
    """Send a text in the first form that Slack takes."""
    refusal: Refused | None = None
    for blocks in variants(text, below):
        try:
            return await send(blocks)
        except RefusedCall as error:
            if error.code in TOO_LONG:
                raise PostTooLong(str(error)) from error
            if error.code not in UNUSABLE:
                raise
            refusal = error
    assert refusal is not None
    raise refusal
