"""Small doors: headers, keys of issuers, files of other agents, links and costly texts in the pages."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from structlog.testing import capture_logs

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.memory.database.api_keys import MemoryApiKeys
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.store_types import ApiKeyRow
from rejoin_gateway.auth.authenticator import (
    UNKNOWN_KEY_TTL_S,
    Authenticator,
    AuthSettings,
    ClaimRules,
    open_authenticator,
)
from rejoin_gateway.auth.jwt import JwksCache
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unauthenticated, Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_runner.agent.agent import Agent
from tests.support.browser.node import run_command, skip_or_fail
from tests.support.clients.attachments import PNG
from tests.support.system.local_system import LocalSystem

STATIC = Path(__file__).parents[2] / "gateway/rejoin_gateway/ui/static"
PEPPER = "a pepper of some length"


def published(**more: Any) -> dict[str, Any]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "one", **more}


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({}, True),
        ({"use": "sig"}, True),
        ({"key_ops": ["verify"]}, True),
        ({"use": "enc"}, False),
        ({"key_ops": ["encrypt"]}, False),
        ({"use": "sig", "key_ops": ["wrapKey"]}, False),
    ],
    ids=str,
)
async def test_a_published_key_that_is_not_for_signatures_verifies_nothing(
    more: dict[str, Any], counts: bool
) -> None:
    async def fetch() -> Any:
        return {"keys": [published(**more)]}

    keys = JwksCache(fetch, lambda: 0.0)
    if counts:
        assert (await keys.find("one")).key_id == "one"
    else:
        with pytest.raises(Unavailable):
            await keys.find("one")


async def test_a_token_key_without_issuer_or_audience_is_named_at_start() -> None:
    loose = AuthSettings(jwt_key="k" * 32, jwt_algorithms="HS256")
    strict = AuthSettings(jwt_key="k" * 32, jwt_algorithms="HS256", jwt_issuer="i", jwt_audience="a")
    for settings, expected in ((loose, 2), (strict, 0)):
        with capture_logs() as lines:
            async with open_authenticator(settings, MemoryApiKeys(MemoryDatabase())):
                pass
        assert len([line for line in lines if line["event"].endswith("_not_checked")]) == expected


class CountedKeys(MemoryApiKeys):
    """Counts look-ups."""

    asked = 0

    async def find(self, id: str) -> ApiKeyRow | None:
        self.asked += 1
        return await super().find(id)


async def test_a_wrong_key_costs_one_query_and_guesses_are_not_kept_without_end() -> None:
    """A key that is created after a guess of its id works as soon as the guess is forgotten."""
    rows, clock = CountedKeys(MemoryDatabase()), datetime.now(UTC)
    gate = Authenticator(
        api_keys=rows,
        pepper=PEPPER.encode(),
        token_verifier=None,
        claims=ClaimRules(),
        allow_anonymous=False,
        now=lambda: clock,
    )

    async def refused(id: str) -> None:
        with pytest.raises(Unauthenticated):
            await gate.authenticate(f"Bearer rk_{id}.{'s' * 43}")

    for _ in range(100):
        await refused("a" * 12)
    assert rows.asked == 1
    for number in range(10_500):
        await refused(f"{number:012d}")
    assert len(gate._unknown_ids) <= 10_000
    key = await KeyCommands(rows, TenantId("default"), PEPPER.encode()).create(NewKey(scopes=(Scope.CHAT,)))
    assert (await gate.authenticate(f"Bearer {key}")).owner.tenant == "default"
    clock += timedelta(seconds=UNKNOWN_KEY_TTL_S + 1)
    await refused("a" * 12)
    assert rows.asked > 10_500


@pytest.fixture
async def issuer(servers: Servers) -> AsyncIterator[KeyCommands]:
    async with await run_store.open_run_store(servers.database_url, pool_max=1) as store:
        yield KeyCommands(PostgresApiKeys(store.database), TenantId("default"), PEPPER.encode())


async def test_two_credentials_in_one_request_are_refused(system: LocalSystem, issuer: KeyCommands) -> None:
    """Which of them counts would be a guess: also if they are the same, and if one of them is good."""
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    good = f"Bearer {await issuer.create(NewKey(scopes=(Scope.CHAT,)))}"
    for given in ([good, "Bearer x"], ["Bearer x", good], [good, good]):
        headers = [("Authorization", one) for one in given]
        async with system.http.get(f"{base}/api/agents", headers=headers) as response:
            assert response.status == 401
            assert "not several" in (await response.json())["detail"]
    async with system.http.get(f"{base}/api/agents", headers={"Authorization": good}) as response:
        assert response.status == 200


async def test_answers_name_no_versions_and_json_is_not_stored(system: LocalSystem) -> None:
    """Of routes, of errors, and of requests that are no HTTP."""
    base = await system.gateway()
    for path in ("/api/agents", "/health/live", "/nowhere", "/api/threads/none"):
        async with system.http.get(base + path) as response:
            assert response.headers["Server"] == "rejoin"
            assert response.headers["Cache-Control"] == "no-store"
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/9.9 x\r\nbroken\r\n\r\n")
    told = await reader.read(65_536)
    writer.close()
    assert b" 400 " in told.splitlines()[0]
    assert b"Server: rejoin\r\n" in told
    assert b"aiohttp" not in told


async def test_a_key_of_one_agent_reads_no_file_of_another(system: LocalSystem, issuer: KeyCommands) -> None:
    """A file belongs to the agents of the sessions whose messages have it."""
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    attachments = system.apps[0][SERVICE].backend.attachments
    assert attachments is not None
    files = attachments.files
    every, own, other = [
        await issuer.create(NewKey(scopes=(Scope.CHAT,), agent=agent))
        for agent in (None, system.agent, "another")
    ]
    id = await files.put(TenantId("default"), None, PNG + system.agent.encode(), "image/png")
    url = file_ids.file_url(id)

    async def status(key: str) -> int:
        async with system.http.get(base + url, headers={"Authorization": f"Bearer {key}"}) as response:
            return response.status

    assert [await status(key) for key in (every, own, other)] == [200, 404, 404]
    chat = system.chat(system.fresh("s"), "count 1")
    chat["messages"][0]["parts"].append({"type": "file", "mediaType": "image/png", "url": url})
    headers = {"Authorization": f"Bearer {own}"}
    async with system.http.post(f"{base}/api/chat", json=chat, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()
    assert [await status(key) for key in (every, own, other)] == [200, 200, 404]


async def test_an_entry_that_does_not_decode_disturbs_nobody(system: LocalSystem) -> None:
    """A runner starts and overwrites it; gateways list the other agents and say what they left out."""
    own, other = AgentName(system.agent), AgentName(system.fresh("broken"))
    evil = (b"{", b'{"name":7}', b"\xff\xfe", b"[" * 20_000, b'{"name":"x","deployedAtMs":"soon"}')
    base = await system.gateway()
    async with nats_connection.connect(system.nats_url, "attacker") as connection:
        for data in evil:
            await connection.call_api(subjects.DEFAULT.agent_key(own), data)
            await connection.call_api(subjects.DEFAULT.agent_key(other), data)
            with capture_logs() as lines:
                listed = await system.get(f"{base}/api/agents")
            assert listed.status == 200, listed.text
            assert {"agent_entry_unreadable"} <= {line["event"] for line in lines}
            unknown = await system.post(base, system.chat(system.fresh("s"), "count 1"))
            assert unknown.status == 404, "as an agent that nobody announced"
        await system.runner([Agent(name=system.agent, model=Linking())])
        listed = await system.get(f"{base}/api/agents")
        assert system.agent.encode() in listed.raw
        assert other.encode() not in listed.raw
        await connection.call_api(subjects.DEFAULT.agent_key(other), headers={"KV-Operation": "DEL"})


class Linking:
    """A model whose sources are no web pages."""

    async def stream(self, request: Any) -> Any:
        del request
        for number, url in enumerate(("javascript:alert(1)", " JaVaScRiPt:alert(1)", "data:text/html,x")):
            yield chunks.SourceUrl(f"s{number}", url, "a source")
        yield chunks.SourceUrl("s9", "HTTPS://example.com/", "a page")
        yield chunks.TextStart("t")
        yield chunks.TextDelta("t", "done")
        yield chunks.TextEnd("t")


async def test_a_source_with_another_scheme_is_no_link_for_any_client(system: LocalSystem) -> None:
    await system.runner([Agent(name=system.agent, model=Linking())])
    answer = await system.post(await system.gateway(), system.chat(system.fresh("s"), "hi"))
    sources = [chunk for chunk in answer.chunks if chunk["type"].startswith("source-")]
    assert [one.get("url") for one in sources] == [None, None, None, "HTTPS://example.com/"]
    assert [one["type"] for one in sources[:3]] == ["source-document"] * 3
    assert "javascript" not in answer.text.lower()


MARKDOWN = """
const deepest = (node) => (node.children?.length ? 1 + Math.max(...node.children.map(deepest)) : 1);
globalThis.Node = { TEXT_NODE: 3 };
globalThis.document = {
  createElement: () => ({ children: [], setAttribute() {}, append(...all) { this.children.push(...all); } }),
};
const { blocks, element } = await import('./markdown.js');
const texts = [
  '>'.repeat(20000) + ' deep', '> '.repeat(20000) + 'deep',
  Array.from({ length: 2000 }, (_, at) => ' '.repeat(at) + '- item').join('\\n'),
  '**~~'.repeat(3000) + 'x' + '~~**'.repeat(3000), '*a '.repeat(20000), '`a` '.repeat(200000),
];
for (const text of texts) {
  const depth = Math.max(...blocks(text).map((one) => deepest(element(one))));
  console.log(JSON.stringify([text.slice(0, 8), depth]));
}
const spaced = (length) => ' '.repeat(length);
const costly = {
  brackets: (length) => '['.repeat(length), links: (length) => '[a]('.repeat(length / 4),
  titles: (length) => '[a](b "'.repeat(length / 7), bold: (length) => '**a '.repeat(length / 4),
  slant: (length) => '*a '.repeat(length / 3), slant2: (length) => '_a '.repeat(length / 3),
  gone: (length) => '~~a '.repeat(length / 4), ticks: (length) => '` `` '.repeat(length / 5),
  urls: (length) => 'http://'.repeat(length / 7), dots: (length) => 'http://' + '.'.repeat(length),
  heading: (length) => '# ' + spaced(length) + 'x', marks: (length) => '# ' + '#'.repeat(length) + 'x',
  divider: (length) => 'a|\\n-' + spaced(length) + 'x',
  row: (length) => 'a|\\n-|\\nx|' + spaced(length) + 'x',
  rule: (length) => '- '.repeat(length / 2) + 'x', item: (length) => spaced(length) + 'x',
};
const took = (text) => {
  const began = performance.now();
  blocks(text).map((one) => element(one));
  return performance.now() - began;
};
for (const [name, make] of Object.entries(costly)) {
  console.log(JSON.stringify([name, took(make(25_000)), took(make(50_000)), took(make(100_000))]));
}
"""


async def test_a_deep_or_costly_text_does_not_kill_the_page() -> None:
    """Quotes, lists and spans in each other: shown to a depth, and as they are written below it. What has
    many beginnings and no end takes linear time.
    """
    node = shutil.which("node")
    if node is None:
        skip_or_fail("the page's script needs Node, and there is none")
    command = (node, "--input-type=module", "--eval", MARKDOWN)
    code, said = await run_command(STATIC, *command, seconds=60)
    assert code == 0, said[-2_000:]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    depths = [line[1] for line in lines if len(line) == 2]
    times_ms = {line[0]: line[1:] for line in lines if len(line) == 4}
    assert (len(depths), len(times_ms)) == (6, 16), said
    assert max(depths) < 64
    # Twice the length takes twice the time; four times would be a square.
    slow = {
        name: one for name, one in times_ms.items() if one[2] > 200 and one[2] > 2.8 * one[1] > 7.8 * one[0]
    }
    assert slow == {}
