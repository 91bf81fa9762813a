"""The work queue of run requests: at-least-once delivery to one runner of an agent."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import RunRequest


class Delivery(Protocol):
    """A run request delivered to this runner. Without heartbeats, the queue redelivers it elsewhere."""

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
        """How many requests were queued behind this one when it was delivered, without those that are
        delivered again.
        """
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request: the trace context, if there is one."""
        ...

    @property
    def age_s(self) -> float | None:
        """Time in the queue, by the broker's clock and ours. None for a redelivery."""
        ...

    @property
    def receipt(self) -> str:
        """Names the delivery on a `HeartbeatLink`."""
        ...

    async def ack(self) -> None:
        """Remove the request from the queue. If the queue does not hear it, it delivers the request again,
        and the next claim finds that the turn is over.
        """
        ...

    async def nak(self, delay_s: float = 0) -> None:
        """Return the request to the queue; it is redelivered after `delay_s`."""
        ...


class HeartbeatLink(Protocol):
    """A link to the queue that keeps deliveries. It belongs to the event loop that opens it."""

    @property
    def is_connected(self) -> bool:
        """Whether the queue can be reached now."""
        ...

    async def keep(self, receipt: str) -> None:
        """Extend a delivery by another ack wait. Raises `Unavailable`."""
        ...

    async def give_up(self, receipt: str) -> None:
        """Return a delivery to the queue at once. Raises `Unavailable`."""
        ...


class RunQueue(Protocol):
    """The queue of run requests."""

    @property
    def shards(self) -> int:
        """How many parts the queue has. Each is pulled from by itself: one that is away stops no other."""
        ...

    @property
    def links_are_threadsafe(self) -> bool:
        """Whether `open_link` may be used in the event loop of another thread."""
        ...

    def open_link(self) -> AbstractAsyncContextManager[HeartbeatLink]:
        """A link with a connection of its own. Waits for a queue that cannot be reached."""
        ...

    def discard_late_arrivals(self) -> None:
        """Drop the requests that arrived while this process stood still for longer than an ack wait: the
        broker is delivering them to other runners.
        """
        ...

    async def publish(self, request: RunRequest) -> None:
        """Queue a turn of a run. Publishing a turn that is queued already has no effect."""
        ...

    def pull(
        self, agent: AgentName, shard: int = 0
    ) -> AbstractAsyncContextManager[Callable[[int], Awaitable[Sequence[Delivery]]]]:
        """A function `next(count)` that takes requests for an agent from one shard.

        With count 1 it waits for a request. With a larger count it returns what is queued now, perhaps
        nothing. Calls must not overlap. Requests that arrive after the context has ended return to the queue.
        """
        ...
