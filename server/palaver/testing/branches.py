"""Alternatives in a conversation of `palaver.testing.ledger.MemoryLedger`."""

from collections.abc import Sequence

from palaver.branches import check_alternatives, not_in_history


class Branches:
    """Which turns are alternatives, and which of the settled ones are superseded."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        """The turn before each alternative; empty before the first turn of all."""
        self._superseded: dict[str, str] = {}
        """For each superseded turn, the alternative that it came after, or is."""

    def is_superseded(self, turn: str) -> bool:
        return turn in self._superseded

    def has(self, turn: str) -> bool:
        """Return whether a turn is an alternative."""
        return turn in self._parents

    @property
    def has_any(self) -> bool:
        """Return whether there are alternatives."""
        return bool(self._parents)

    @property
    def has_superseded(self) -> bool:
        return bool(self._superseded)

    def alternatives(self, turns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return the groups of alternatives; ``turns`` has them in the order of their age."""
        groups: dict[str, list[str]] = {}
        for turn in turns:
            if turn in self._parents:
                groups.setdefault(self._parents[turn], []).append(turn)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def continue_after(self, parent: str, turns: Sequence[str], new: str) -> bool:
        """Supersede what comes after ``parent`` in the history, for the turn ``new``; return False
        when nothing does. ``turns`` are the history's, in order."""
        following = self._following(parent, turns)
        if not following:
            return False
        self._parents.setdefault(following[0], parent)
        self._parents[new] = parent
        self._supersede(following)
        return True

    def check(self, parent: str, turns: Sequence[str]) -> None:
        """Raise an error when `continue_after` is not possible."""
        self._following(parent, turns)
        check_alternatives(len(self._parents))

    def select(self, turn: str, turns: Sequence[str]) -> bool:
        """Make an alternative part of the history; return False when it is."""
        if turn not in self._superseded:
            return False
        parent = self._parents[turn]
        if parent in self._superseded:
            self.select(self._superseded[parent], turns)
        following = self._following(parent, turns)
        if following:
            self._parents.setdefault(following[0], parent)
            self._supersede(following)
        for each in [each for each, of in self._superseded.items() if of == turn]:
            del self._superseded[each]
        return True

    def path(self, turn: str, turns: Sequence[str]) -> list[str]:
        """Return the turns that led to ``turn``, and itself; ``turns`` are in order."""
        found: list[str] = []
        while turn:
            alternative = self._superseded.get(turn)
            line = [each for each in turns if self._superseded.get(each) == alternative]
            first = place = line.index(turn)
            while first and line[first] not in self._parents:
                first -= 1
            found = line[first : place + 1] + found
            turn = self._parents.get(line[first], "")
        return found

    def forget(self, erased: str, turns: Sequence[str]) -> None:
        """Remove a turn that is erased: what follows it takes its place. ``turns`` are those of the
        conversation with the erased one, in order."""
        alternative = self._superseded.get(erased)
        line = [turn for turn in turns if self._superseded.get(turn) == alternative]
        place = line.index(erased)
        is_alternative = erased in self._parents
        previous = line[place - 1] if place else ""
        parent = self._parents.pop(erased, previous)
        for turn, of in self._parents.items():
            if of == erased:
                self._parents[turn] = parent
        if is_alternative and line[place + 1 :]:
            self._parents.setdefault(line[place + 1], parent)
        self._superseded.pop(erased, None)
        if alternative == erased:
            self._supersede(line[place + 1 :])

    def _following(self, parent: str, turns: Sequence[str]) -> list[str]:
        selected = [turn for turn in turns if turn not in self._superseded]
        if not parent:
            return selected
        if parent not in selected:
            raise not_in_history(parent)
        return selected[selected.index(parent) + 1 :]

    def _supersede(self, turns: Sequence[str]) -> None:
        for turn in turns:
            self._superseded[turn] = turns[0]
