"""The work queue of run requests: at-least-once delivery to one runner of an agent."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import RunRequest


class Delivery(Protocol):
    """A run request delivered to this runner. Without `in_progress`, the queue redelivers it elsewhere."""

    @property
    def request(self) -> RunRequest:
        """The request."""
        ...

    @property
    def delivery_count(self) -> int:
        """How often the request was delivered, this delivery included."""
        ...

    @property
    def pending_count(self) -> int:
        """How many requests were queued behind this one when it was delivered."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request: the trace context, if there is one."""
        ...

    @property
    def age_s(self) -> float | None:
        """Time in the queue, by the broker's clock and ours. None for a redelivery."""
        ...

    async def in_progress(self) -> None:
        """Extend the delivery by another ack wait."""
        ...

    async def ack(self) -> None:
        """Remove the request from the queue."""
        ...

    async def nak(self, delay_s: float = 0) -> None:
        """Return the request to the queue; it is redelivered after `delay_s`."""
        ...


class RunQueue(Protocol):
    """The queue of run requests."""

    async def publish(self, request: RunRequest) -> None:
        """Queue a turn of a run. Publishing a turn that is queued already has no effect."""
        ...

    def pull(
        self, agent: AgentName
    ) -> AbstractAsyncContextManager[Callable[[int], Awaitable[Sequence[Delivery]]]]:
        """A function `next(count)` that takes requests for an agent.

        With count 1 it waits for a request. With a larger count it returns what is queued now, perhaps
        nothing. Calls must not overlap. Requests that arrive after the context has ended return to the queue.
        """
        ...
