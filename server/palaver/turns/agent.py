"""Agent: the loop in which the model calls tools until it answers."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from palaver.config.settings import AgentSettings
from palaver.engine import (
    ChatMessage,
    Generation,
    OnText,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolDefinition,
)
from palaver.errors import InvalidInput, PromptTooLong
from palaver.messages import Message
from palaver.metrics import Metrics
from palaver.tools import Tool
from palaver.turns.call_requests import RequestedCall, read_call
from palaver.turns.filters import Filter, FilteredText
from palaver.turns.generation import Generations, OfferedTools, Prompt
from palaver.turns.journal import Journal
from palaver.turns.replay import Replay
from palaver.turns.tool_calls import CallLimits, PreparedCall, ToolCalls
from palaver.turns.tool_results import NOTE, cut_result, present_result

MIN_RESULT_BYTES = 128
"""Bytes to which results are shortened at least, when the prompt gets too long for the model."""


class AgentStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model said and wants to call in one step, as the journal has it.

    ``client_calls`` are the ids of the calls that the program makes. ``seconds`` and ``tokens`` are
    those of all steps since the program's last results. ``limit``: why the model was asked for a
    last answer. ``is_cut``: the limit of tokens cut the answer.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    client_calls: tuple[str, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    limit: str = ""
    is_cut: bool = False


class _Round(NamedTuple):
    """One step of the model, the results of its calls, and the messages that came meanwhile."""

    step: AgentStep
    results: Sequence[str]
    steering: Sequence[Message]


@dataclasses.dataclass(slots=True, kw_only=True)
class Agent:
    """One run of the loop.

    Each step of the model is a step of the journal, and each call that it wants another one: so a
    repeated run does nothing again, and goes on where the earlier one was.
    """

    message: Message
    prompt: Prompt
    tools: Mapping[str, Tool]
    client_tools: Mapping[str, ToolDefinition]
    """Those that the program runs."""
    parallel_tool_calls: bool
    limits: AgentSettings
    through: Filter | None
    continues: bool
    """Whether the engine continues a reply at its last character."""
    journal: Journal
    replay: Replay
    tool_calls: ToolCalls
    generations: Generations
    metrics: Metrics
    make_sampling: Callable[[], Sampling]
    count: Callable[[Generation], None]
    """Counts what the model wrote for the reply."""
    note_cut: Callable[[], None]
    """Notes that the limit of tokens cut the answer."""
    take_steering: Callable[[], Awaitable[tuple[Message, ...]]]
    call_client: Callable[[Sequence[ToolCall]], Mapping[str, str]]
    """Returns what the program's tools returned, by the id of the call."""
    client_call_prefix: str
    """What ids of the program's calls begin with."""
    _rounds: list[_Round] = dataclasses.field(default_factory=list)
    _calls: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    """Calls since the program's last results, by tool and arguments."""
    _rounds_before: int = 0
    """Rounds up to the program's last results: the limits hold for what comes after."""
    _call_ids: set[str] = dataclasses.field(default_factory=set)
    _limit: str = ""
    """The limit that a call has hit."""
    _clock: "_Clock" = dataclasses.field(init=False)

    async def run(self) -> str:
        """Return the answer of the model, when it has said it."""
        self._clock = _Clock(self.generations)
        while (step := await self._ask_model()).calls:
            results = await self._perform(step)
            self._rounds.append(_Round(step, results, await self.take_steering()))
        return step.text

    # Asking the model

    async def _ask_model(self) -> AgentStep:
        """Return the next step of the model, and say its text as it is written."""
        journaled = self.journal.next_step("agent", str(len(self._rounds)), self.prompt.text)
        recorded = self.journal.recorded_result(journaled, AgentStep)
        if recorded is not None:
            self._replay_step(recorded)
            return recorded
        limit = self._find_limit()
        if limit:
            self.metrics.limit_reached(f"agents.{limit}")
        start = self.replay.pieces
        separator = self.replay.separator() if self._rounds else ""
        partial = self.replay.replay_rest() if self.continues else ""
        if partial:
            partial, separator = partial.removeprefix(separator), ""
        said = _Paragraph(self.replay.say, separator)
        sampling = self.make_sampling()
        on_text: OnText = said
        if self.through is not None:
            self.through.feed(partial)
            self.through.end()
            on_text = FilteredText(self.through, said)

        async def generate(prompt: Prompt, tools: OfferedTools) -> Generation:
            return await self.generations.generate(
                journaled,
                self.message,
                prompt,
                sampling,
                on_text=on_text,
                partial=partial,
                tools=tools,
            )

        generation = await self._generate(generate, limit, sampling)
        if self.through is not None:
            said(self.through.end())
        self.count(generation)
        calls = () if limit else self._with_ids(generation.tool_calls, journaled.number)
        if limit and not self.replay.text_since(start).strip():
            said(f"I could not finish this: {self._explain(limit)}.")
        step = AgentStep(
            text=self.replay.text_since(start),
            calls=calls,
            client_calls=tuple(call.id for call in calls if call.name in self.client_tools),
            seconds=self._clock.seconds,
            tokens=self._clock.tokens,
            limit=limit,
            is_cut=generation.finish_reason == "length" and not calls,
        )
        self.journal.record_result(journaled, step)
        if step.is_cut:
            self.note_cut()
        return step

    def _replay_step(self, step: AgentStep) -> None:
        self.replay.say(step.text)
        if self.through is not None:
            self.through.feed(step.text)
            self.through.end()
        self._clock.set(step.seconds, step.tokens)
        self._call_ids.update(call.id for call in step.calls)
        if step.is_cut:
            self.note_cut()

    async def _generate(
        self,
        generate: Callable[[Prompt, OfferedTools], Awaitable[Generation]],
        limit: str,
        sampling: Sampling,
    ) -> Generation:
        """Ask the model; with shorter results when they are too long for it."""
        definitions = () if sampling.structure is not None else self._definitions()
        choice: ToolChoice = "none" if limit else "auto"
        tools = OfferedTools(
            definitions=definitions,
            choice=choice if definitions else "auto",
            parallel=self.parallel_tool_calls,
        )
        system = "\n\n".join(filter(None, (self.prompt.system, NOTE if definitions else "")))
        result_bytes = self.limits.result_bytes
        while True:
            following = (*self.prompt.following, *self._following(limit, result_bytes))
            prompt = dataclasses.replace(self.prompt, system=system, following=following)
            try:
                return await generate(prompt, tools)
            except PromptTooLong:
                result_bytes //= 2
                if not self._rounds or result_bytes < MIN_RESULT_BYTES:
                    raise

    def _definitions(self) -> tuple[ToolDefinition, ...]:
        own = (
            ToolDefinition(tool.name, tool.description, tool.json_schema)
            for tool in self.tools.values()
        )
        return (*own, *self.client_tools.values())

    def _following(self, limit: str, result_bytes: int) -> Iterator[ChatMessage]:
        """Yield the messages after the prompt: the steps so far."""
        for step, results, steering in self._rounds:
            yield ChatMessage("assistant", step.text.strip(), tool_calls=step.calls)
            for call, result in zip(step.calls, results, strict=True):
                if result_bytes < self.limits.result_bytes:
                    result = cut_result(result, result_bytes)
                yield ChatMessage("tool", present_result(result), tool_call_id=call.id)
            for message in steering:
                yield ChatMessage("user", message.text)
        if limit:
            yield ChatMessage(
                "user",
                f"[{self._explain(limit)}: no more tools can be called. Answer now with what is "
                "known, and say what is missing.]",
            )

    def _with_ids(self, calls: Sequence[ToolCall], step: int) -> tuple[ToolCall, ...]:
        """Return the calls with ids that no other call of this run has."""
        named: list[ToolCall] = []
        for position, call in enumerate(calls):
            if call.name in self.client_tools:
                id = f"{self.client_call_prefix}_{step}_{position}"
                call = dataclasses.replace(call, id=id)
            elif not call.id or call.id in self._call_ids:
                call = dataclasses.replace(call, id=f"call_{step}_{position}")
            self._call_ids.add(call.id)
            named.append(call)
        return tuple(named)

    # Limits

    def _find_limit(self) -> str:
        """Return the name of a limit that is reached, or ""."""
        limits = self.limits
        reached = {
            "steps": len(self._rounds) - self._rounds_before >= limits.steps,
            "calls": self._calls.total() >= limits.calls,
            "seconds": self._clock.seconds >= limits.seconds,
            "tokens": self._clock.tokens >= limits.tokens,
        }
        return self._limit or next((name for name, is_hit in reached.items() if is_hit), "")

    def _explain(self, limit: str) -> str:
        return f"the limit of {getattr(self.limits, limit)} {limit.replace('_', ' ')} is reached"

    # Calling tools

    async def _perform(self, step: AgentStep) -> list[str]:
        """Return the results of the calls of one step: first the server's, then the program's."""
        requests = [self._request(step, number) for number in range(len(step.calls))]
        is_client = [
            call.id in step.client_calls and request.error is None
            for call, request in zip(step.calls, requests, strict=True)
        ]
        own = iter(await self._perform_own(list(_omit(requests, is_client))))
        calls = [call for call, is_theirs in zip(step.calls, is_client, strict=True) if is_theirs]
        given = self.call_client(calls) if calls else {}
        if calls:
            self._begin_anew()
        return [
            cut_result(given[call.id], self.limits.result_bytes) if is_theirs else next(own)
            for call, is_theirs in zip(step.calls, is_client, strict=True)
        ]

    def _begin_anew(self) -> None:
        """Let the limits hold for what follows the results of the program, which wants to go on."""
        self._calls.clear()
        self._rounds_before = len(self._rounds) + 1
        self._limit = ""
        self._clock.set(0.0, 0)

    async def _perform_own(self, requests: list[RequestedCall]) -> list[str]:
        """Return the results of calls of the server's tools. The person approves first those that
        need it. They run in order, but for parallel ones that follow each other: these run side by
        side."""
        requests = self.tool_calls.obtain_approvals(requests)
        prepared = [self.tool_calls.prepare(request) for request in requests]
        limits = CallLimits(
            deadline=self._clock.deadline(self.limits.seconds),
            result_bytes=self.limits.result_bytes,
        )
        results: list[str] = []
        for group in _group(prepared):
            results += await self._perform_group(group, limits)
        return results

    def _request(self, step: AgentStep, position: int) -> RequestedCall:
        """Return a call of a step, with an error where a limit forbids it. What the program's tools
        get is for the program to validate."""
        call = step.calls[position]
        if call.id in step.client_calls:
            request, same = RequestedCall(name=call.name, arguments={}), call.arguments
        else:
            request = read_call(call.name, call.arguments, self.tools)
            same = json.dumps(request.arguments, sort_keys=True)
        error = self._count_call(call.name, same, position)
        return dataclasses.replace(request, error=error) if error else request

    def _count_call(self, name: str, arguments: str, position: int) -> InvalidInput | None:
        """Count a call. Return an error where a limit forbids it."""
        limit = ""
        if position >= self.limits.calls_per_step:
            limit = "calls_per_step"
            self.metrics.limit_reached(f"agents.{limit}")
        elif self._calls.total() >= self.limits.calls:
            limit = self._limit = "calls"
        elif self._calls[name, arguments] >= self.limits.repeated_calls:
            limit = self._limit = "repeated_calls"
        if limit:
            return InvalidInput(f"It was not made, since {self._explain(limit)}.")
        self._calls[name, arguments] += 1
        return None

    async def _perform_group(self, group: Sequence[PreparedCall], limits: CallLimits) -> list[str]:
        slots = asyncio.Semaphore(self.limits.parallel_calls)

        async def perform(call: PreparedCall) -> str:
            async with slots:
                return await self.tool_calls.perform_for_model(
                    call, person=self.message.person, limits=limits
                )

        if len(group) == 1:
            return [await perform(group[0])]
        tasks = [asyncio.create_task(perform(call)) for call in group]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()  # raises what ends the turn
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _omit(requests: Sequence[RequestedCall], omitted: Sequence[bool]) -> Iterator[RequestedCall]:
    return (request for request, is_out in zip(requests, omitted, strict=True) if not is_out)


