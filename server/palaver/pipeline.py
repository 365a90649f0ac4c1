"""Pipeline: the path of a message, from its acceptance to its answer.

`Pipeline.accept` stores a message and has it dispatched; a worker of the dispatcher claims its turn
and calls `Pipeline.answer`. docs/architecture.md shows the whole path.
"""

from collections.abc import Mapping, Sequence

import msgspec

from palaver.admission.control import AdmissionControl
from palaver.config.settings import QuotaSettings, Settings
from palaver.errors import TooLarge
from palaver.hooks import Interceptor
from palaver.ledger import (
    ConcurrencyPolicies,
    Ledger,
    PendingQuestion,
    Receipt,
    StorageQuota,
    without_joining,
)
from palaver.messages import Message
from palaver.metrics import Metrics
from palaver.routing import Decision, Router
from palaver.routing.arguments import fill_arguments
from palaver.routing.router import ANSWER_REASON, LEFT_QUESTION
from palaver.skills import Skill
from palaver.turns.dispatcher import Dispatcher
from palaver.turns.run import Run
from palaver.turns.turn import UnvalidatedArguments


class Pipeline:
    """Accepts messages and answers turns."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        admission: AdmissionControl,
        dispatcher: Dispatcher,
        router: Router,
        skills: Mapping[str, Skill],
        interceptors: Sequence[Interceptor],
        metrics: Metrics,
    ) -> None:
        self._max_message_bytes = settings.server.max_message_bytes
        self._policies = {
            (channel, members_only): _policies(settings, skills, channel, members_only)
            for channel in ("", *settings.concurrency_policy.channels)
            for members_only in (True, False)
        }
        self._storage_of_tenants = {
            name: _storage(quotas) for name, quotas in settings.admission.tenants.items()
        }
        self._policies_of_skills = self._policies["", True].skills
        self._ledger = ledger
        self._admission = admission
        self._dispatcher = dispatcher
        self._router = router
        self._skills = skills
        self._interceptors = interceptors
        self._metrics = metrics

    # Accepting a message

    async def accept(self, message: Message, *, members_only: bool) -> Receipt:
        """Store the message and dispatch its turn. See `ConversationService.accept`."""
        self._check_size(message)
        if message.skill is not None:
            self._router.find_skill(message.skill)
        policies = self._policies_for(message, members_only)
        admission = await self._admission.admit(message)
        try:
            receipt = await self._ledger.accept(message, policies)
        except BaseException as error:
            self._admission.not_stored(admission, error)
            raise
        self._admission.stored(admission, receipt)
        self._dispatcher.dispatch(message.conversation, receipt, policies)
        self._metrics.message(message.conversation.channel)
        return receipt

    def _check_size(self, message: Message) -> None:
        limit = self._max_message_bytes
        if len(message.text) * 4 > limit and len(message.text.encode()) > limit:
            raise TooLarge(f"the message is larger than {limit} bytes")

    def _policies_for(self, message: Message, members_only: bool) -> ConcurrencyPolicies:
        """Return what happens to the message while another turn of its conversation runs."""
        channel = message.conversation.channel
        policies = self._policies.get((channel, members_only)) or self._policies["", members_only]
        if quota := self._storage_of_tenants.get(message.conversation.tenant):
            policies = msgspec.structs.replace(policies, tenant_storage=quota)
        return without_joining(policies) if message.text.startswith("/") else policies

    # Answering a turn

    async def answer(self, run: Run) -> None:
        """Choose the skill, fill its arguments and let it answer, inside the interceptors."""
        self._admission.turn_started(run.claim.turn)
        decision = await self._route(run)
        await run.announce_skill(
            decision.skill,
            decision.reason,
            decision.score,
            durable=decision.skill in self._policies_of_skills,
        )
        await self._intercept(run, decision, 0)

    async def _route(self, run: Run) -> Decision:
        question = run.claim.pending_question
        is_answer = question is not None and await self._answers(run, question)
        if question is not None and is_answer:
            run.resume(question)
        message = run.turn.message

        async def decide() -> Decision:
            return await self._router.route(message)

        decision = await run.record(Decision, decide, "route", message.text, message.skill or "")
        run.set_text(decision.text)
        run.turn.arguments = UnvalidatedArguments.model_validate(decision.arguments)
        if is_answer:
            return msgspec.structs.replace(decision, reason=ANSWER_REASON, score=None)
        if question is not None:
            reason = LEFT_QUESTION.format(decision.reason)
            return msgspec.structs.replace(decision, reason=reason)
        return decision

    async def _answers(self, run: Run, question: PendingQuestion) -> bool:
        """Return True when the message answers the question. An earlier attempt that recorded a
        step has decided it: only a turn that left the question records step 0, the routing."""
        recorded = run.claim.journal
        if recorded and question.skill in self._skills:
            return min(step.number for step in recorded) > 0
        return await self._router.resumes(run.turn.message, question)

    async def _intercept(self, run: Run, decision: Decision, position: int) -> None:
        """Call the interceptor at ``position``, which may call the next; at last, the skill."""
        if position == len(self._interceptors):
            await self._run_skill(run, decision)
            return

        async def call_next() -> None:
            await self._intercept(run, decision, position + 1)

        await self._interceptors[position].intercept(run.turn, call_next)

    async def _run_skill(self, run: Run, decision: Decision) -> None:
        turn, skill = run.turn, self._skills[decision.skill]
        from_program = bool(run.claim.message.arguments)
        turn.arguments = await fill_arguments(
            turn, skill.Arguments, decision.arguments, from_program=from_program
        )
        await skill.answer(turn)


def _policies(
    settings: Settings, skills: Mapping[str, Skill], channel: str, members_only: bool
) -> ConcurrencyPolicies:
    """Return the policies of a channel: a setting for the skill, else the skill's own policy, else
    the channel's, else the default."""
    chosen = settings.concurrency_policy
    own = {
        name: skill.concurrency_policy
        for name, skill in skills.items()
        if skill.concurrency_policy is not None
    }
    return ConcurrencyPolicies(
        default=chosen.channels.get(channel, chosen.default),
        skills=own | chosen.skills,
        merge_window=chosen.merge_window,
        inbox_limit=settings.admission.inbox_limit,
        members_only=members_only,
        inbox_bytes=settings.admission.inbox_bytes,
        person_storage=_storage(settings.admission.person),
        tenant_storage=_storage(settings.admission.tenant),
    )


def _storage(quotas: QuotaSettings) -> StorageQuota:
    return StorageQuota(bytes=quotas.stored_bytes, conversations=quotas.conversations)
