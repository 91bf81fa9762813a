"""A hundred messages sent at once in one session are answered one after the other, in the order of
acceptance.
"""

import asyncio
import itertools
from http import HTTPStatus
from typing import Any

import pytest

from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log

pytestmark = pytest.mark.slow

SENDS = 100
GATEWAYS = 3
ACCEPTED_S_MAX = 90.0


async def post_until_accepted(system: LocalSystem, base: str, chat: dict[str, Any]) -> Answer:
    """The response to a message that is posted again for as long as the gateway answers 503."""
    async with asyncio.timeout(ACCEPTED_S_MAX):
        while (answer := await system.post(base, chat)).status == HTTPStatus.SERVICE_UNAVAILABLE:
            pass
    return answer


@pytest.mark.feature("F93")
async def test_runs_of_one_session_never_overlap_however_many_are_sent_at_once(
    system: LocalSystem,
) -> None:
    """Over three gateways and three runners; the history shows the order in which they were accepted.

    A gateway answers 503 if the broker is busy for too long. The client then posts the same message again,
    which starts no second run.
    """
    bases = [await system.gateway() for _ in range(GATEWAYS)]
    for _ in range(GATEWAYS):
        await system.runner()
    session = system.fresh("s")
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(
                post_until_accepted(system, bases[number % GATEWAYS], system.chat(session, f"count {number}"))
            )
            for number in range(1, SENDS + 1)
        ]
    answers = [post.result() for post in posts]
    assert [(answer.status, answer.complete) for answer in answers] == [(200, True)] * SENDS
    messages = (await system.get(f"{bases[0]}/api/agents/{system.agent}/{session}")).json["messages"]
    said = ["".join(part.get("text", "") for part in message["parts"]) for message in messages]
    order = [int(text.split()[1]) for text in said[::2]]
    assert sorted(order) == list(range(1, SENDS + 1))
    assert said[1::2] == [" ".join(map(str, range(1, number + 1))) for number in order]
    spans = []
    for number in order:
        records = await read_log(system.nats_url, answers[number - 1].headers["x-workflow-run-id"])
        assert {record.head.attempt for record in records} == {1}
        spans.append((records[0].seq, records[-1].seq))
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(spans))
