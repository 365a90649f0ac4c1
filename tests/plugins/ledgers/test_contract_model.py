"""Contract: after any sequence of operations, a ledger and the reference model agree.

Two tenants and a few people, threads and message ids are enough for collisions.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.plugins.ledgers.reference_model import ReferenceModel
from tests.proof_settings import short_or_long

from palaver.errors import PalaverError
from palaver.exports import collect_export
from palaver.feedback import Feedback, FeedbackFilter, RatedReply
from palaver.ledger import (
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    Ledger,
    LogEntry,
    MemoryWrite,
    PendingQuestion,
    Progress,
    Receipt,
    Step,
)
from palaver.messages import (
    Attachment,
    Conversation,
    Finished,
    Message,
    Outcome,
    Routed,
    Started,
    Text,
    TextReset,
    new_id,
)

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest, SubjectFactory

pytestmark = pytest.mark.slow

T = TypeVar("T")

LEASE = 600.0
WINDOW = 0.5
TICK, MOMENT, LAPSE, DAY = 0.001, 0.303, 700.0, 90_000.0
"""Steps of the clock. No short sum of them ends within two milliseconds of the end of a window, a
lease or a day, as some ledgers count milliseconds."""

TENANTS = st.sampled_from(["acme", "acm"])
NAMES = ["ada", "bob", "eve"]
PEOPLE = st.sampled_from(NAMES)
FILES: tuple[tuple[Attachment, ...], ...] = (
    (),
    (Attachment(name='"a".txt', media_type="text/plain", url="/v1/files/a", size=3),),
    (Attachment(name="b", media_type="image/png", url="/v1/files/b"),) * 2,
)
"""Files of a message, chosen by its id: a repetition has the same."""
WORDS = st.text(st.sampled_from("ab é🌊\n\"'%"), min_size=1, max_size=8)
WHERE = st.sampled_from([Conversation("acme", "web", "t")] * 3) | st.builds(
    Conversation, TENANTS, st.just("web"), st.sampled_from(["t", "u"])
)
BY_SKILL = ConcurrencyPolicies(
    skills={"s0": "steer", "s1": "interrupt", "s2": "merge"}, default="queue", merge_window=WINDOW
)
ORDERS = st.sampled_from(["", "", "1", "2", "2.5", "3", "A", "a"])
POLICIES = st.sampled_from(
    [
        QUEUE_ALL,
        ConcurrencyPolicies(default="queue", start_delay=WINDOW),
        ConcurrencyPolicies(default="interrupt", start_delay=WINDOW),
        BY_SKILL,
        BY_SKILL,
        ConcurrencyPolicies(default="merge", merge_window=WINDOW),
        ConcurrencyPolicies(default="interrupt"),
        ConcurrencyPolicies(default="steer"),
        ConcurrencyPolicies(default="steer"),
    ]
)


OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    ["done", "asked", "stopped", "stopped", "failed"]
)
WEIGHTS = {
    "accept": 4, "accept_during_a_run": 4, "accept_again": 1, "accept_many": 1,
    "continue_after": 1, "select": 1, "revise": 1, "branch": 2, "change_waiting": 3,
    "claim": 6, "append": 4, "remember": 2, "reset": 1, "append_again": 2,
    "settle": 5, "settle_again": 1,
    "release": 1, "lose_claim": 1, "advance_time": 1, "advance_a_day": 1, "stop": 2,
    "erase": 1, "erase_conversation": 1, "export": 1, "rate": 4, "check_feedback": 1,
    "check_dead_letters": 1, "check_conversation": 1,
}  # fmt: skip
KINDS = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
BRANCH_KINDS = [
    *KINDS,
    *["branch"] * len(KINDS),
    *["erase", "erase_conversation", "rate", "check_feedback"] * 4,
]
Draw = Callable[[st.SearchStrategy[Any]], Any]  # Any: a value of whatever is drawn from


class ClaimPair(msgspec.Struct, frozen=True):
    """Claim of one turn in the ledger under test and in the model."""

    real: Claim
    model: Claim


class Settlement(msgspec.Struct, frozen=True):
    """Arguments of a settle, to repeat it."""

    pair: ClaimPair
    word: str
    outcome: Outcome
    expect: int
    said: int
    asks: bool
    taken_steering: tuple[Message, ...]
    dead: str


class Comparison(RuleBasedStateMachine):
    """State machine that runs each operation on a ledger and on the model, and compares results."""

    def __init__(
        self, factory: "SubjectFactory", directory: Path, wrap: Callable[[Ledger], Ledger]
    ) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.subject: LedgerUnderTest = self.run(self.stack.enter_async_context(factory(directory)))
        self.run(self.subject.ledger.start())
        self.stack.push_async_callback(self.subject.ledger.close)
        self.real = wrap(self.subject.ledger)
        self.model = ReferenceModel()
        self.clock = self.subject.require_clock()
        self.tick()
        self.claims: list[ClaimPair] = []
        self.settlements: list[Settlement] = []
        self.sent: list[Message] = []
        self.turns: dict[str, str] = {}  # from the model's ids to the real ones
        self.fences: dict[str, int] = {}  # the newest of each turn
        self.epochs: dict[tuple[Conversation, int], str] = {}  # one for each generation
        self.written = (0, 0)  # index and length that the last write went out from
        self.touched: Conversation | None = None
        self.released: set[int] = set()
        self.days = 0
        self.old = 0

    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def step(self, kind: str, data: st.DataObject) -> None:
        """Run one operation. There is a single rule, since Hypothesis disables most rules at
        random; then hardly any turn would be settled."""
        self.tick()
        getattr(self, kind)(data.draw)

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(10):
                return await step

        return self.runner.run(bounded())

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def tick(self, seconds: float = TICK) -> None:
        """Move the clock: no two steps have the same time, so the oldest turn is defined."""
        self.clock.now += seconds
        self.model.now = self.clock.now

    def outcome(self, step: Coroutine[Any, Any, T]) -> T | type[PalaverError]:
        async def attempt() -> T | type[PalaverError]:
            try:
                return await step
            except PalaverError as error:
                return type(error)

        return self.run(attempt())

    def expected(self, step: Callable[[], T]) -> T | type[PalaverError]:
        try:
            return step()
        except PalaverError as error:
            return type(error)

    def normalize(self, value: object) -> str:
        """Return a result without what may differ: ids of turns, fences, epochs and times."""
        tree = msgspec.json.decode(msgspec.json.encode(value))
        text = msgspec.json.encode(_without_random_fields(tree)).decode()
        for model, real in self.turns.items():
            text = text.replace(real, model)
        return text

    def assert_equal(self, real: object, model: object) -> None:
        assert self.normalize(real) == self.normalize(model)

    def assert_equal_outcome(self, real: object, model: object) -> None:
        if isinstance(real, type) or isinstance(model, type):
            assert real is model
        else:
            self.assert_equal(real, model)

    # Accepting

    def accept(self, draw: Draw) -> None:
        identity = draw(st.sampled_from([f"n{len(self.sent)}", "m1", "m2"]))
        skill = draw(st.sampled_from([None] * 5 + ["s0"]))
        self.receive(draw, draw(WHERE), identity, skill)

    def accept_during_a_run(self, draw: Draw) -> None:
        """Accept messages in the conversation of a claim, which may be over."""
        if self.claims:
            where = self.some_claim(draw).model.conversation
            for _ in range(draw(st.integers(1, 3))):
                self.receive(draw, where, f"n{len(self.sent)}")

    def accept_again(self, draw: Draw) -> None:
        if self.sent:
            message = self.sent[-1 - draw(st.integers(0, min(len(self.sent), 4) - 1))]
            self.accept_in_both(message, draw(POLICIES))

    def accept_many(self, draw: Draw) -> None:
        where, policies = draw(WHERE), draw(POLICIES)
        for _ in range(draw(st.integers(8, 18))):
            message = Message(
                conversation=where,
                id=f"n{len(self.sent)}",
                person="ada",
                text="x",
                order=draw(ORDERS),
            )
            self.sent.append(message)
            self.accept_in_both(message, policies)

    def receive(
        self, draw: Draw, where: Conversation, identity: str, skill: str | None = None
    ) -> None:
        message = Message(
            conversation=where,
            id=identity,
            person=draw(PEOPLE),
            text=draw(WORDS),
            skill=skill,
            attachments=FILES[sum(identity.encode()) % len(FILES)],
            order=draw(ORDERS),
        )
        self.sent.append(message)
        self.accept_in_both(message, draw(POLICIES))

    def branch(self, draw: Draw) -> None:
        """Run all turns of the conversations; continue one of them elsewhere, select, or revise."""
        self.run_all(draw)
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(
                st.sampled_from(
                    [self.continue_after] * 3
                    + [self.select] * 4
                    + [self.revise] * 3
                    + [self.accept]
                )
            )
            kind(draw)
            if draw(st.integers(0, 3)):
                self.run_all(draw)

    def run_all(self, draw: Draw) -> None:
        """Settle turns until none is due."""
        due = -1
        while due != len(self.claims):
            due = len(self.claims)
            self.tick(LAPSE)
            self.claim(draw)
            if due != len(self.claims):
                pair = self.claims[-1]
                said, index = self.state_of(pair.model)
                steering = self.model.steering(pair.model)
                self.close(Settlement(pair, "x", "done", index, said, False, steering, ""))

    def continue_after(self, draw: Draw) -> None:
        """Accept a message after a turn of any kind."""
        where, turn = self.some_turn_of_a_branch(draw)
        identity = draw(st.sampled_from([f"n{len(self.sent)}"] * 3 + ["m1"]))
        message = Message(
            conversation=where, id=identity, person=draw(PEOPLE), text=draw(WORDS), after=turn
        )
        self.sent.append(message)
        self.accept_in_both(message, draw(POLICIES))

    def select(self, draw: Draw) -> None:
        where, turn = self.some_turn_of_a_branch(draw)
        self.touched = where
        real = self.outcome(self.real.select(where, self.turns.get(turn, turn)))
        assert real is self.expected(lambda: self.model.select(where, turn))

    def revise(self, draw: Draw) -> None:
        where, turn = self.some_turn_of_a_branch(draw)
        self.touched = where
        person, text = draw(PEOPLE), draw(WORDS)
        real = self.outcome(self.real.revise(where, person, self.turns.get(turn, turn), text))
        assert real is self.expected(lambda: self.model.revise(where, person, turn, text))

    def change_waiting(self, draw: Draw) -> None:
        """Change or remove a message that waits, or another one."""
        where = draw(WHERE)
        pending = self.model.snapshot(where, 0)["pending"]
        ids = [message.id for turn in pending for message in turn.messages]
        id, text = draw(st.sampled_from([*ids, "m1", "nothing"])), draw(WORDS | st.none())
        self.touched = where
        real = self.run(self.real.change_waiting(where, id, text))
        assert real == self.model.change_waiting(where, id, text)
        self.read_stream(where, 0, 100)

    def some_turn_of_a_branch(self, draw: Draw) -> tuple[Conversation, str]:
        """Return a turn: of the history, superseded, unsettled or erased; or none, or another
        conversation's."""
        where = draw(WHERE)
        state = self.model.conversations.get(where)
        turns = ["", "nothing", *list(self.turns)[-3:]]
        if state is not None:
            found = state.branches
            turns += [*found.path[-3:], *found.path, *list(found.parents) * 2]
            turns += [turn for line in found.lines for turn in line] * 2
        chosen: str = draw(st.sampled_from(turns))
        return where, chosen

    def accept_in_both(self, message: Message, policies: ConcurrencyPolicies) -> None:
        self.tick()
        self.touched = message.conversation
        after = self.turns.get(message.after or "", message.after)
        translated = msgspec.structs.replace(message, after=after)
        real = self.outcome(self.real.accept(translated, policies))
        model = self.expected(lambda: self.model.accept(message, policies))
        if isinstance(real, Receipt) and isinstance(model, Receipt) and not real.joined:
            self.turns.setdefault(model.turn, real.turn)
        self.assert_equal_outcome(real, model)

    # Running

    def claim(self, draw: Draw) -> None:
        """Claim a turn; the order of due conversations is not specified."""
        self.tick(draw(st.sampled_from([TICK, MOMENT, LAPSE])))
        history = draw(st.integers(0, 5))
        real = self.run(self.real.claim("worker", lease=LEASE, history=history))
        due = self.model.claimable()
        if real is None:
            assert due == []
            return
        assert real.conversation in due
        self.touched = real.conversation
        model = self.model.claim(real.conversation, LEASE, history)
        self.assert_equal(real, model)
        assert real.fence > self.fences.get(real.turn, 0)
        self.fences[real.turn] = real.fence
        self.claims.append(ClaimPair(real, model))

    def some_claim(self, draw: Draw) -> ClaimPair:
        """Return one of the newest three claims, which may be over."""
        back: int = draw(st.integers(0, min(len(self.claims), 3) - 1))
        return self.claims[-1 - back]

    def state_of(self, claim: Claim) -> tuple[int, int]:
        """Return the length of the reply and the index of a turn; 0, 0 when it is not open."""
        state = self.model.conversations.get(claim.conversation)
        turn = state.find(claim.turn) if state else None
        return (len(turn.reply), len(turn.entries)) if turn else (0, 0)

    def write(
        self,
        pair: ClaimPair,
        entries: Callable[[Claim, int], Sequence[LogEntry]],
        *,
        again: bool = False,
    ) -> None:
        """Write to the turn; ``again``: at the index of the last write."""
        self.tick()
        self.touched = pair.model.conversation
        said, index = self.state_of(pair.model)
        if again and index:
            index, said = self.written
        self.written = index, said
        real = self.outcome(
            self.real.append(pair.real, entries(pair.real, said), expect=index, lease=LEASE)
        )
        model = self.expected(
            lambda: self.model.append(
                pair.model, tuple(entries(pair.model, said)), expect=index, lease=LEASE
            )
        )
        self.assert_equal_outcome(real, model)

    def append(self, draw: Draw) -> None:
        if not self.claims:
            return
        words, number = draw(st.lists(WORDS, max_size=3)), draw(st.integers(0, 2))

        def entries(claim: Claim, said: int) -> tuple[LogEntry, ...]:
            made: list[LogEntry] = [
                Started(turn=claim.turn, attempt=1),
                Routed(turn=claim.turn, skill=f"s{number}", reason=""),
            ]
            for word in words:
                made.append(Text(turn=claim.turn, position=said, text=word))
                said += len(word)
            raw = msgspec.Raw(msgspec.json.encode(words))
            step = Step(number=number, verb="v", fingerprint="f", done=bool(words), result=raw)
            return (*made, step)

        self.write(self.some_claim(draw), entries)

    def reset(self, draw: Draw) -> None:
        """Cut the reply; or beyond its end, which is refused; or only renew the lease."""
        if not self.claims:
            return
        cut, word = draw(st.integers(-1, 4) | st.none()), draw(WORDS)

        def entries(claim: Claim, said: int) -> tuple[LogEntry, ...]:
            position = max(0, said - (cut or 0))
            return (
                TextReset(turn=claim.turn, position=position),
                Text(turn=claim.turn, position=position, text=word),
            )

        self.write(
            self.some_claim(draw), lambda claim, said: () if cut is None else entries(claim, said)
        )

    def remember(self, draw: Draw) -> None:
        """Write memories about anybody: those about strangers are refused."""
        if not self.claims:
            return
        pair = self.some_claim(draw)
        own = st.just(pair.model.message.person)
        memories = [
            MemoryWrite(
                person=draw(own | own | PEOPLE),
                key=draw(st.sampled_from(["k1", "k2"])),
                value=draw(WORDS | st.none()),
            )
            for _ in range(draw(st.integers(1, 2)))
        ]
        self.write(pair, lambda claim, said: memories, again=draw(st.booleans()))
        where, person = pair.model.conversation, memories[0].person
        real = self.run(collect_export(self.real.export(where.tenant, person)))
        self.assert_equal(_in_order(real), _in_order(self.model.export(where.tenant, person)))

    def append_again(self, draw: Draw) -> None:
        """Repeat an append: this claim's own, or what another claim of the turn has written."""
        if not self.claims:
            return
        pair, word = self.some_claim(draw), draw(WORDS)

        def entries(claim: Claim, said: int) -> tuple[LogEntry, ...]:
            return (Text(turn=claim.turn, position=said, text=word),)

        if draw(st.booleans()):
            self.write(pair, entries)
        self.write(pair, entries, again=True)

    def settle(self, draw: Draw) -> None:
        if not self.claims:
            return
        pair = self.some_claim(draw)
        said, index = self.state_of(pair.model)
        found = self.outcome(self.real.read_steering(pair.real))
        steering = self.expected(lambda: self.model.steering(pair.model))
        self.assert_equal_outcome(found, steering)
        taken = draw(st.integers(0, 3))
        closing = Settlement(
            pair=pair,
            word=draw(WORDS),
            outcome=draw(OUTCOMES),
            expect=index,
            said=said,
            asks=draw(st.booleans()),
            taken_steering=steering[:taken] if isinstance(steering, tuple) else (),
            dead=draw(st.sampled_from(["", "", "given up"])),
        )
        self.settlements.append(closing)
        self.close(closing)

    def settle_again(self, draw: Draw) -> None:
        """Repeat a settle; or use its arguments for another claim."""
        if self.settlements:
            closing = self.settlements[-1]
            if self.claims and draw(st.booleans()):
                closing = msgspec.structs.replace(closing, pair=self.some_claim(draw))
            self.close(closing)

    def close(self, closing: Settlement) -> None:
        self.tick()
        self.touched = closing.pair.model.conversation
        real = self.outcome(self._close_real(closing))
        model = self.expected(lambda: self._close_model(closing))
        self.assert_equal_outcome(real, model)

    def _close_model(self, closing: Settlement) -> Progress:
        claim = closing.pair.model
        return self.model.settle(
            claim,
            _end(claim, closing),
            expect=closing.expect,
            pending_question=_asking(claim, closing),
            taken_steering=closing.taken_steering,
            dead_letter_reason=closing.dead,
        )

    async def _close_real(self, closing: Settlement) -> Progress:
        claim = closing.pair.real
        return await self.real.settle(
            claim,
            _end(claim, closing),
            expect=closing.expect,
            pending_question=_asking(claim, closing),
            taken_steering=closing.taken_steering,
            dead_letter_reason=closing.dead,
        )

    def release(self, draw: Draw) -> None:
        """Release a claim, each at most once: a second release may count as a repetition."""
        if not self.claims:
            return
        pair = self.some_claim(draw)
        if pair.model.fence not in self.released:
            self.released.add(pair.model.fence)
            real = self.outcome(self.real.release(pair.real))
            assert real is self.expected(lambda: self.model.release(pair.model))

    def lose_claim(self, draw: Draw) -> None:
        """Forget the newest claim, as if its worker had died."""
        if self.claims:
            self.claims.pop()

    def advance_time(self, draw: Draw) -> None:
        self.tick(draw(st.sampled_from([MOMENT, LAPSE])))

    def advance_a_day(self, draw: Draw) -> None:
        """Move the clock by a day; ledgers need not recognize older repetitions."""
        self.days += 1
        if self.days < 4:  # no dead letter is so old that it would go
            self.tick(DAY)
            self.claims.clear()
            self.settlements.clear()
            self.old = len(self.turns)

    def stop(self, draw: Draw) -> None:
        where, turn = draw(WHERE), self.some_turn(draw)
        real = self.run(self.real.stop(where, self.turns.get(turn or "")))
        self.assert_equal(real, self.model.stop(where, turn))

    def some_turn(self, draw: Draw) -> str | None:
        newest: list[str | None] = [None, *list(self.turns)[self.old :][-5:]]
        chosen: str | None = draw(st.sampled_from(newest))
        return chosen

    # People

    def erase(self, draw: Draw) -> None:
        self.erase_in_both(draw(TENANTS), draw(PEOPLE))

    def erase_conversation(self, draw: Draw) -> None:
        """Erase what a conversation has about a person, who need not be a member."""
        where = draw(WHERE)
        self.erase_in_both(where.tenant, draw(PEOPLE), where)

    def erase_in_both(self, tenant: str, person: str, where: Conversation | None = None) -> None:
        only = () if where is None else (where,)
        real = self.run(self.real.erase(tenant, person, *only))
        for kind, count in self.model.erase(tenant, person, *only).items():
            assert getattr(real, kind) == count, kind
        for where in self.model.conversations:  # an erasure may make new turns of steering
            if where.tenant == tenant:
                self.compare(where, 4)
                for person in NAMES:
                    self.compare_feedback(where, person)

    def export(self, draw: Draw) -> None:
        tenant, person = draw(TENANTS), draw(PEOPLE)
        real = self.run(collect_export(self.real.export(tenant, person)))
        assert all(where.startswith(f"{tenant}/") for where in real.conversations)
        model = self.model.export(tenant, person)
        self.assert_equal(_in_order(real), _in_order(model))
        self.assert_same(
            [(name, each) for name, given in real.feedback.items() for each in given],
            [(name, each) for name, given in model["feedback"].items() for each in given],
        )

    def rate(self, draw: Draw) -> None:
        """Give feedback on turns of any kind, or withdraw it."""
        for _ in range(draw(st.integers(1, 4))):
            where, turn = self.some_turn_of_a_branch(draw)
            person, real_turn = draw(PEOPLE), self.turns.get(turn, turn)
            if draw(st.integers(0, 3)):
                rating, comment = draw(st.sampled_from(["up", "down"])), draw(WORDS | st.just(""))
                given = Feedback(turn=turn, rating=rating, comment=comment)
                real = self.outcome(
                    self.real.give_feedback(
                        where, person, msgspec.structs.replace(given, turn=real_turn)
                    )
                )
                model = self.expected(partial(self.model.give_feedback, where, person, given))
                self.assert_equal_outcome(real, model)
            else:
                real_answer = self.run(self.real.withdraw_feedback(where, person, real_turn))
                assert real_answer == self.model.withdraw_feedback(where, person, turn)

    def check_feedback(self, draw: Draw) -> None:
        self.compare_feedback(draw(WHERE), draw(PEOPLE))
        tenant = draw(TENANTS)
        self.assert_same(self.run(self.read_rated(tenant)), self.model.rated_replies(tenant))

    def compare_feedback(self, where: Conversation, person: str) -> None:
        real = self.run(self.real.feedback(where, person))
        self.assert_same(real, self.model.feedback(where, person))

    async def read_rated(self, tenant: str) -> list[RatedReply]:
        replies = self.real.rated_replies(tenant, FeedbackFilter(), history_bytes=10**9)
        return [reply async for reply in replies]

    def assert_same(self, real: Sequence[object], model: Sequence[object]) -> None:
        """Compare results that are in any order."""
        assert sorted(map(self.normalize, real)) == sorted(map(self.normalize, model))

    def check_dead_letters(self, draw: Draw) -> None:
        limit, turn = draw(st.integers(0, 3)), self.some_turn(draw)
        self.assert_equal(self.run(self.real.dead_letters(limit)), self.model.dead_letters(limit))
        if turn is not None:
            assert self.run(self.real.discard_dead_letter(self.turns[turn])) == self.model.discard(
                turn
            )

    # Reading

    def check_conversation(self, draw: Draw) -> None:
        where, after, limit = draw(WHERE), draw(st.integers(0, 30)), draw(st.integers(1, 30))
        self.read_stream(where, after, limit)
        self.compare(where, draw(st.integers(0, 6)))
        assert self.run(self.real.members(where)) == self.model.members(where)

    def read_stream(self, where: Conversation, after: int, limit: int) -> None:
        page = self.run(self.real.read(where, after, limit))
        gone, events = self.model.events(where)
        assert (page.first, page.last) == (gone + 1, gone + len(events))
        start = max(after, gone)
        offsets = [start + step for step in range(1, len(page.events) + 1)]
        assert [event.offset for event in page.events] == offsets
        expected = events[start - gone : start - gone + limit]
        self.assert_equal([event.event for event in page.events], expected)

    def compare(self, where: Conversation, lines: int) -> None:
        """Compare a conversation: history, unsettled turns, epoch."""
        real = self.run(self.real.snapshot(where, lines))
        model = self.model.snapshot(where, lines)
        for one, other in zip(real.pending, model["pending"], strict=True):
            assert self.turns.setdefault(other.turn, one.turn) == one.turn
        assert real.cursor.offset == model["offset"]
        self.assert_equal([real.history, real.pending], [model["history"], model["pending"]])
        groups = [[self.turns[turn] for turn in group] for group in model["alternatives"]]
        assert sorted(map(list, real.alternatives)) == sorted(groups)
        if state := self.model.conversations.get(where):
            generation = (where, state.generation)
            assert self.epochs.setdefault(generation, real.cursor.epoch) == real.cursor.epoch
        epochs = {epoch for (other, _), epoch in self.epochs.items() if other == where}
        assert len(epochs) == sum(other == where for other, _ in self.epochs)

    @invariant()
    def counts_and_conversation_agree(self) -> None:
        depth = self.run(self.real.queue_depth())
        assert (depth.queued, depth.running) == self.model.depth()
        counted: Counter[tuple[str, str]] = Counter()
        for row in self.run(self.real.count_unsettled()):
            counted[row.tenant, row.person] += row.turns
        assert counted == self.model.unsettled()
        if self.touched is not None:
            self.compare(self.touched, 4)


