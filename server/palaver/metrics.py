"""Metrics: the server's counters, histograms and gauges, in Prometheus' exposition format."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from palaver.feedback import Rating
from palaver.messages import Outcome

NAMED_TENANTS = 100
"""Tenants with a label of their own; those that come later share one."""
PlatformCall = Literal["create", "edit", "delete", "find"]
"""Calls of a chat platform: to post a message, to change it, to delete it, to look for one whose
answer was lost."""
CallResult = Literal["done", "rate_limited", "unreachable", "refused", "gone", "failed"]
IgnoredReason = Literal["policy", "unpaired", "bots"]
"""Why a message is not answered: the access policy refuses it, its person is not approved, or bots
have written too often."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
POSTED_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

LabelT = TypeVar("LabelT", bound=str)
MetricT = TypeVar("MetricT", Counter, Histogram)


class Children(Generic[MetricT]):
    """The children of a labelled metric, kept so that each is made once. Label values must be few:
    of tenants, only the first `NAMED_TENANTS` are labels."""

    def __init__(self, make: Callable[..., MetricT]) -> None:
        self._make: Callable[..., MetricT] = make
        self._children: dict[tuple[str, ...], MetricT] = {}

    def of(self, *labels: str) -> MetricT:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._make(*labels)
        return child


class Metrics:
    """One server's counters; two servers in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._messages = Children(
            Counter(
                "palaver_messages_total", "Messages accepted", ["channel"], registry=self._registry
            ).labels
        )
        self._turns = Children(
            Counter(
                "palaver_turns_total", "Turns closed", ["skill", "outcome"], registry=self._registry
            ).labels
        )
        self._feedback = Children(
            Counter(
                "palaver_feedback_total",
                "Ratings of replies, given or changed",
                ["skill", "rating"],
                registry=self._registry,
            ).labels
        )
        self._turn_seconds = Children(
            Histogram(
                "palaver_turn_seconds",
                "Seconds from claim to settlement",
                ["skill"],
                buckets=SECONDS,
                registry=self._registry,
            ).labels
        )
        self._loop_stall_seconds = Histogram(
            "palaver_loop_stall_seconds",
            "Delays of the event loop above 50 milliseconds",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._refusals = Children(
            Counter(
                "palaver_refusals_total", "Messages refused", ["reason"], registry=self._registry
            ).labels
        )
        self._tenant_tokens = Children(
            Counter(
                "palaver_tenant_tokens_total",
                "Tokens of prompts and replies by tenant",
                ["tenant"],
                registry=self._registry,
            ).labels
        )
        self._tenants: set[str] = set()
        self._slow_readers = Counter(
            "palaver_slow_readers_total",
            "Readers disconnected because too much waited for them",
            registry=self._registry,
        )

        self._wrong_keys = Children(
            Counter(
                "palaver_wrong_keys_total",
                "Wrong keys: refused with 401, throttled with 429",
                ["answer"],
                registry=self._registry,
            ).labels
        )
        self._visitor_tokens = Children(
            Counter(
                "palaver_visitor_tokens_total",
                "Requests for visitors' tokens: granted, refused with 4xx, throttled with 429",
                ["answer"],
                registry=self._registry,
            ).labels
        )
        self._memories_refused = Children(
            Counter(
                "palaver_memories_refused_total",
                "Memories refused by limit: bytes of a value, count about a person",
                ["limit"],
                registry=self._registry,
            ).labels
        )
        self._uploaded_files = Counter(
            "palaver_uploaded_files_total", "Files uploaded", registry=self._registry
        )
        self._uploaded_bytes = Counter(
            "palaver_uploaded_bytes_total", "Bytes of files uploaded", registry=self._registry
        )
        self._limits = Children(
            Counter(
                "palaver_limits_total",
                "Connections and requests that a limit has refused or ended",
                ["limit"],
                registry=self._registry,
            ).labels
        )

        self.channels = ChannelMetrics(self._registry)
        self._engines = EngineMetrics(self._registry)

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed when it is scraped."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def gauge_each(
        self,
        name: str,
        help_text: str,
        label: str,
        values: Iterable[LabelT],
        count: Callable[[LabelT], float],
    ) -> None:
        """Add a gauge with a child for each value of a label."""
        counts: dict[tuple[str, ...], Callable[[], float]] = {
            (value,): functools.partial(count, value) for value in values
        }
        self.gauges(name, help_text, (label,), counts)

    def gauges(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        counts: Mapping[tuple[str, ...], Callable[[], float]],
    ) -> None:
        """Add a gauge with a child for each combination of labels in ``counts``."""
        gauge = Gauge(name, help_text, labels, registry=self._registry)
        for values, count in counts.items():
            gauge.labels(*values).set_function(count)

    def message(self, channel: str) -> None:
        self._messages.of(channel).inc()

    def turn(self, skill: str, outcome: Outcome, seconds: float) -> None:
        self._turns.of(skill, outcome).inc()
        self._turn_seconds.of(skill).observe(seconds)

    def rated(self, skill: str, rating: Rating) -> None:
        self._feedback.of(skill, rating).inc()

    def loop_stall(self, seconds: float) -> None:
        self._loop_stall_seconds.observe(seconds)

    def refused(self, reason: str) -> None:
        self._refusals.of(reason).inc()

    def memory_refused(self, limit: str) -> None:
        self._memories_refused.of(limit).inc()

    def served(self, tenant: str, tokens: int) -> None:
        if len(self._tenants) < NAMED_TENANTS:
            self._tenants.add(tenant)
        self._tenant_tokens.of(tenant if tenant in self._tenants else "").inc(tokens)

    def limit_reached(self, limit: str) -> None:
        """Count a refusal or an end by the limit of this setting; see docs/security.md."""
        self._limits.of(limit).inc()

    def uploaded(self, size: int) -> None:
        self._uploaded_files.inc()
        self._uploaded_bytes.inc(size)

    def slow_reader(self) -> None:
        self._slow_readers.inc()

    def wrong_key(self, answer: Literal["refused", "throttled"]) -> None:
        self._wrong_keys.of(answer).inc()

    def visitor_token(self, answer: Literal["granted", "refused", "throttled"]) -> None:
        self._visitor_tokens.of(answer).inc()

    def of_model(self, name: str = "default") -> "ModelMetrics":
        """Return the counters of the engine of a model."""
        return ModelMetrics(name, self._engines, self.served)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


class EngineMetrics:
    """The counters of all engines, with the label ``model``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.first_text_seconds = Histogram(
            "palaver_first_text_seconds",
            "Seconds from the engine's request to its first text",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "palaver_tokens_total",
            "Tokens by kind: prompt, cached (part of prompt), completion",
            ["kind", "model"],
            registry=registry,
        )
        self.restarts = Counter(
            "palaver_engine_restarts_total", "Restarts of the engine", ["model"], registry=registry
        )
        self.generations_cut = Counter(
            "palaver_generations_cut_total",
            "Generations that the engine's death has cut",
            ["model"],
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "palaver_scheduler_wait_seconds",
            "Seconds in the queue for the engine",
            ["lane", "model"],
            buckets=SECONDS,
            registry=registry,
        )


