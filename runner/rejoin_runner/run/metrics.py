"""What a runner counts for Prometheus.

Labels are the names of this process's own agents and tools, and our own words; a tool that a model invented
is "(unknown)". Nothing is counted per event: the most frequent thing counted is an append, which is a batch.
"""

from rejoin_adapters.service.metrics_server import ProcessMetrics

from rejoin_runner.models.model import Usage


class RunnerMetrics(ProcessMetrics):
    """One runner's."""

    def __init__(self) -> None:
        super().__init__()
        self._held = self.gauge("rejoin_runs_in_progress", "Runs in this runner's hands.", "agent")
        self._runs = self.counter(
            "rejoin_runs",
            "What became of runs here: running (claimed), suspended, completed, failed, cancelled.",
            "agent",
            "state",
        )
        self._attempts = self.counter(
            "rejoin_attempts_aborted",
            "How attempts ended that let go of their run before it was over: fenced (another runner has it), "
            "handed_over (this one drains), requeued (something was away), crashed (a bug).",
            "agent",
            "reason",
        )
        self._age = self.seconds(
            "rejoin_queue_wait_seconds",
            "How old a request was when a runner claimed it, by the broker's clock.",
            "agent",
        )
        self._takeovers = self.counter(
            "rejoin_takeovers", "Runs taken over in the middle of a turn.", "agent"
        )
        self._append = self.seconds(
            "rejoin_append_seconds",
            "An append of a batch, until the broker has stored it, however often it had to be asked.",
        )
        self._steps = self.counter("rejoin_steps", "Model calls that were begun.", "agent")
        self._model = self.seconds(
            "rejoin_model_seconds",
            "A model's whole response.",
            "agent",
        )
        self._faults = self.counter(
            "rejoin_model_errors",
            "Steps whose model failed, by reason.",
            "agent",
            "code",
        )
        self._tokens = self.counter("rejoin_tokens", "As the models count.", "agent", "kind")
        self._tools = self.counter(
            "rejoin_tool_calls",
            "By outcome: ok, error, unknown (its worker died), denied (by a person).",
            "agent",
            "tool",
            "outcome",
        )

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