def _end(claim: Claim, closing: Settlement) -> tuple[LogEntry, ...]:
    return (
        Text(turn=claim.turn, position=closing.said, text=closing.word),
        Finished(turn=claim.turn, outcome=closing.outcome, length=0),
    )


def _asking(claim: Claim, closing: Settlement) -> PendingQuestion | None:
    if not closing.asks:
        return None
    return PendingQuestion(
        skill="s", message=claim.message, journal=claim.journal, reply=closing.word
    )


def _without_random_fields(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, dict):
        return {
            key: _without_random_fields(item)
            for key, item in value.items()
            if key not in ("at", "accepted_at", "epoch", "fence")
        }
    if isinstance(value, list | tuple):
        return [_without_random_fields(item) for item in value]
    return value


def _in_order(export: Any) -> dict[str, Any]:  # Any: an `Export`, or its parts
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(export))
    return {
        "conversations": dict(sorted(tree["conversations"].items())),
        "memories": dict(sorted(tree["memories"].items())),
        "pending": sorted(tree["pending"], key=str),
    }


class BranchComparison(Comparison):
    """Comparison that continues elsewhere, selects and erases in half of its steps."""

    @rule(kind=st.sampled_from(BRANCH_KINDS), data=st.data())
    def step(self, kind: str, data: st.DataObject) -> None:
        self.tick()
        getattr(self, kind)(data.draw)


