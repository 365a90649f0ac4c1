"""Posts follow a reply, also when a server dies between a call of the platform and its answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.server.platforms.board import Board
from tests.server.platforms.test_poster import CHANNEL, TIMES, Says

from palaver.messages import Conversation, Message
from palaver.platforms.outbox import Outbox
from palaver.platforms.rendering import Dialect, render
from palaver.platforms.reply_posts import ReplyPosts
from palaver.replies import TurnReply
from palaver.server import Server
from palaver.testing import converse

CONVERSATION = Conversation("default", CHANNEL, "t")
TEXT = "\n\n".join(f"{number} paragraph with some more words in it." for number in range(30))
WHOLE = TurnReply("turn", messages=["m1"], text=TEXT, outcome="done")


def beginning(length: int) -> TurnReply:
    return TurnReply("turn", messages=["m1"], text=TEXT[:length])


@contextlib.asynccontextmanager
async def conversation() -> AsyncIterator[Server]:
    """Yield a server on which the conversation has an outbox."""
    async with converse(Says) as chat:
        message = Message(conversation=CONVERSATION, id="m1", person="ada", text="Hi")
        await chat.server.accept(message, members_only=False, outbox=True)
        yield chat.server


async def posts_of(server: Server, board: Board) -> ReplyPosts:
    """Return the posts as a server has them that has just claimed the outbox."""
    record = await server.records.claim_record(CHANNEL, 0.0)
    assert record is not None
    return ReplyPosts(server, board, Outbox(server.records, record, 0.0), TIMES)


async def die_in(posts: ReplyPosts, reply: TurnReply, board: Board) -> None:
    """Let a server die while a call hangs that brings the posts to what a reply says."""
    updating = asyncio.create_task(posts.update(reply))
    await board.wait_until_hanging()
    updating.cancel()
    await asyncio.gather(updating, return_exceptions=True)


@pytest.mark.parametrize("length", [1_200, 100])
async def test_a_post_whose_text_is_withdrawn_is_deleted_although_its_answer_is_lost(
    length: int,
) -> None:
    board = Board()
    board.faults["create", 2] = "hang"
    async with conversation() as server:
        await die_in(await posts_of(server, board), beginning(700), board)
        posts = await posts_of(server, board)
        await posts.update(beginning(length))
        await posts.update(WHOLE)
        assert "\n\n".join(board.shown(CONVERSATION)) == render(TEXT, Dialect())


async def test_text_that_comes_again_after_its_post_was_deleted_is_posted() -> None:
    board = Board()
    board.faults["delete", 1] = "hang"
    async with conversation() as server:
        posts = await posts_of(server, board)
        await posts.update(beginning(700))
        await die_in(posts, beginning(100), board)
        await (await posts_of(server, board)).update(WHOLE)
        assert "\n\n".join(board.shown(CONVERSATION)) == render(TEXT, Dialect())


async def test_a_message_of_an_earlier_attempt_gets_the_text_of_now() -> None:
    board = Board()
    board.recognizes_posts = True
    board.faults["create", 1] = "hang"
    board.faults["find", 1] = "blind"
    async with conversation() as server:
        await die_in(await posts_of(server, board), beginning(100), board)
        await (await posts_of(server, board)).update(WHOLE)
        assert "\n\n".join(board.shown(CONVERSATION)) == render(TEXT, Dialect())
        assert board.calls.count("find") == 1
