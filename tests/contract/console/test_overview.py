"""`RunStore.overview`: counts of an owner's runs, from bounded parts of the table."""

from datetime import UTC, datetime, timedelta

from rejoin_adapters.console_types import LossCount, OverviewFilter, RunOverview
from rejoin_adapters.store_types import Owner
from rejoin_protocol.ids import AgentName, TenantId, UserId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

HOUR = timedelta(hours=1)


def recent(since: timedelta = HOUR, agent: str | None = None) -> OverviewFilter:
    now = datetime.now(UTC)
    return OverviewFilter(since=now - since, period=HOUR, agent=None if agent is None else AgentName(agent))


def runs_by_state(found: RunOverview) -> dict[State, int]:
    counts: dict[State, int] = {}
    for one in found.periods:
        counts[one.state] = counts.get(one.state, 0) + one.runs
    return counts


async def test_runs_are_counted_by_agent_state_and_time(chat: Chat) -> None:
    tenant, store = TenantId(fresh("ten")), chat.store
    ann, everybody = Owner(tenant, UserId("ann")), Owner(tenant)
    begun_at = datetime.now(UTC)
    await Chat(store, ann).complete("one")
    await Chat(store, ann).wait_for_decision("two")
    await Chat(store, everybody).send("three")
    other = Chat(store, everybody)
    await other.claim(await other.send("four"))
    found = await store.overview(everybody, recent())
    assert found.counted == 4
    states = {State.COMPLETED: 1, State.SUSPENDED: 1, State.QUEUED: 1, State.RUNNING: 1}
    assert runs_by_state(found) == states
    assert {one.agent for one in found.periods} == {AGENT}
    for period in found.periods:
        assert period.start.minute == 0
        assert abs(period.start - begun_at) < HOUR + timedelta(minutes=1)
    unfinished = {one.state: one for one in found.unfinished}
    assert {state: one.runs for state, one in unfinished.items()} == {
        State.SUSPENDED: 1,
        State.QUEUED: 1,
        State.RUNNING: 1,
    }
    assert all(0 <= one.longest_s < 60 for one in found.unfinished)
    half, most = found.wait_s
    assert 0 <= half <= most < 60
    assert not found.errors
    assert not found.losses
    assert runs_by_state(await store.overview(ann, recent())) == {State.COMPLETED: 1, State.SUSPENDED: 1}
    assert (await store.overview(everybody, recent(agent="nobody"))).counted == 0
    late = await store.overview(everybody, recent(-HOUR))
    assert (late.counted, late.periods, late.wait_s) == (0, [], [])
    assert len(late.unfinished) == 3  # whenever they were admitted


async def test_errors_are_counted_by_their_code_and_their_words_and_losses_by_their_cause(chat: Chat) -> None:
    owner, store = Owner(TenantId(fresh("ten"))), chat.store
    failed = []
    for error, code in (
        ("429 from the model, 7 tries", "model_error"),
        ("429 from the model, 8 tries", "model_error"),
        ("the tool\0 is gone", None),
        ("429 from the model, 9 tries", "agent_error"),
    ):
        one = Chat(store, owner)
        run = (await one.claim(await one.send("go"))).run
        await store.end(run.id, run.attempt, State.FAILED, None, error, code)
        failed.append(run.id)
    taken = Chat(store, owner)
    run = (await taken.claim(await taken.send("go"))).run
    await taken.claim(run)  # its runner is silent
    found = await store.overview(owner, recent())
    newest = max(failed[:2])
    kinds = [
        ("model_error", "# from the model, # tries", 2, newest),
        ("agent_error", "# from the model, # tries", 1, failed[3]),
        ("internal_error", "the tool is gone", 1, failed[2]),  # PostgreSQL's texts cannot have a NUL
    ]
    if failed[2] > failed[3]:  # of one millisecond, ids have any order
        kinds[1:] = kinds[:0:-1]
    assert [(one.code, one.text, one.runs, one.last) for one in found.errors] == kinds
    codes = [(code, runs, last) for code, _, runs, last in kinds]
    assert [(one.code, one.runs, one.last) for one in found.error_codes] == codes
    assert found.losses == [LossCount("silent", 1)]
