"""Dead letters of `palaver.testing.ledger.MemoryLedger`."""

import msgspec

from palaver.ledger import MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, DeadLetter
from palaver.messages import Conversation, Message, encode


class DeadLetters:
    """Dead letters, oldest first, each with the person to whom its turn belongs."""

    def __init__(self) -> None:
        self._letters: dict[str, tuple[str, DeadLetter]] = {}
        """By turn."""

    def store(self, person: str, letter: DeadLetter) -> None:
        """Store a dead letter; drop the oldest ones above the limits."""
        self._letters[letter.turn] = (person, letter)
        while len(self._letters) > 1 and self._has_too_many():
            del self._letters[next(iter(self._letters))]

    def _has_too_many(self) -> bool:
        size = sum(len(encode(letter)) for _, letter in self._letters.values())
        return len(self._letters) > MAX_DEAD_LETTERS or size > MAX_DEAD_LETTER_BYTES

    def newest(self, limit: int) -> tuple[DeadLetter, ...]:
        letters = sorted((letter for _, letter in self._letters.values()), key=lambda it: -it.at)
        return tuple(letters[: max(limit, 0)])

    def messages_in(self, turn: str) -> tuple[Message, ...]:
        return self._letters[turn][1].messages if turn in self._letters else ()

    def messages_of(self, tenant: str, person: str) -> list[Message]:
        letters = [letter for _, letter in self._of_tenant(tenant)]
        return [each for letter in letters for each in letter.messages if each.person == person]

    def discard(self, turn: str) -> bool:
        return self._letters.pop(turn, None) is not None

    def erase(self, tenant: str, person: str, conversation: Conversation | None) -> int:
        """Delete a person's dead letters, and their messages from those of others; return how many
        dead letters changed."""
        changed = 0
        for owner, letter in self._of_tenant(tenant):
            if conversation not in (None, letter.messages[0].conversation):
                continue
            others = tuple(message for message in letter.messages if message.person != person)
            changed += len(others) < len(letter.messages)
            if owner == person:
                del self._letters[letter.turn]
            else:
                rest = msgspec.structs.replace(letter, messages=others)
                self._letters[letter.turn] = (owner, rest)
        return changed

    def _of_tenant(self, tenant: str) -> list[tuple[str, DeadLetter]]:
        return [
            (owner, letter)
            for owner, letter in self._letters.values()
            if letter.messages[0].conversation.tenant == tenant
        ]
