"""Conversations and people of Slack have names that say where to post."""

import pytest

from palaver import InvalidInput
from palaver_plugins.channels.slack.addresses import Thread, person_of, user_of


@pytest.mark.parametrize(
    "thread",
    [Thread("T1", "C1", "1700000000.000100"), Thread("E9", "D1"), Thread("T1", "D1", "17.000100")],
)
def test_a_thread_is_read_as_it_was_written(thread: Thread) -> None:
    assert Thread.parse(str(thread)) == thread


def test_only_the_channel_of_direct_messages_is_direct() -> None:
    assert Thread("T1", "D1").is_direct
    assert not Thread("T1", "C1", "1700000000.000100").is_direct


@pytest.mark.parametrize("text", ["", "T1", "T1.C1.", "T1.C1.x", "T1.C1.1700000000.1", "t1.c1"])
def test_another_thread_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not of the form"):
        Thread.parse(text)


def test_a_person_is_a_user_of_a_workspace() -> None:
    assert user_of(person_of("T1", "W2")) == ("T1", "W2")
    with pytest.raises(InvalidInput, match="is not of the form"):
        user_of("discord.123")
