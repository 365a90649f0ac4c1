"""Metrics: what operators watch, in Prometheus' exposition format."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from palaver.messages import Outcome

NAMED_TENANTS = 100
"""Tenants with a label of their own; those that come later share one."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's counters; two servers in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._messages = Counter(
            "palaver_messages_total", "Messages accepted", ["channel"], registry=self._registry
        )
        self._turns = Counter(
            "palaver_turns_total", "Turns closed", ["skill", "outcome"], registry=self._registry
        )
        self._turn_seconds = Histogram(
            "palaver_turn_seconds",
            "Seconds from claim to settlement",
            ["skill"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first_text_seconds = Histogram(
            "palaver_first_text_seconds",
            "Seconds from the engine's request to its first text",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "palaver_tokens_total",
            "Tokens by kind: prompt, cached (part of prompt), completion",
            ["kind"],
            registry=self._registry,
        )
        self._engine_restarts = Counter(
            "palaver_engine_restarts_total", "Restarts of the engine", registry=self._registry
        )
        self._generations_cut = Counter(
            "palaver_generations_cut_total",
            "Generations that the engine's death has cut",
            registry=self._registry,
        )

        self._refusals = Counter(
            "palaver_refusals_total", "Messages refused", ["reason"], registry=self._registry
        )
        self._wait_seconds = Histogram(
            "palaver_admission_wait_seconds",
            "Seconds in line for the engine",
            ["lane"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tenant_tokens = Counter(
            "palaver_tenant_tokens_total",
            "Tokens of prompts and replies by tenant",
            ["tenant"],
            registry=self._registry,
        )
        self._tenants: set[str] = set()
        self._slow_readers = Counter(
            "palaver_slow_readers_total",
            "Readers disconnected because too much waited for them",
            registry=self._registry,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def watch_each(
        self, name: str, help_text: str, label: str, values: Mapping[str, Callable[[], float]]
    ) -> None:
        """One gauge with a value for each label."""
        gauge = Gauge(name, help_text, [label], registry=self._registry)
        for labelled, value in values.items():
            gauge.labels(labelled).set_function(value)

    def message(self, channel: str) -> None:
        self._messages.labels(channel).inc()

    def turn(self, skill: str, outcome: Outcome, seconds: float) -> None:
        self._turns.labels(skill, outcome).inc()
        self._turn_seconds.labels(skill).observe(seconds)

    def first_text(self, seconds: float) -> None:
        self._first_text_seconds.observe(seconds)

    def tokens(self, *, prompt: int, cached: int, completion: int) -> None:
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("cached").inc(cached)
        self._tokens.labels("completion").inc(completion)

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def waited(self, lane: str, seconds: float) -> None:
        self._wait_seconds.labels(lane).observe(seconds)

    def served(self, tenant: str, tokens: int) -> None:
        if len(self._tenants) < NAMED_TENANTS:
            self._tenants.add(tenant)
        self._tenant_tokens.labels(tenant if tenant in self._tenants else "").inc(tokens)

    def slow_reader(self) -> None:
        self._slow_readers.inc()

    def engine_restart(self) -> None:
        self._engine_restarts.inc()

    def generation_cut(self) -> None:
        self._generations_cut.inc()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
