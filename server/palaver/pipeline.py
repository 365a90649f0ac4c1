"""Pipeline: the path of a message, from its acceptance to its answer.

`Pipeline.accept` stores a message and has it dispatched; a worker of the dispatcher claims its turn
and calls `Pipeline.answer`. docs/architecture.md shows the whole path.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from palaver.admission.control import AdmissionControl
from palaver.config.settings import QuotaSettings, Settings
from palaver.engines.models import Model, Models
from palaver.errors import (
    FilesUnavailable,
    InvalidInput,
    PalaverError,
    PromptTooLong,
    TooLarge,
    describe_error,
)
from palaver.files.store import FileStore
from palaver.hooks import Interceptor
from palaver.ledger import (
    ConcurrencyPolicies,
    HistoryEntry,
    Ledger,
    PendingQuestion,
    Receipt,
    StorageQuota,
    without_joining,
)
from palaver.messages import Conversation, Message
from palaver.metrics import Metrics
from palaver.routing import Decision, Router
from palaver.routing.arguments import fill_arguments
from palaver.routing.router import ANSWER_REASON, LEFT_QUESTION
from palaver.skills import EngineSkill, Skill
from palaver.turns.approvals import may_answer, refuse_answer
from palaver.turns.attachments import read_data_url
from palaver.turns.dispatcher import Dispatcher
from palaver.turns.endings import QuestionWithdrawn
from palaver.turns.program import Program
from palaver.turns.prompt import fit_exactly
from palaver.turns.run import Run
from palaver.turns.turn import UnvalidatedArguments
from palaver.turns.turn_history import sent_transcript
from palaver.visitors import site_of_person

log = logging.getLogger(__name__)

COUNT_TIMEOUT = 10.0
"""Seconds that counting a prompt may take before a message is accepted."""


class Pipeline:
    """Accepts messages and answers turns."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        admission: AdmissionControl,
        dispatcher: Dispatcher,
        models: Models,
        router: Router,
        routers_of_sites: Mapping[tuple[str, str], Router],
        skills: Mapping[str, Skill],
        interceptors: Sequence[Interceptor],
        files: FileStore,
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
        self._models = models
        self._router = router
        self._routers_of_sites = routers_of_sites
        """By tenant and site: those that choose among the skills of a site."""
        self._skills = skills
        self._interceptors = interceptors
        self._files = files
        self._metrics = metrics

    # Accepting a message

    async def accept(
        self,
        message: Message,
        *,
        members_only: bool,
        outbox: bool = False,
        start_delay: float = 0.0,
    ) -> Receipt:
        """Store the message and dispatch its turn. See `ConversationService.accept`."""
        self._check_size(message.text)
        if message.skill is not None:
            self._router_for(message).find_skill_of(message)
        if message.program and message.program.model:
            self._models.find(message.program.model)
        policies = self._policies_for(message, members_only)
        if outbox or start_delay:
            policies = msgspec.structs.replace(policies, outbox=outbox, start_delay=start_delay)
        admission = await self._admission.admit(message)
        try:
            await self._check_prompt(message)
            await self._files.mark_sent(message)
            receipt = await self._ledger.accept(message, policies)
        except BaseException as error:
            self._admission.not_stored(admission, error)
            raise
        self._admission.stored(admission, receipt)
        self._dispatcher.dispatch(message.conversation, receipt, policies)
        self._metrics.message(message.conversation.channel)
        return receipt

    async def change_waiting(
        self, conversation: Conversation, message: str, text: str | None
    ) -> bool:
        """Replace the text of a message that waits. See `ConversationService.change_waiting`."""
        self._check_size(text or "")
        pending = (await self._ledger.snapshot(conversation, 0)).pending
        messages = {each.id: each for turn in pending for each in turn.messages}
        if message not in messages:
            return False
        policies = self._policies_of(conversation, members_only=True)
        if not await self._ledger.change_waiting(conversation, message, text, policies):
            return False
        if text is None:
            await self._delete_files(messages[message])
        return True

    async def _delete_files(self, message: Message) -> None:
        """Delete the files of a message that is removed: the words are gone already."""
        try:
            await self._files.delete_files_of(message)
        except FilesUnavailable as error:
            log.warning(
                "files of a deleted message of %s stay as long as the conversation: %s",
                message.conversation,
                describe_error(error),
            )

    async def revise(self, conversation: Conversation, person: str, turn: str, text: str) -> None:
        """Replace the text of a message in the history. See `ConversationService.revise`."""
        self._check_size(text)
        if not text.strip():
            raise InvalidInput("a message cannot be revised to nothing; delete the conversation")
        policies = self._policies_of(conversation, members_only=True)
        await self._ledger.revise(conversation, person, turn, text, policies)

    def _check_size(self, text: str) -> None:
        limit = self._max_message_bytes
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise TooLarge(f"the message is larger than {limit} bytes")

    async def _check_prompt(self, message: Message) -> None:
        """Raise `PromptTooLong` for messages to the engine's own model that do not fit: they alone
        are the prompt. A turn tells what else is wrong with the engine."""
        if message.skill != EngineSkill.name or message.sent_history is None:
            return
        try:
            model = self._model_for(message, EngineSkill.name)
            messages = await EngineSkill.messages_of(
                sent_transcript(message), model.info.capabilities, read_data_url
            )
            async with asyncio.timeout(COUNT_TIMEOUT):
                await fit_exactly(
                    messages,
                    model.info,
                    model.engine.count_tokens,
                    Program(message.program or None).tools,
                )
        except PromptTooLong as error:
            self._metrics.limit_reached(error.limit)
            raise
        except (PalaverError, TimeoutError) as error:
            log.info("a prompt is not counted before its turn: %s", describe_error(error))

    def _model_for(self, message: Message, skill: str) -> Model:
        """Return the model that the program has named, else that of the skill."""
        named = message.program.model if message.program else ""
        return self._models.find(named) if named else self._models.of_skill(skill)

    def _router_for(self, message: Message) -> Router:
        site = message.conversation.tenant, site_of_person(message.person)
        return self._routers_of_sites.get(site, self._router)

    def _policies_of(self, conversation: Conversation, members_only: bool) -> ConcurrencyPolicies:
        channel = conversation.channel
        policies = self._policies.get((channel, members_only)) or self._policies["", members_only]
        if quota := self._storage_of_tenants.get(conversation.tenant):
            policies = msgspec.structs.replace(policies, tenant_storage=quota)
        return policies

    def _policies_for(self, message: Message, members_only: bool) -> ConcurrencyPolicies:
        """Return what happens to the message while another turn of its conversation runs."""
        policies = self._policies_of(message.conversation, members_only)
        if message.program and message.program.retention is not None:
            policies = msgspec.structs.replace(policies, retention=message.program.retention)
        has_results = bool(message.program and message.program.results)
        if message.answers or message.withdraws or has_results:
            # it neither joins nor interrupts anything
            return msgspec.structs.replace(policies, default="queue", skills={})
        return without_joining(policies) if message.text.startswith("/") else policies

    # Answering a turn

    async def answer(self, run: Run) -> None:
        """Choose the skill, fill its arguments and let it answer, inside the interceptors."""
        self._admission.turn_started(run.claim.turn)
        if refusal := refuse_answer(run.claim):
            run.keep_question()
            await run.turn.say(refusal)
            return
        if run.claim.message.withdraws:
            self._withdraw_question(run)
        decision = await self._route(run)
        await run.announce_skill(
            decision.skill,
            decision.reason,
            decision.score,
            durable=decision.skill in self._policies_of_skills,
        )
        await self._intercept(run, decision, 0)

    def _withdraw_question(self, run: Run) -> NoReturn:
        """End the turn, and with it the pending question if that is the one, and the person's."""
        message, question = run.claim.message, run.claim.pending_question
        if question is not None and (
            question.turns[-1] != message.withdraws or question.message.person != message.person
        ):
            run.keep_question()
        raise QuestionWithdrawn

    async def _route(self, run: Run) -> Decision:
        question = run.claim.pending_question
        if question is not None and not may_answer(run.claim, question):
            run.keep_question()
            question = None
        is_answer = question is not None and await self._answers(run, question)
        if question is not None and is_answer:
            run.resume(question)
        message = run.turn.message

        async def decide() -> Decision:
            router = self._router_for(message)
            decision = await router.route(message, _last_skill(run.turn.history))
            model = self._model_for(message, decision.skill)
            return msgspec.structs.replace(decision, model=model.name)

        decision = await run.record(Decision, decide, "route", message.text, message.skill or "")
        # A takeover continues with the same model, unless the settings here have no such one.
        model = self._models.get(decision.model) or self._model_for(message, decision.skill)
        run.turn.use_model(model.name)
        run.set_request(decision.text, decision.skill if decision.named else None)
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
        is_certain = question.client_calls or (question.approval and run.claim.message.answers)
        if is_certain and question.skill in self._skills:
            return True
        recorded, program = run.claim.journal, run.turn.message.program
        if recorded and question.skill in self._skills:
            return min(step.number for step in recorded) > 0
        if program and program.is_answer:
            return question.skill in self._skills
        return await self._router_for(run.turn.message).resumes(run.turn.message, question)

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


def _last_skill(history: Sequence[HistoryEntry]) -> str | None:
    """Return the skill of the last reply."""
    last = history[-1] if history else None
    return last.skill or None if last is not None and last.role == "assistant" else None


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
