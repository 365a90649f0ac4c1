"""Contract: whatever is done in whatever order, a ledger shows what `MemoryLedger` shows.

Two tenants and a few people, threads and message ids are enough for everything to collide.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from tests.proof import size

from palaver.errors import PalaverError
from palaver.ledger import Claim, Entry, Ledger, Step, Waiting
from palaver.messages import (
    Conversation,
    Finished,
    Message,
    Outcome,
    Routed,
    Started,
    Text,
    TextReset,
)
from palaver.testing.ledger import MemoryLedger

if TYPE_CHECKING:
    from tests.ledgers.conftest import PlaceFactory

T = TypeVar("T")
Call = Callable[[Ledger, dict[str, str]], Coroutine[Any, Any, Any]]  # Any: compared, not used

TENANTS = st.sampled_from(["acme", "acm"])
PEOPLE = st.sampled_from(["ada", "bob"])
THREADS = st.sampled_from(["t", "u"])
IDENTITIES = st.sampled_from(["m1", "m2", "m3"])
WORDS = st.text(st.sampled_from("ab é🌊\n\"'%"), min_size=1, max_size=8)
WHERE = st.sampled_from([Conversation("acme", "web", "t")] * 3) | st.builds(
    Conversation, TENANTS, st.just("web"), THREADS
)


class Pair(msgspec.Struct, frozen=True):
    """The claim of one turn in the ledger under test and in the model."""

    real: Claim
    model: Claim


class Model(MemoryLedger):
    """Looks at the inside of the ledger that is the model."""

    def prefer(self, conversation: Conversation) -> None:
        """Let a conversation that is due be the first."""
        held = self._all[str(conversation)]
        if held in self._ready:
            self._ready.remove(held)
        held.ready = True
        self._ready.appendleft(held)

    def state_of(self, claim: Claim) -> tuple[int, int]:
        """Length of the reply and index of a turn; 0, 0 when it is not open."""
        held = self._all.get(str(claim.conversation))
        for turn in held.inbox if held else ():
            if turn.id == claim.turn:
                return turn.length, turn.index
        return 0, 0


class Comparison(RuleBasedStateMachine):
    """Does the same to a ledger and to the model, and compares what they return."""

    claims = Bundle("claims")

    def __init__(self, factory: "PlaceFactory", directory: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.place = self.run(self.stack.enter_async_context(factory(directory)))
        self.run(self.place.ledger.start())
        self.stack.push_async_callback(self.place.ledger.close)
        self.real = self.place.ledger
        self.model = Model(clock=self.place.clock or (lambda: 0.0))
        self.turns: dict[str, str] = {}  # from the model's ids to the real ones
        self.last = (0, 0)  # index and length that the last write went out from

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(10):
                return await step

        return self.runner.run(bounded())

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def tick(self) -> None:
        """No two steps happen at the same time, so that the order of claims is defined."""
        if self.place.clock is not None:
            self.place.clock.now += 0.001

    def outcome(self, step: Coroutine[Any, Any, T]) -> T | type[PalaverError]:
        async def attempt() -> T | type[PalaverError]:
            try:
                return await step
            except PalaverError as error:
                return type(error)

        return self.run(attempt())

    def plain(self, value: object) -> str:
        """A result without what may differ: the ids of turns, fences, epochs and times."""
        tree = msgspec.json.decode(msgspec.json.encode(value))
        text = msgspec.json.encode(_without_chance(tree)).decode()
        for model, real in self.turns.items():
            text = text.replace(real, model)
        return text

    def agree(self, real: object, model: object) -> None:
        assert self.plain(real) == self.plain(model)

    @rule(
        where=WHERE,
        sender=PEOPLE,
        identity=IDENTITIES | st.uuids().map(str),
        text=WORDS,
    )
    def accept(self, where: Conversation, sender: str, identity: str, text: str) -> None:
        self.tick()
        message = Message(conversation=where, id=identity, sender=sender, text=text)
        real = self.outcome(self.real.accept(message))
        model = self.outcome(self.model.accept(message))
        if isinstance(real, type) or isinstance(model, type):
            assert real is model
            return
        if not model.duplicate:
            self.turns[model.turn] = real.turn
        self.agree(real, model)

    @rule(target=claims, history=st.integers(0, 5))
    def claim(self, history: int) -> Any:  # Any: what a bundle takes
        self.tick()
        real = self.run(self.real.claim("worker", lease=600.0, history=history))
        model = self.run(self.claim_of_model(real, history))
        if real is None or model is None:
            assert real is model
            return multiple()
        self.agree(real, model)
        return Pair(real, model)

    async def claim_of_model(self, real: Claim | None, history: int) -> Claim | None:
        """The model's claim of the same conversation: which is due first is not laid down."""
        if real is not None:
            self.model.prefer(real.conversation)
        return await self.model.claim("worker", lease=600.0, history=history)

    def write(
        self,
        pair: Pair,
        entries: Callable[[Claim, int], tuple[Entry, ...]],
        waiting: Callable[[Claim], Waiting | None] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Write to the turn; ``again``: where the last write of all was tried."""
        self.tick()

        def call(ledger: Ledger, claim: Claim, index: int, said: int) -> Coroutine[Any, Any, Any]:
            made = entries(claim, said)
            if waiting is None:
                return ledger.append(claim, made, expect=index, lease=600.0)
            return ledger.settle(claim, made, expect=index, waiting=waiting(claim))

        said, index = self.model.state_of(pair.model)
        if again and index:
            index, said = self.last
        self.last = index, said
        real = self.outcome(call(self.real, pair.real, index, said))
        model = self.outcome(call(self.model, pair.model, index, said))
        if isinstance(real, type) or isinstance(model, type):
            assert real is model
        else:
            self.agree(real, model)

    @rule(pair=claims, words=st.lists(WORDS, max_size=3), number=st.integers(0, 2))
    def append(self, pair: Pair, words: list[str], number: int) -> None:
        def entries(claim: Claim, said: int) -> tuple[Entry, ...]:
            made: list[Entry] = [
                Started(turn=claim.turn, attempt=1),
                Routed(turn=claim.turn, skill=f"s{number}", reason=""),
            ]
            for word in words:
                made.append(Text(turn=claim.turn, position=said, text=word))
                said += len(word)
            raw = msgspec.Raw(msgspec.json.encode(words))
            step = Step(number=number, verb="v", fingerprint="f", done=bool(words), result=raw)
            return (*made, step)

        self.write(pair, entries)

    @rule(pair=claims, cut=st.integers(0, 4), word=WORDS)
    def reset(self, pair: Pair, cut: int, word: str) -> None:
        def entries(claim: Claim, said: int) -> tuple[Entry, ...]:
            position = max(0, said - cut)
            return (
                TextReset(turn=claim.turn, position=position),
                Text(turn=claim.turn, position=position, text=word),
            )

        self.write(pair, entries)

    @rule(pair=claims, word=WORDS, first=st.booleans())
    def append_again(self, pair: Pair, word: str, first: bool) -> None:
        """Repeat an append: this claim's own, or what another claim of the turn has written."""

        def entries(claim: Claim, said: int) -> tuple[Entry, ...]:
            return (Text(turn=claim.turn, position=said, text=word),)

        if first:
            self.write(pair, entries)
        self.write(pair, entries, again=True)

    @rule()
    def let_leases_lapse(self) -> None:
        if self.place.clock is not None:
            self.place.clock.now += 601.0

    @rule(pair=claims)
    def append_wrongly(self, pair: Pair) -> None:
        self.write(pair, lambda claim, said: (Text(turn=claim.turn, position=said + 1, text="x"),))

    @rule(
        pair=claims,
        word=WORDS,
        outcome=st.sampled_from(["done", "asked", "stopped", "failed"]),
        asks=st.booleans(),
    )
    def settle(self, pair: Pair, word: str, outcome: Outcome, asks: bool) -> None:
        def entries(claim: Claim, said: int) -> tuple[Entry, ...]:
            return (
                Text(turn=claim.turn, position=said, text=word),
                Finished(turn=claim.turn, outcome=outcome, length=0),
            )

        def waiting(claim: Claim) -> Waiting | None:
            if not asks:
                return None
            return Waiting(skill="s", message=claim.message, journal=claim.journal, said=word)

        self.write(pair, entries, waiting)

    @rule(pair=consumes(claims))
    def release(self, pair: Pair) -> None:
        self.tick()
        real = self.outcome(self.real.release(pair.real))
        assert real is self.outcome(self.model.release(pair.model))

    @rule(where=WHERE)
    def stop_any(self, where: Conversation) -> None:
        self.agree(
            self.run(self.real.stop(where, None)),
            self.run(self.model.stop(where, None)),
        )

    @rule(where=WHERE, choice=st.integers(0, 100))
    def stop(self, where: Conversation, choice: int) -> None:
        if self.turns:
            model = sorted(self.turns)[choice % len(self.turns)]
            self.agree(
                self.run(self.real.stop(where, self.turns[model])),
                self.run(self.model.stop(where, model)),
            )

    @rule(tenant=TENANTS, person=PEOPLE, key=IDENTITIES, value=WORDS | st.none())
    def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        for ledger in (self.real, self.model):
            self.run(ledger.remember(tenant, person, key, value))

    @rule(tenant=TENANTS, person=PEOPLE)
    def erase(self, tenant: str, person: str) -> None:
        self.tick()
        self.agree(
            self.run(self.real.erase(tenant, person)),
            self.run(self.model.erase(tenant, person)),
        )

    @rule(tenant=TENANTS, person=PEOPLE)
    def export(self, tenant: str, person: str) -> None:
        real = self.run(self.real.export(tenant, person))
        model = self.run(self.model.export(tenant, person))
        for export in (real, model):
            assert all(where.startswith(f"{tenant}/") for where in export.conversations)
        self.agree(_in_order(real), _in_order(model))

    @rule(where=WHERE, after=st.integers(0, 30), limit=st.integers(1, 30))
    def read(self, where: Conversation, after: int, limit: int) -> None:
        real = self.run(self.real.read(where, after, limit))
        model = self.run(self.model.read(where, after, limit))
        self.agree(real, model)

    @rule(where=WHERE, lines=st.integers(0, 6))
    def look(self, where: Conversation, lines: int) -> None:
        self.agree(
            self.run(self.real.snapshot(where, lines)),
            self.run(self.model.snapshot(where, lines)),
        )
        members = self.run(self.real.members(where))
        assert members == self.run(self.model.members(where))

    @invariant()
    def as_much_waits(self) -> None:
        self.agree(self.run(self.real.depth()), self.run(self.model.depth()))


def _without_chance(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, dict):
        return {
            key: _without_chance(held)
            for key, held in value.items()
            if key not in ("at", "epoch", "fence")
        }
    if isinstance(value, list | tuple):
        return [_without_chance(item) for item in value]
    return value


def _in_order(export: Any) -> dict[str, Any]:  # Any: an `Export` as JSON values
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(export))
    tree["conversations"] = dict(sorted(tree["conversations"].items()))
    tree["memories"] = dict(sorted(tree["memories"].items()))
    tree["pending"] = sorted(tree["pending"], key=lambda message: str(message))
    return tree


@pytest.mark.parametrize(
    "name",
    [
        "sqlite",
        "forgetful_sqlite",
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.live]),
    ],
)
def test_a_ledger_behaves_as_the_model_does(
    name: str,
    places: "dict[str, PlaceFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    class Machine(Comparison):
        def __init__(self) -> None:
            super().__init__(places[name], tmp_path_factory.mktemp(name))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=size(8, 300),
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),  # a failure is told at once; to shorten it takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
