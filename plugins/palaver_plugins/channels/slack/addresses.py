"""Addresses: how conversations and people of Slack are named in Palaver."""

import dataclasses
import re

from palaver import InvalidInput

TIMESTAMP = re.compile(r"\d{1,12}\.\d{6}")
"""A ``ts``: the id of a message in its channel."""
_ID = r"[A-Z][A-Z0-9]{0,30}"
_THREAD = re.compile(rf"({_ID})\.({_ID})(?:\.({TIMESTAMP.pattern}))?")
_PERSON = re.compile(rf"slack\.({_ID})\.({_ID})")


@dataclasses.dataclass(frozen=True, slots=True)
class Thread:
    """Where a conversation takes place; ``str`` gives the thread of its `Conversation`.

    ``team`` is the workspace of the installation, or the organization that has installed the app.
    ``root`` is the ``ts`` of the first message of a thread, empty for direct messages outside of
    threads.
    """

    team: str
    channel: str
    root: str = ""

    def __str__(self) -> str:
        return ".".join(filter(None, (self.team, self.channel, self.root)))

    @property
    def is_direct(self) -> bool:
        """Return whether these are direct messages of one person."""
        return self.channel.startswith("D")

    @classmethod
    def parse(cls, thread: str) -> "Thread":
        """Return the value that ``str`` has written. Raises `InvalidInput`."""
        if match := _THREAD.fullmatch(thread):
            return cls(*match.groups(default=""))
        raise InvalidInput(f"the thread {thread[:60]!r} is not of the form T1.C1.1700000000.000100")


def person_of(team: str, user: str) -> str:
    """Return the person of a user of Slack."""
    return f"slack.{team}.{user}"


def user_of(person: str) -> tuple[str, str]:
    """Return team and user of a person. Raises `InvalidInput`."""
    if match := _PERSON.fullmatch(person):
        return match[1], match[2]
    raise InvalidInput(f"the person {person[:60]!r} is not of the form slack.T1.U1")