class ModelMetrics:
    """The counters of the engine of one model. ``served`` counts tokens by tenant."""

    def __init__(
        self, name: str, engines: EngineMetrics, served: Callable[[str, int], None]
    ) -> None:
        self._first_text = engines.first_text_seconds.labels(name)
        self._tokens = Children(lambda kind: engines.tokens.labels(kind, name))
        self._restarts = engines.restarts.labels(name)
        self._cut = engines.generations_cut.labels(name)
        self._wait_seconds = Children(lambda lane: engines.wait_seconds.labels(lane, name))
        self.served = served

    def first_text(self, seconds: float) -> None:
        self._first_text.observe(seconds)

    def tokens(self, *, prompt: int, cached: int, completion: int) -> None:
        for kind, tokens in (("prompt", prompt), ("cached", cached), ("completion", completion)):
            if tokens:
                self._tokens.of(kind).inc(tokens)

    def engine_restart(self) -> None:
        self._restarts.inc()

    def generation_cut(self) -> None:
        self._cut.inc()

    def waited(self, lane: str, seconds: float) -> None:
        self._wait_seconds.of(lane).observe(seconds)


class ChannelMetrics:
    """The counters of channels on chat platforms."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Children(
            Counter(
                "palaver_channel_calls_total",
                "Calls of a chat platform that post, edit, delete or find a message, by result",
                ["channel", "call", "result"],
                registry=registry,
            ).labels
        )
        self._lost_answers = Children(
            Counter(
                "palaver_channel_lost_answers_total",
                "Posts that were found on the platform after its answer was lost",
                ["channel"],
                registry=registry,
            ).labels
        )
        self._parked = Children(
            Counter(
                "palaver_channel_parked_total",
                "Conversations that were parked, since the platform refuses posts for good",
                ["channel"],
                registry=registry,
            ).labels
        )
        self._posted_seconds = Children(
            Histogram(
                "palaver_channel_posted_seconds",
                "Seconds from a turn's settlement until its reply is posted completely",
                ["channel"],
                buckets=POSTED_SECONDS,
                registry=registry,
            ).labels
        )
        self._ignored = Children(
            Counter(
                "palaver_channel_ignored_total",
                "Messages that are not answered, by reason",
                ["channel", "reason"],
                registry=registry,
            ).labels
        )

    def called(self, channel: str, call: PlatformCall, result: CallResult) -> None:
        self._calls.of(channel, call, result).inc()

    def lost_answer(self, channel: str) -> None:
        self._lost_answers.of(channel).inc()

    def parked(self, channel: str) -> None:
        self._parked.of(channel).inc()

    def posted(self, channel: str, seconds: float) -> None:
        self._posted_seconds.of(channel).observe(seconds)

    def ignored(self, channel: str, reason: IgnoredReason) -> None:
        self._ignored.of(channel, reason).inc()
