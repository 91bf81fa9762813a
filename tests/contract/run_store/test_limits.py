"""`RunStore`: a tenant's limits of concurrent runs, queued runs and tokens per day, and the order of waiting
runs.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore, open_run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits, Owner, Run, Submit, UserMessage, WhenBusy
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import MessageId, TenantId, UserId
from rejoin_protocol.lifecycle import BUSY, TERMINAL, State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import Chat, fresh, user

pytest_plugins = ("tests.support.data.store_fixtures",)

CHECKED_S = 20.0


async def limit(store: RunStore, owner: Owner, limits: Limits) -> None:
    if isinstance(store, MemoryRunStore):
        store.database.limits[owner.tenant] = limits
    else:
        assert isinstance(store, PostgresRunStore)
        await PostgresTenants(store.database).set_limits(owner.tenant, limits)


async def limited(store: RunStore, **limits: int) -> Owner:
    """A tenant with such limits."""
    owner = Owner(TenantId(fresh("ten")))
    await limit(store, owner, Limits(**limits))
    return owner


async def waiting(store: RunStore, owner: Owner, count: int) -> tuple[list[Chat], list[Run]]:
    """So many sessions with a run each, accepted one after the other."""
    chats = [Chat(store, owner) for _ in range(count)]
    return chats, [await chat.send(str(number)) for number, chat in enumerate(chats)]


async def promoted(store: RunStore) -> list[RunRequest]:
    return list(await store.recover_stranded(60))


async def test_runs_beyond_the_limit_wait_and_follow_in_the_order_of_their_acceptance(
    store: RunStore,
) -> None:
    """Each end of a run makes the run ready that has waited longest in any session, and requests it."""
    owner = await limited(store, running_max=2)
    chats, runs = await waiting(store, owner, 5)
    assert [run.ready for run in runs] == [True, True, False, False, False]
    assert await store.claim(runs[2].request, "early") is None, "what waits cannot be had"
    for number in range(5):
        claim = await chats[number].claim(await chats[number].found(runs[number]))
        following = runs[number + 2].request if number < 3 else None
        assert await chats[number].end(claim.run) == following
    assert {await chats[n].state(run) for n, run in enumerate(runs)} == {State.COMPLETED}


async def test_one_tenants_backlog_is_nothing_to_another(store: RunStore) -> None:
    crowded, other = await limited(store, running_max=1), await limited(store, running_max=1)
    _, runs = await waiting(store, crowded, 20)
    assert [run.ready for run in runs].count(True) == 1
    assert (await Chat(store, other).send("first")).ready


async def test_the_next_run_of_a_session_waits_for_those_accepted_before_it(store: RunStore) -> None:
    owner = await limited(store, running_max=1)
    first, second = Chat(store, owner), Chat(store, owner)
    one, two, three = await first.send("one"), await second.send("two"), await first.send("three")
    assert await first.end((await first.claim(one)).run) == two.request
    assert not (await first.found(three)).ready
    assert await second.end((await second.claim(two)).run) == three.request


async def test_no_two_runs_of_one_session_are_ready_however_many_places_there_are(store: RunStore) -> None:
    chat = Chat(store, await limited(store, running_max=5))
    one, two = await chat.send("one"), await chat.send("two")
    assert (one.ready, two.ready) == (True, False)
    assert await promoted(store) == []
    assert await chat.end((await chat.claim(one)).run) == two.request


async def test_a_suspended_run_gives_up_its_place_and_waits_for_one_when_it_goes_on(store: RunStore) -> None:
    owner = await limited(store, running_max=1)
    asking, other, late = (Chat(store, owner) for _ in range(3))
    run = (await asking.claim(await asking.send("may I?"))).run
    two, three = await other.send("two"), await late.send("three")
    approvals = await asking.ask(run)
    assert await asking.suspend(run) == two.request
    decided = (await asking.decide(*approvals)).run
    assert (decided.state, decided.ready) == (State.QUEUED, False)
    assert await other.end((await other.claim(two)).run) == decided.request, "it was accepted first"
    assert await asking.end((await asking.claim(decided.request)).run) == three.request


async def test_what_is_interrupted_needs_no_place(store: RunStore) -> None:
    """A run that waits for one is ended at once, and so is a suspended one; its session names it."""
    owner = await limited(store, running_max=1)
    asking, running, queued = (Chat(store, owner) for _ in range(3))
    run, _ = await asking.wait_for_decision("may I?")
    await running.send("one")
    mine = await queued.send("two")
    for chat, ended in ((queued, mine), (asking, run)):
        found = await chat.interrupt()
        assert found.run is not None
        assert (found.run.id, found.interrupted, found.run.ready) == (ended.id, True, True)
        assert (await chat.claim(found.run)).run.interrupted
    assert (await running.send("three")).ready is False


async def test_a_request_that_interrupts_ends_a_run_that_waits_for_a_place(store: RunStore) -> None:
    owner = await limited(store, running_max=1)
    running, queued = Chat(store, owner), Chat(store, owner)
    await running.send("one")
    first = await queued.send("two")
    admitted = await queued.submit("three", when_busy=WhenBusy.INTERRUPT)
    assert admitted.interrupted is not None
    assert (admitted.interrupted.id, admitted.interrupted.ready) == (first.id, True)
    assert not admitted.run.ready


async def test_a_run_that_waits_for_a_place_is_its_sessions_run(store: RunStore) -> None:
    """A client can resume it, and the history shows that the session is busy."""
    owner = await limited(store, running_max=1)
    await Chat(store, owner).send("another's")
    chat = Chat(store, owner)
    run = await chat.send("one")
    await chat.send("two")
    current, history = await store.current_run(owner, chat.id), await store.history(owner, chat.id)
    assert current is not None
    assert current.id == run.id
    assert history is not None
    assert history.active_run == run


async def test_a_raised_limit_is_found_by_the_sweep_and_so_is_one_taken_away(store: RunStore) -> None:
    owner = await limited(store, running_max=1)
    _, runs = await waiting(store, owner, 5)
    assert await promoted(store) == []
    await limit(store, owner, Limits(running_max=3))
    assert await promoted(store) == [run.request for run in runs[1:3]]
    assert await promoted(store) == [], "once"
    await limit(store, owner, Limits())
    assert await promoted(store) == [run.request for run in runs[3:]]


async def test_the_place_of_a_deleted_run_is_given_away_by_the_sweep(postgres: PostgresRunStore) -> None:
    owner = await limited(postgres, running_max=1)
    chats, runs = await waiting(postgres, owner, 2)
    await chats[0].claim(runs[0])
    await PostgresSessionStore(postgres.database).delete(owner, chats[0].id)
    assert (await Chat(postgres, owner).send("later")).ready is False, "who came first is first"
    assert await promoted(postgres) == [runs[1].request]


async def test_what_holds_for_tenants_without_limits_of_their_own_is_the_services_word(
    database_url: str,
) -> None:
    async with await open_run_store(database_url, limits=Limits(running_max=1, queued_max=1)) as store:
        owner, own = Owner(TenantId(fresh("ten"))), await limited(store, running_max=2, queued_max=5)
        run = await Chat(store, owner).send("one")
        with pytest.raises(Limited):
            await Chat(store, owner).send("two")
        await Chat(store, owner).claim(run)
        assert not (await Chat(store, owner).send("two")).ready
        assert [run.ready for run in (await waiting(store, own, 3))[1]] == [True, True, False]
        assert await PostgresTenants(store.database).get_limits(own.tenant) == Limits(
            running_max=2, queued_max=5
        )
        assert await PostgresTenants(store.database).get_limits(owner.tenant) == Limits()


async def test_a_tenant_with_enough_queued_is_told_so_and_nothing_is_stored(store: RunStore) -> None:
    owner = await limited(store, queued_max=2)
    first, second = Chat(store, owner), Chat(store, owner)
    run = await first.send("one", "m")
    await first.send("two")
    with pytest.raises(Limited) as refused:
        await second.send("three")
    assert refused.value.retry_after_s == 5
    with pytest.raises(Limited, match="queued"):
        await first.submit("three", when_busy=WhenBusy.INTERRUPT)
    assert await store.history(owner, second.id) is None
    assert await first.texts() == ["one", "two"]
    assert not (await first.found(run)).interrupted
    assert not (await first.submit("one", id="m")).created  # it is there already
    assert (await Chat(store).submit("another tenant's")).created
    await first.claim(run)
    assert (await second.submit("three")).created


async def test_a_conflict_goes_before_a_limit(store: RunStore) -> None:
    chat = Chat(store, await limited(store, queued_max=1))
    await chat.submit("one", id="m")
    with pytest.raises(Conflict):
        await chat.admit(Submit(UserMessage(user("other", "m"), b"2")))


async def test_a_steering_message_that_its_run_has_read_is_no_queued_run(store: RunStore) -> None:
    tenant = await limited(store, queued_max=2, user_queued_max=1)
    chat = Chat(store, Owner(tenant.tenant, UserId("ann")))
    run = (await chat.claim(await chat.send("one"))).run
    read: list[MessageId] = []
    for text in ("two", "three", "four"):
        steering = (await chat.submit(text, when_busy=WhenBusy.STEER)).run
        with pytest.raises(Limited, match="you have too many runs queued: at most 1"):
            await chat.submit("too many", when_busy=WhenBusy.STEER)
        read.append(MessageId(steering.user_message or ""))
        assert await store.find_steering(run.id, run.attempt, read) == []


async def spend(chat: Chat, run: Run, tokens: int, *, suspend: bool = False) -> None:
    answer = chat.answer(run, "ok") | {"metadata": {"usage": {"inputTokens": tokens - 1, "outputTokens": 1}}}
    if suspend:
        await chat.store.suspend(run.id, run.attempt, answer)
    else:
        await chat.store.end(run.id, run.attempt, State.COMPLETED, answer, None)


async def test_a_tenant_that_has_spent_its_tokens_is_told_to_come_back_at_midnight(store: RunStore) -> None:
    """What a run has cost counts when it waits or ends, each token once; others have their own."""
    owner = await limited(store, tokens_per_day=100)
    chat = Chat(store, owner)
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run)
    await spend(chat, run, 60, suspend=True)
    run = (await chat.claim((await chat.decide(*approvals)).run)).run
    await spend(chat, run, 99)
    run = (await chat.claim(await chat.send("two"))).run
    await spend(chat, run, 2)
    with pytest.raises(Limited) as refused:
        await chat.send("three")
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    assert abs((midnight - now).total_seconds() - refused.value.retry_after_s) < 60
    assert await chat.texts() == ["one", "ok", "two", "ok"]
    assert (await Chat(store, await limited(store, tokens_per_day=100)).submit("one")).created


async def test_deleting_a_session_does_not_give_its_tokens_back_but_the_next_day_does(
    postgres: PostgresRunStore,
) -> None:
    owner = await limited(postgres, tokens_per_day=10)
    chat = Chat(postgres, owner)
    await spend(chat, (await chat.claim(await chat.send("one"))).run, 10)
    await PostgresSessionStore(postgres.database).delete(owner, chat.id)
    with pytest.raises(Limited):
        await chat.send("two")
    await postgres.database.fetch_text(
        "update spending set day = day - 1 where tenant_id = $1 returning tenant_id", owner.tenant
    )
    await spend(chat, (await chat.claim(await chat.send("two"))).run, 9)
    assert (await chat.submit("three")).created, "yesterday's are not counted"


class Crowd:
    """Many sessions of one tenant, executed as runners would, all at once."""

    def __init__(self, stores: Sequence[RunStore], owner: Owner, seed: int) -> None:
        self.stores = stores
        self.owner = owner
        self.chance = random.Random(seed)
        self.chats = [Chat(self.any, owner) for _ in range(8)]
        self.requests: asyncio.Queue[RunRequest] = asyncio.Queue()
        self.known: set[RunRequest] = set()
        self.runs: list[Run] = []
        self.at_once: set[str] = set()
        self.most = 0

    @property
    def any(self) -> RunStore:
        return self.chance.choice(self.stores)

    async def send(self) -> None:
        chat = self.chance.choice(self.chats)
        chat.store = self.any
        busy = self.chance.choice([WhenBusy.ENQUEUE, WhenBusy.ENQUEUE, WhenBusy.INTERRUPT])
        admitted = await chat.submit("hello", when_busy=busy)
        self.runs.append(admitted.run)
        for run in (admitted.run, admitted.interrupted):
            if run is not None:
                self.publish(run)

    def publish(self, run: Run) -> None:
        if run.ready and run.state is State.QUEUED:
            self.put(run.request)

    def put(self, *requests: RunRequest) -> None:
        """As the broker: a turn that is published twice is queued once."""
        for request in requests:
            if request not in self.known:
                self.known.add(request)
                self.requests.put_nowait(request)

    async def serve(self) -> None:
        while True:
            await self.execute(await self.requests.get())

    async def execute(self, request: RunRequest) -> None:
        claim = await self.any.claim(request, "runner")
        if claim is None:
            return
        run, chat = claim.run, Chat(self.any, self.owner, claim.run.session)
        if not run.interrupted:
            self.at_once.add(run.id)
            self.most = max(self.most, len(self.at_once))
        if run.turn == 0 and not run.interrupted and self.chance.random() < 0.3:
            approvals = await chat.ask(run)
            self.at_once.discard(run.id)
            following = await chat.suspend(run)
            self.put(*([] if following is None else [following]))
            if approvals[0] in await chat.pending():
                self.publish((await self.decided(chat, approvals[0])) or run)
            return
        self.at_once.discard(run.id)
        ended = await chat.end(run)
        self.put(*([] if ended is None else [ended]))

    async def decided(self, chat: Chat, approval: str) -> Run | None:
        try:
            return (await chat.decide(approval)).run  # type: ignore[arg-type]
        except Conflict:
            return None  # interrupted meanwhile

    async def sweep(self) -> None:
        ours = {run.id for run in self.runs}
        self.put(*[request for request in await self.any.recover_stranded(0) if request.run in ours])

    async def over(self) -> bool:
        return all([await self.chats[0].state(run) in TERMINAL for run in self.runs])


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_that_races_for_places_gets_them_all_and_nobody_waits_for_ever(
    stores: Sequence[RunStore], seed: int
) -> None:
    """Sends, ends, suspensions, decisions, interrupts and sweeps of many sessions at once, through three
    processes: no deadlock, never more at once than the limit, and every run ends.
    """
    owner = await limited(stores[0], running_max=3)
    crowd = Crowd(stores, owner, seed)
    async with asyncio.timeout(CHECKED_S), asyncio.TaskGroup() as group:
        runners = [group.create_task(crowd.serve()) for _ in range(8)]
        async with asyncio.TaskGroup() as senders:
            for _ in range(60):
                senders.create_task(crowd.send())
        while not await crowd.over():
            await crowd.sweep()
        for runner in runners:
            runner.cancel()
    assert crowd.most <= 3
    assert len(crowd.runs) == 60
    listed = await stores[0].list_runs(owner, limit=100)
    assert not [one for one in listed if one.run.state in BUSY]


# ------------------------------------------------------------------------------- users of one tenant


async def test_a_users_runs_beyond_the_limit_wait_and_stand_in_no_other_users_way(store: RunStore) -> None:
    tenant = await limited(store, running_max=10, user_running_max=2)
    ann, ben = (Owner(tenant.tenant, UserId(name)) for name in ("ann", "ben"))
    chats, runs = await waiting(store, ann, 5)
    assert [run.ready for run in runs] == [True, True, False, False, False]
    assert (await Chat(store, ben).send("mine")).ready, "it came later, and its user has a place"
    assert await promoted(store) == [], "the sweep promotes nothing of a full user"
    following = await chats[1].end((await chats[1].claim(runs[1])).run)
    assert following == runs[2].request
    assert (await Chat(store, tenant).send("no user's")).ready


async def test_the_place_of_a_tenant_goes_to_the_oldest_run_whose_user_has_one(store: RunStore) -> None:
    tenant = await limited(store, running_max=3, user_running_max=2)
    ann, ben = (Owner(tenant.tenant, UserId(name)) for name in ("ann", "ben"))
    _, of_ann = await waiting(store, ann, 3)
    first, of_ben = await waiting(store, ben, 2)
    assert [run.ready for run in (*of_ann, *of_ben)] == [True, True, False, True, False]
    assert await first[0].end((await first[0].claim(of_ben[0])).run) == of_ben[1].request


async def test_a_user_has_a_limit_of_queued_runs_and_leaves_the_others_theirs(store: RunStore) -> None:
    tenant = await limited(store, running_max=1, user_running_max=1, user_queued_max=2)
    ann, ben = (Owner(tenant.tenant, UserId(name)) for name in ("ann", "ben"))
    await waiting(store, ann, 2)
    with pytest.raises(Limited, match="you have too many runs queued: at most 2"):
        await Chat(store, ann).send("one too many")
    await Chat(store, ben).send("mine")
    with pytest.raises(Limited):
        await store.check_limits(ann)
    await store.check_limits(ben)


async def test_a_users_next_run_begins_at_once_when_an_earlier_one_ends_meanwhile(
    stores: Sequence[RunStore],
) -> None:
    """Admission and end at the same moment: no run waits for a sweep."""
    tenant = await limited(stores[0], running_max=100, user_running_max=1)
    ann = Owner(tenant.tenant, UserId("ann"))
    for _ in range(20):
        chat = Chat(stores[0], ann)
        run = (await chat.claim(await chat.send("first"))).run
        other = Chat(stores[1], ann)
        following, second = await asyncio.gather(chat.end(run), other.send("second"))
        second = await other.found(second)
        assert second.ready, (following, second)
        await other.end((await other.claim(second)).run)