def _group(calls: Sequence[PreparedCall]) -> Iterator[list[PreparedCall]]:
    """Yield the calls in order: parallel ones that follow each other together, others alone."""
    group: list[PreparedCall] = []
    for call in calls:
        if group and not (call.is_parallel and group[-1].is_parallel):
            yield group
            group = []
        group.append(call)
    if group:
        yield group


class _Paragraph:
    """Says text after a separator, which it omits when no text comes."""

    def __init__(self, say: OnText, separator: str) -> None:
        self._say = say
        self._separator = separator

    def __call__(self, text: str) -> None:
        if self._separator:
            text = text.lstrip("\n")
            if not text:
                return
            text, self._separator = self._separator + text, ""
        self._say(text)


class _Clock:
    """Seconds and tokens that the steps have taken, with those of earlier attempts."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self.set(0.0, 0)

    def set(self, seconds: float, tokens: int) -> None:
        """Continue with the numbers of an earlier attempt."""
        self._started_at = asyncio.get_running_loop().time() - seconds
        self._tokens_before = self._count() - tokens

    def _count(self) -> int:
        usage = self._generations.usage
        return usage.prompt_tokens + usage.completion_tokens

    @property
    def seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    @property
    def tokens(self) -> int:
        return self._count() - self._tokens_before

    def deadline(self, seconds: float) -> float:
        """Return when so many seconds have passed, on the event loop's clock."""
        return self._started_at + seconds
