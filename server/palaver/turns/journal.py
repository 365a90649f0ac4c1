"""Journal: the recorded steps of a turn, which a repeated run of its skill does not repeat."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from palaver.errors import LimitExceeded
from palaver.ledger import Step

T = TypeVar("T")


class Journal:
    """Recorded steps of a turn, identified by their order, verb and inputs.

    ``write`` stores a step in the ledger, later. The results of all steps take at most
    ``max_bytes``.
    """

    def __init__(
        self, steps: Iterable[Step], write: Callable[[Step], None], max_bytes: int
    ) -> None:
        self._steps = {step.number: step for step in steps}
        self._write = write
        self._max_bytes = max_bytes
        self._earlier: frozenset[int] = frozenset()
        """Numbers of the steps of earlier turns, in a turn that continues after a question."""
        self._next = 0
        self._size = self._measure()

    @property
    def position(self) -> int:
        """Return the number of the step that comes next."""
        return self._next

    def skip_to(self, position: int) -> None:
        """Leave out the steps up to ``position``, which were taken for a recorded result."""
        self._next = position

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps[number] for number in sorted(self._steps))

    def next_step(self, verb: str, *inputs: str) -> Step:
        """Return the running skill's next step.

        When the recorded step has another verb or other inputs, the skill runs differently this
        time: the records from this step on are dropped.
        """
        digest = _digest(verb, inputs)
        step = Step(number=self._next, verb=verb, fingerprint=digest, done=False)
        self._next += 1
        recorded = self._steps.get(step.number)
        if recorded is not None and not recorded.verb:
            del self._steps[step.number]  # withdrawn, unlike those that ran beside it
        elif recorded is not None and (recorded.verb, recorded.fingerprint) != (verb, digest):
            for later in [number for number in self._steps if number >= step.number]:
                del self._steps[later]
            self._size = self._measure()
        return step

    def is_next(self, verb: str, *inputs: str) -> bool:
        """Return True when the next step is recorded, with this verb and, if there are some, with
        these inputs."""
        recorded = self._steps.get(self._next)
        if recorded is None or recorded.verb != verb:
            return False
        return not inputs or recorded.fingerprint == _digest(verb, inputs)

    def recorded_result(self, step: Step, kind: type[T]) -> T | None:
        """Return the recorded result of the step, or None when it has to be performed."""
        recorded = self._steps.get(step.number)
        if recorded is None or not recorded.done:
            return None
        return msgspec.json.decode(recorded.result, type=kind)

    def was_started(self, step: Step) -> bool:
        return step.number in self._steps

    def is_of_earlier_turn(self, step: Step) -> bool:
        """Return True when the step was taken before the question that this turn answers."""
        return self.is_number_of_earlier_turn(step.number)

    def is_number_of_earlier_turn(self, number: int) -> bool:
        """Return True when the step with that number was taken before that question."""
        return number in self._earlier

    def record_start(self, step: Step) -> None:
        """Record that the step is about to be performed."""
        self._steps[step.number] = step
        self._write(step)

    def withdraw(self, step: Step) -> None:
        """Record that the step was not performed after all, by a step without a verb."""
        self._write(msgspec.structs.replace(step, verb="", fingerprint=""))

    def record_result(self, step: Step, result: object) -> None:
        """Record the result of the step, a value that msgspec encodes.

        Raises `LimitExceeded` when the journal would become too large.
        """
        done = _complete(step, result)
        self._size += _size_of(done)
        if self._size > self._max_bytes:
            raise LimitExceeded(
                f"step {step.number} ({step.verb!r}) returned {_size_of(done)} bytes; the results "
                f"of a turn's steps may take {self._max_bytes} together "
                "(dispatch.max_journal_bytes): return less",
                limit="max_journal_bytes",
            )
        self._steps[step.number] = done
        self._write(done)

    async def run_once(
        self,
        kind: type[T],
        perform: Callable[[Step], Awaitable[T]],
        verb: str,
        *inputs: str,
    ) -> T:
        """Return the recorded result of the next step, else record and return ``perform``'s."""
        step = self.next_step(verb, *inputs)
        result = self.recorded_result(step, kind)
        if result is None:
            result = await perform(step)
            self.record_result(step, result)
        return result

    def keep_open(self, step: Step) -> None:
        """Keep a step without a result: a question, answered in another turn."""
        self._steps[step.number] = step

    def resume(self, asked: tuple[Step, ...], answer: object) -> None:
        """Insert the steps of the turns that asked before this turn's, and answer the last."""
        earlier = {step.number: step for step in asked}
        earlier[asked[-1].number] = _complete(asked[-1], answer)
        self._steps = earlier | self._steps
        self._earlier = frozenset(earlier)
        self._size = self._measure()

    def _measure(self) -> int:
        return sum(map(_size_of, self._steps.values()))


def _digest(verb: str, inputs: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join((verb, *inputs)).encode(), digest_size=8).hexdigest()


def _size_of(step: Step) -> int:
    return memoryview(step.result).nbytes


def _complete(step: Step, result: object) -> Step:
    encoded = msgspec.Raw(msgspec.json.encode(result))
    return msgspec.structs.replace(step, done=True, result=encoded)
