"""Journal: the recorded steps of a turn, and the place of the running skill among them."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from palaver.ledger import Step

T = TypeVar("T")


class Journal:
    """Steps are told apart by their order, their verb and their inputs.

    ``write`` puts a step on its way to the ledger.
    """

    def __init__(self, steps: Iterable[Step], write: Callable[[Step], None]) -> None:
        self._steps = {step.number: step for step in steps}
        self._write = write
        self._next = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps[number] for number in sorted(self._steps))

    def begin(self, verb: str, *inputs: str) -> Step:
        """The running skill's next step.

        One that was recorded with another verb or other inputs means that the skill takes another
        way this time: the journal from there on does not apply, and is forgotten.
        """
        digest = hashlib.blake2b("\0".join((verb, *inputs)).encode(), digest_size=8).hexdigest()
        step = Step(number=self._next, verb=verb, fingerprint=digest, done=False)
        self._next += 1
        held = self._steps.get(step.number)
        if held is not None and (held.verb, held.fingerprint) != (verb, digest):
            for later in [number for number in self._steps if number >= step.number]:
                del self._steps[later]
        return step

    def result(self, step: Step, kind: type[T]) -> T | None:
        """What the step gave when it was done; None when it has to be done."""
        held = self._steps.get(step.number)
        return msgspec.json.decode(held.result, type=kind) if held and held.done else None

    def was_started(self, step: Step) -> bool:
        return step.number in self._steps

    def start(self, step: Step) -> None:
        """Record that the step is about to be done."""
        self._steps[step.number] = step
        self._write(step)

    def withdraw(self, step: Step) -> None:
        """Record that the step has not been done after all: no step has its place."""
        self._write(msgspec.structs.replace(step, verb="", fingerprint=""))

    def finish(self, step: Step, result: object) -> None:
        """Record what the step gave, a value that msgspec encodes."""
        done = _done(step, result)
        self._steps[step.number] = done
        self._write(done)

    async def once(
        self,
        kind: type[T],
        perform: Callable[[Step], Awaitable[T]],
        verb: str,
        *inputs: str,
    ) -> T:
        """The recorded result of the next step, else that of ``perform``, recorded."""
        step = self.begin(verb, *inputs)
        result = self.result(step, kind)
        if result is None:
            result = await perform(step)
            self.finish(step, result)
        return result

    def hold(self, step: Step) -> None:
        """Keep a step that waits for the person, who answers in another turn."""
        self._steps[step.number] = step

    def resume(self, asked: tuple[Step, ...], answer: str) -> None:
        """Put the steps of the turns that asked before this one's; the last gets its answer."""
        earlier = {step.number: step for step in asked}
        earlier[asked[-1].number] = _done(asked[-1], answer)
        self._steps = earlier | self._steps


def _done(step: Step, result: object) -> Step:
    encoded = msgspec.Raw(msgspec.json.encode(result))
    return msgspec.structs.replace(step, done=True, result=encoded)
