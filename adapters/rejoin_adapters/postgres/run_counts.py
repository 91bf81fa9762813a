"""How many runs are to be done, over all tenants: operators must see a queue that nobody serves."""

from collections.abc import Sequence

import msgspec

from rejoin_adapters.postgres.pool import Database


class RunCount(msgspec.Struct, frozen=True):
    """An agent's runs whose turn it is, in one state. `waiting_s`: how long the oldest waits for a runner."""

    agent: str
    state: str
    runs: int
    waiting_s: float | None = None


async def busy(database: Database) -> Sequence[RunCount]:
    """Of the queued and running ones; an agent without any is left out. Raises `Unavailable`."""
    query = """
        select coalesce(json_agg(json_build_object(
          'agent', agent, 'state', state, 'runs', runs, 'waiting_s', waiting_s)), '[]')
        from (
          select agent, state, count(*) as runs,
            extract(epoch from clock_timestamp() - min(due_at)) as waiting_s
          from runs where ready and state in ('queued', 'running')
          group by agent, state) busy
    """
    return await database.get(list[RunCount], query)
