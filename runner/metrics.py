"""What a runner counts for Prometheus.

Labels are the names of this process's own agents and tools, and our own words; a tool that a model invented
is "(unknown)". Nothing is counted per event: the most frequent thing counted is an append, which is a batch.
"""

from prometheus_client import Counter, Gauge, Histogram

from protocol.adapters.exposition import SECONDS, Process
from runner.models.port import Usage


class Metrics(Process):
    """One runner's."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._held = Gauge("rejoin_runs_held", "Runs in this runner's hands.", ("agent",), registry=registry)
        self._runs = Counter(
            "rejoin_runs",
            "What became of runs here: running (claimed), suspended, completed, failed, cancelled.",
            ("agent", "state"),
            registry=registry,
        )
        self._attempts = Counter(
            "rejoin_attempts",
            "How attempts ended that let go of their run before it was over: fenced (another runner has it), "
            "handed_over (this one drains), put_back (something was away), broken (a bug).",
            ("agent", "end"),
            registry=registry,
        )
        self._age = Histogram(
            "rejoin_queue_age_seconds",
            "How old a request was when a runner claimed it, by the broker's clock.",
            ("agent",),
            buckets=SECONDS,
            registry=registry,
        )
        self._takeovers = Counter(
            "rejoin_takeovers", "Runs taken over in the middle of a turn.", ("agent",), registry=registry
        )
        self._append = Histogram(
            "rejoin_append_seconds",
            "An append of a batch, until the broker has stored it, however often it had to be asked.",
            buckets=SECONDS,
            registry=registry,
        )
        self._steps = Counter("rejoin_steps", "Model calls that were begun.", ("agent",), registry=registry)
        self._model = Histogram(
            "rejoin_model_seconds",
            "A model's whole response.",
            ("agent",),
            buckets=SECONDS,
            registry=registry,
        )
        self._faults = Counter(
            "rejoin_model_errors",
            "Steps whose model failed, by reason.",
            ("agent", "code"),
            registry=registry,
        )
        self._tokens = Counter("rejoin_tokens", "As the models count.", ("agent", "kind"), registry=registry)
        self._tools = Counter(
            "rejoin_tool_calls",
            "By outcome: ok, error, unknown (its worker died), denied (by a person).",
            ("agent", "tool", "outcome"),
            registry=registry,
        )
        self._draining = Gauge("rejoin_draining", "1 once the process was asked to stop.", registry=registry)

    def claimed(self, agent: str, age_s: float | None) -> None:
        """A run is ours. `age_s`: how long its request had waited; None if it was delivered before."""
        self._runs.labels(agent, "running").inc()
        self._held.labels(agent).inc()
        if age_s is not None:
            self._age.labels(agent).observe(max(0.0, age_s))

    def let_go(self, agent: str) -> None:
        """Of a claimed run, however."""
        self._held.labels(agent).dec()

    def took_over(self, agent: str) -> None:
        """Another attempt had written in this turn."""
        self._takeovers.labels(agent).inc()

    def became(self, agent: str, state: str) -> None:
        """A run is over, or waits."""
        self._runs.labels(agent, state).inc()

    def gave_back(self, agent: str, end: str) -> None:
        """A run is another one's to go on with."""
        self._attempts.labels(agent, end).inc()

    def appended(self, seconds: float) -> None:
        """A batch is stored."""
        self._append.observe(seconds)

    def step(self, agent: str) -> None:
        """A model is asked."""
        self._steps.labels(agent).inc()

    def answered(self, agent: str, seconds: float) -> None:
        """A model has said everything."""
        self._model.labels(agent).observe(seconds)

    def used(self, agent: str, usage: Usage) -> None:
        """What it cost."""
        self._tokens.labels(agent, "input").inc(usage.input_tokens)
        self._tokens.labels(agent, "output").inc(usage.output_tokens)

    def model_failed(self, agent: str, code: str) -> None:
        """A step ends with an error."""
        self._faults.labels(agent, code).inc()

    def called(self, agent: str, tool: str, outcome: str) -> None:
        """A tool call has its result."""
        self._tools.labels(agent, tool, outcome).inc()

    def draining(self) -> None:
        """From now on this runner only goes away."""
        self._draining.set(1)
