"""A runner's Prometheus metrics.

Labels are the names of this process's agents and tools, and the words of this file; a tool that a model
invented is "(unknown)". Nothing is counted for each event: the most frequent sample is an append, a batch.
"""

from rejoin_adapters.process.metrics_server import ProcessMetrics
from rejoin_protocol.money import NANO_USD_PER_USD
from rejoin_runner.models.model import Usage

MODEL_LABELS_MAX = 100
OTHER_LABEL = "(other)"
"""The label of further models: an application's own loop may name any."""


class WebhookMetrics:
    """The metrics of a sender of webhooks, among those of its process."""

    def __init__(self, metrics: ProcessMetrics) -> None:
        self._attempts = metrics.counter(
            "rejoin_webhook_attempts",
            "Attempts to send a webhook: delivered, retried (it is sent again later), failed (it is not).",
            "outcome",
        )
        for outcome in ("delivered", "retried", "failed"):
            self._attempts.labels(outcome)
        self._pending = metrics.gauge(
            "rejoin_webhooks_pending",
            "Webhooks of all tenants that are still to be sent. Every runner reports the same number.",
        )
        self._oldest_s = metrics.gauge(
            "rejoin_webhooks_oldest_age_seconds",
            "Age of the oldest of them. It grows while a receiver fails.",
        )

    def attempted(self, outcome: str) -> None:
        """A webhook was sent, or could not be sent."""
        self._attempts.labels(outcome).inc()

    def wait(self, pending: int, oldest_s: float) -> None:
        """The outbox was counted."""
        self._pending.set(pending)
        self._oldest_s.set(oldest_s)


class RunnerMetrics(ProcessMetrics):
    """The metrics of one runner process."""

    def __init__(self) -> None:
        super().__init__()
        self._in_progress = self.gauge("rejoin_runs_in_progress", "Runs that this runner executes.", "agent")
        self._runs = self.counter(
            "rejoin_runs",
            "Runs that entered a state here: running (claimed), suspended, completed, failed, cancelled.",
            "agent",
            "state",
        )
        self._attempts = self.counter(
            "rejoin_attempts_aborted",
            "Attempts that ended before their turn was complete, by reason: fenced (another runner has the "
            "run), handed_over (this runner drains), requeued (a service was away), crashed (a bug).",
            "agent",
            "reason",
        )
        self._queue_wait_s = self.seconds(
            "rejoin_queue_wait_seconds",
            "Age of a request when a runner claimed its run, from the broker's timestamp.",
            "agent",
        )
        self._takeovers = self.counter(
            "rejoin_takeovers", "Runs taken over from another attempt within a turn.", "agent"
        )
        self._append_s = self.seconds(
            "rejoin_append_seconds",
            "Duration of an append, with its retries, until the broker has stored the batch.",
        )
        self._steps = self.counter("rejoin_steps", "Model calls started.", "agent")
        self._model_s = self.seconds(
            "rejoin_model_seconds",
            "Duration of a model's whole response.",
            "agent",
        )
        self._model_errors = self.counter(
            "rejoin_model_errors",
            "Failed model steps, by error code.",
            "agent",
            "code",
        )
        self._tokens = self.counter("rejoin_tokens", "Tokens that the models reported.", "agent", "kind")
        self._cost = self.counter(
            "rejoin_cost_usd",
            "What model calls have cost, in US dollars, of models that have a price.",
            "agent",
            "model",
        )
        self._models: set[str] = set()
        self._tools = self.counter(
            "rejoin_tool_calls",
            "Tool calls, by outcome: ok, error, unknown (its runner stopped), denied (by a person).",
            "agent",
            "tool",
            "outcome",
        )

        self.webhooks = WebhookMetrics(self)

    def run_claimed(self, agent: str, age_s: float | None) -> None:
        """A run was claimed. `age_s` is the age of its request, None if the request was redelivered."""
        self._runs.labels(agent, "running").inc()
        self._in_progress.labels(agent).inc()
        if age_s is not None:
            self._queue_wait_s.labels(agent).observe(max(0.0, age_s))

    def run_released(self, agent: str) -> None:
        """The execution of a claimed run has ended, for any reason."""
        self._in_progress.labels(agent).dec()

    def run_taken_over(self, agent: str) -> None:
        """A run was taken over from an attempt that had written in this turn."""
        self._takeovers.labels(agent).inc()

    def run_entered_state(self, agent: str, state: str) -> None:
        """A run was suspended or has ended."""
        self._runs.labels(agent, state).inc()

    def attempt_aborted(self, agent: str, reason: str) -> None:
        """An attempt has ended before its turn was complete."""
        self._attempts.labels(agent, reason).inc()

    def appended(self, seconds: float) -> None:
        """A batch was stored, this long after its append began."""
        self._append_s.observe(seconds)

    def step_started(self, agent: str) -> None:
        """A model is called."""
        self._steps.labels(agent).inc()

    def model_answered(self, agent: str, seconds: float) -> None:
        """A model's response is complete."""
        self._model_s.labels(agent).observe(seconds)

    def tokens_used(self, agent: str, usage: Usage) -> None:
        """A model has reported its token counts."""
        self._tokens.labels(agent, "input").inc(usage.input_tokens)
        self._tokens.labels(agent, "output").inc(usage.output_tokens)

    def money_spent(self, agent: str, model: str, nano_usd: int) -> None:
        """A model call with a price has ended."""
        if len(self._models) < MODEL_LABELS_MAX:
            self._models.add(model)
        known = model if model in self._models else OTHER_LABEL
        self._cost.labels(agent, known).inc(nano_usd / NANO_USD_PER_USD)

    def model_failed(self, agent: str, code: str) -> None:
        """A model step has failed."""
        self._model_errors.labels(agent, code).inc()

    def tool_called(self, agent: str, tool: str, outcome: str) -> None:
        """A tool call has its result."""
        self._tools.labels(agent, tool, outcome).inc()