def explore(
    factory: "SubjectFactory",
    paths: pytest.TempPathFactory,
    *,
    examples: int,
    wrap: Callable[[Ledger], Ledger] = lambda ledger: ledger,
    comparison: type[Comparison] = Comparison,
) -> None:
    class Machine(comparison):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(factory, paths.mktemp("model"), wrap)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),  # shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


LEDGERS = [
    "memory",
    "sqlite",
    "sqlite_uncached",
    pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.live]),
]


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_behaves_as_the_model(
    name: str,
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    explore(subject_factories[name], tmp_path_factory, examples=short_or_long(12, 600))


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_with_branches_behaves_as_the_model(
    name: str,
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    explore(
        subject_factories[name],
        tmp_path_factory,
        examples=short_or_long(12, 600),
        comparison=BranchComparison,
    )


# Mutants: ledgers with a mutant, which the comparison must detect


class Mutant:
    """Ledger with one wrong operation; the rest is that of ``ledger``."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __getattr__(self, name: str) -> Any:  # Any: the methods that are left as they are
        return getattr(self.ledger, name)


class WithoutFence(Mutant):
    """Mutant: a former owner writes with the fence of the present one."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.newest: dict[str, Claim] = {}

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        claim = await self.ledger.claim(worker, lease=lease, history=history)
        if claim is not None:
            self.newest[claim.turn] = claim
        return claim

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        holder = self.newest[claim.turn]
        return await self.ledger.append(holder, entries, expect=expect, lease=lease)


class WithoutDedupe(Mutant):
    """Mutant: does not recognize duplicates."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies) -> Receipt:
        fresh = msgspec.structs.replace(message, id=new_id())
        return await self.ledger.accept(fresh, policies)


class DoublesAppends(Mutant):
    """Mutant: applies a repeated append again."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.index: dict[str, int] = {}

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        length = 0
        pending = (await self.ledger.snapshot(claim.conversation, 0)).pending
        length = next((len(turn.reply) for turn in pending if turn.turn == claim.turn), 0)
        moved = [
            Text(turn=entry.turn, position=length, text=entry.text)
            if isinstance(entry, Text) and len(entries) == 1
            else entry
            for entry in entries
        ]
        expect = max(expect, self.index.get(claim.turn, 0))
        progress = await self.ledger.append(claim, moved, expect=expect, lease=lease)
        self.index[claim.turn] = progress.index
        return progress


class TakesAllSteering(Mutant):
    """Mutant: a settled turn takes all its steering messages."""

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        taken_steering: Sequence[Message],
        **rest: Any,
    ) -> Progress:
        try:
            taken_steering = await self.ledger.read_steering(claim)
        except PalaverError:
            pass
        return await self.ledger.settle(claim, entries, taken_steering=taken_steering, **rest)


class IgnoresMergeWindow(Mutant):
    """Mutant: ignores the merge window."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies) -> Receipt:
        without_window = msgspec.structs.replace(policies, merge_window=0.0)
        return await self.ledger.accept(message, without_window)


class IgnoresOrder(Mutant):
    """Mutant: ignores the order of messages."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies) -> Receipt:
        return await self.ledger.accept(msgspec.structs.replace(message, order=""), policies)


class SkipsErasure(Mutant):
    """Mutant: reports an erasure, and keeps the data."""

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Any:
        export = await collect_export(self.ledger.export(tenant, person))
        if export.conversations or export.pending:
            return await self.ledger.erase(tenant, "nobody", conversation)
        return await self.ledger.erase(tenant, person, conversation)


class KeepsTheRevisedText(Mutant):
    """Mutant: reports a revision, and keeps the earlier text."""

    async def revise(self, conversation: Conversation, person: str, turn: str, text: str) -> None:
        page = await self.ledger.history(conversation, "", 1000)
        texts = [
            entry.text for entry in page.history if entry.role == "user" and entry.turn == turn
        ]
        await self.ledger.revise(conversation, person, turn, "".join(texts) or text)


class KeepsDeletedMessages(Mutant):
    """Mutant: empties a message that waits instead of removing it."""

    async def change_waiting(self, conversation: Conversation, id: str, text: str | None) -> bool:
        changed: bool = await self.ledger.change_waiting(conversation, id, text or "")
        return changed


@pytest.mark.proof
@pytest.mark.parametrize(
    "mutant",
    [
        WithoutFence,
        WithoutDedupe,
        DoublesAppends,
        TakesAllSteering,
        IgnoresMergeWindow,
        IgnoresOrder,
        SkipsErasure,
        KeepsTheRevisedText,
        KeepsDeletedMessages,
    ],
)
def test_a_mutant_ledger_does_not_behave_as_the_model(
    mutant: Callable[[Ledger], Any],
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.raises(AssertionError):
        explore(subject_factories["sqlite"], tmp_path_factory, examples=600, wrap=mutant)


@pytest.mark.redis
@pytest.mark.live
@pytest.mark.parametrize(
    "changes",
    [
        {"running == turn and newest_fence == fence": "running == turn"},
        {"redis.call('ZADD', queue, math.max(due_at, now())": "redis.call('ZREM', queue"},
    ],
    ids=["fence off", "not queued"],
)
def test_mutant_redis_scripts_do_not_behave_as_the_model(
    changes: dict[str, str],
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def factory(directory: Path) -> Any:  # Any: a context manager, as of any other subject
        return subject_factories["redis"](directory, changes)  # type: ignore[call-arg]

    with pytest.raises(AssertionError):
        explore(factory, tmp_path_factory, examples=100)
