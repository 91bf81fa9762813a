"""Faults that were found once, each by its order of events."""

import msgspec
import pytest
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_protocol.ids import RunId
from rejoin_runner.demo import build_demo_agent

from tests.support.observe import expire
from tests.support.rig import Answer, Rig, read_frames


async def test_f74_an_interrupt_that_did_not_reach_its_runner_reaches_it_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner's socket was down at that moment; it holds the run on, and claims nothing again."""

    async def unheard(self: NatsRunControl, run: RunId) -> bool:
        del self, run
        return False

    monkeypatch.setattr(NatsRunControl, "interrupt", unheard)
    await rig.runner(sweep_interval_s=0.05)
    base, session = await rig.gateway(), rig.fresh("s")
    chat = rig.chat(session, "count 100000 every 20 ms")
    async with rig.http.post(f"{base}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        async with rig.http.post(f"{base}/api/chat/{session}/stop") as stopped:
            assert (await Answer.of(stopped)).json["interrupted"]
        rest = [frame async for frame in read_frames(response)]
    assert any(b'"abort"' in frame.data for frame in rest)


@pytest.mark.parametrize("query", ["startIndex=0", "startIndex=-1", "cursor=1-0"])
async def test_a_log_that_has_expired_is_a_410_whatever_is_asked(rig: Rig, query: str) -> None:
    await rig.runner()
    base = await rig.gateway()
    for text in ("count 2", "delete notes.txt"):
        session = rig.fresh("s")
        answer = await rig.post(base, rig.chat(session, text))
        await expire(rig.nats_url, RunId(answer.headers["x-workflow-run-id"]), 0)
        found = await rig.get(f"{base}/api/chat/{session}/stream?{query}")
        assert found.status in ({400, 410} if query.startswith("cursor") else {410}), text


async def test_an_agent_does_not_touch_another_agents_session(rig: Rig) -> None:
    other = f"{rig.agent}-b"
    await rig.runner([msgspec.structs.replace(build_demo_agent(), name=name) for name in (rig.agent, other)])
    base, session = await rig.gateway(), rig.fresh("s")
    await rig.post(base, rig.chat(session, "count 2"))
    url = f"{base}/api/agents/{other}/{session}"
    for method, path in (("POST", ""), ("POST", "/interrupt"), ("GET", "/reconnect"), ("GET", "")):
        async with rig.http.request(method, url + path, json="hi") as response:
            assert response.status == 404, path
    assert len((await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json["messages"]) == 2


async def test_a_head_of_a_stream_is_refused(rig: Rig) -> None:
    base = await rig.gateway()
    async with rig.http.head(f"{base}/api/chat/{rig.fresh('s')}/stream") as response:
        assert response.status == 405


@pytest.mark.parametrize("body", [b'[{"type": []}]', b"[" * 100_000, b'{"message": {"parts": [[]]}}'])
async def test_an_odd_body_is_a_400(rig: Rig, body: bytes) -> None:
    base = await rig.gateway()
    url = f"{base}/api/agents/{rig.agent}/{rig.fresh('s')}"
    async with rig.http.post(url, data=body, headers={"content-type": "application/json"}) as response:
        assert response.status == 400


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "x" * 7_000}, {"Content-Encoding": "gzip"}])
async def test_an_odd_header_is_a_400(rig: Rig, headers: dict[str, str]) -> None:
    await rig.runner()
    base = await rig.gateway()
    body = msgspec.json.encode(rig.chat(rig.fresh("s"), "count 1"))
    headers = {"content-type": "application/json"} | headers
    async with rig.http.post(
        f"{base}/api/chat", data=body, headers=headers, skip_auto_headers=("Content-Encoding",)
    ) as response:
        assert response.status == 400
