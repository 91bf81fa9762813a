"""Authentication and authorisation: keys, tokens, scopes, ownership."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm

from rejoin.cli import api_keys
from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin.cli.check_settings import DoctorSettings, check_settings
from rejoin.cli.finding import Severity
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs import run_store
from rejoin_gateway.auth.authenticator import open_authenticator
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.errors import Invalid, Unauthenticated
from rejoin_protocol.ids import TenantId
from tests.support.system.local_system import Answer, LocalSystem

PEPPER = "a pepper of some length"
SIGNING = "a secret that both sides know, long enough for every algorithm that there is"
CHAT = (Scope.CHAT, Scope.APPROVE)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with await run_store.open_run_store(database_url, pool_max=1) as store:
        yield store.database


@pytest.fixture
def issuer(database: Database) -> KeyCommands:
    return KeyCommands(PostgresApiKeys(database), TenantId("default"), PEPPER.encode())


@pytest.fixture
async def base(system: LocalSystem) -> str:
    await system.runner()
    return await system.gateway(
        allow_anonymous=False, api_key_pepper=PEPPER, jwt_key=SIGNING, jwt_algorithms="HS256"
    )


async def post(system: LocalSystem, base: str, body: Any, credential: str | None) -> Answer:
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
        return await Answer.of(response)


def token(secret: Any = SIGNING, algorithm: str = "HS256", **claims: Any) -> str:
    said = {"sub": "ann", "exp": datetime.now(UTC) + timedelta(minutes=5), **claims}
    return jwt.encode({name: value for name, value in said.items() if value is not None}, secret, algorithm)


@pytest.mark.feature("F38")
async def test_a_key_opens_and_nothing_else_does(system: LocalSystem, base: str, issuer: KeyCommands) -> None:
    """No, an odd, a short, an unknown and an altered credential are 401, and nothing has happened."""
    key = await issuer.create(NewKey(scopes=CHAT))
    session = system.fresh("s")
    bad = [None, "x", "rk_short.key", key[:-1], key[:-1] + ("A" if key[-1] != "A" else "B"), "a.b.c"]
    for credential in bad:
        refused = await post(system, base, system.chat(session, "count 1"), credential)
        assert refused.status == 401, credential
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json["code"] == "unauthorized"
    assert (await post(system, base, system.chat(session, "count 2"), key)).text == "1 2"
    headers = {"Authorization": f"Bearer {key}"}
    history = await system.get(f"{base}/api/agents/{system.agent}/{session}", **headers)
    assert len(history.json["messages"]) == 2, "only what was let in is stored"


async def test_a_revoked_key_is_refused_within_seconds(issuer: KeyCommands, database: Database) -> None:
    """The gate believes a key for a moment without asking; after that it does not."""
    now = datetime.now(UTC)
    settings = GatewaySettings(nats_url="", database_url="", api_key_pepper=PEPPER)
    key = await issuer.create(NewKey(scopes=CHAT, days=1))
    async with open_authenticator(settings, PostgresApiKeys(database), now=lambda: now) as gate:
        assert (await gate.authenticate(f"Bearer {key}")).scopes == {*CHAT}
        assert "revoked" in await issuer.revoke(key)
        now += timedelta(seconds=6)
        with pytest.raises(Unauthenticated, match="revoked"):
            await gate.authenticate(f"Bearer {key}")


async def test_an_expired_key_is_refused(issuer: KeyCommands, database: Database) -> None:
    settings = GatewaySettings(nats_url="", database_url="", api_key_pepper=PEPPER)
    key = await issuer.create(NewKey(scopes=CHAT, days=1))
    later = datetime.now(UTC) + timedelta(days=2)
    async with open_authenticator(settings, PostgresApiKeys(database), now=lambda: later) as gate:
        with pytest.raises(Unauthenticated, match="revoked"):
            await gate.authenticate(f"Bearer {key}")


async def test_it_is_noted_when_a_key_was_used(issuer: KeyCommands, database: Database) -> None:
    settings = GatewaySettings(nats_url="", database_url="", api_key_pepper=PEPPER)
    key = await issuer.create(NewKey(scopes=CHAT, name="noted"))
    assert "never used" in _line(await issuer.list(), key)
    async with open_authenticator(settings, PostgresApiKeys(database)) as gate:
        await gate.authenticate(f"Bearer {key}")
        await gate.record_key_usage()
    assert "never used" not in _line(await issuer.list(), key)


def _line(listed: str, key: str) -> str:
    return next(line for line in listed.splitlines() if line.startswith(key.partition(".")[0]))


async def test_a_key_without_the_scope_may_not_decide(
    system: LocalSystem, base: str, issuer: KeyCommands
) -> None:
    chat, both = [await issuer.create(NewKey(scopes=scopes)) for scopes in ((Scope.CHAT,), CHAT)]
    session = system.fresh("s")
    asked = await post(system, base, system.chat(session, "delete notes.txt"), chat)
    approval = next(one["approvalId"] for one in asked.chunks if one["type"] == "tool-approval-request")
    body = {"type": "approval", "approval": {"approvalId": approval, "approved": True}}
    url = f"{base}/api/agents/{system.agent}/{session}"
    for credential, status in ((chat, 403), (both, 200)):
        headers = {"Authorization": f"Bearer {credential}"}
        async with system.http.post(url, json=body, headers=headers) as response:
            assert (await Answer.of(response)).status == status


async def test_a_key_of_one_agent_finds_no_other(system: LocalSystem, base: str, issuer: KeyCommands) -> None:
    key = await issuer.create(NewKey(scopes=CHAT, agent="another"))
    headers = {"Authorization": f"Bearer {key}"}
    answer = await system.get(f"{base}/api/agents/{system.agent}/{system.fresh('s')}", **headers)
    assert answer.status == 404


@pytest.mark.feature("F40")
async def test_a_users_sessions_are_nobody_elses(system: LocalSystem, base: str, issuer: KeyCommands) -> None:
    """Another user's session is as if it did not exist; a key without a user sees all of its tenant."""
    ann, ben, all_ = [await issuer.create(NewKey(scopes=CHAT, user=user)) for user in ("ann", "ben", None)]
    session = system.fresh("s")
    assert (await post(system, base, system.chat(session, "count 2"), ann)).text == "1 2"
    url = f"{base}/api/agents/{system.agent}/{session}"
    for credential, status in ((ann, 200), (ben, 404), (all_, 200)):
        found = await system.get(url, Authorization=f"Bearer {credential}")
        assert found.status == status
    # His own session may have the same name, and hers stays what it is.
    mine = await post(system, base, system.chat(session, "count 3"), ben)
    assert mine.text == "1 2 3"
    assert mine.headers["x-conversation-id"] == session
    stored = await system.get(url, Authorization=f"Bearer {ben}")
    assert len(stored.json["messages"]) == 2
    stream, whole = f"{url}/{mine.headers['x-workflow-run-id']}/stream", {"x-stream-start-index": "0"}
    resumed = await system.get(stream, Authorization=f"Bearer {ben}", **whole)
    assert resumed.text == "1 2 3"
    assert (await system.get(url, Authorization=f"Bearer {ann}")).json["messages"] != stored.json["messages"]


async def test_another_tenants_sessions_have_the_same_names_and_nothing_else(
    system: LocalSystem, base: str, issuer: KeyCommands, database: Database
) -> None:
    stranger = KeyCommands(PostgresApiKeys(database), TenantId(system.fresh("tenant")), PEPPER.encode())
    ours, theirs = await issuer.create(NewKey(scopes=CHAT)), await stranger.create(NewKey(scopes=CHAT))
    session = system.fresh("s")
    assert (await post(system, base, system.chat(session, "count 2"), ours)).text == "1 2"
    url = f"{base}/api/agents/{system.agent}/{session}"
    assert (await system.get(url, Authorization=f"Bearer {theirs}")).status == 404
    assert (await post(system, base, system.chat(session, "count 3"), theirs)).text == "1 2 3"
    kept = (await system.get(url, Authorization=f"Bearer {ours}")).json["messages"]
    assert len(kept) == 2


async def test_a_token_says_who_asks(system: LocalSystem, base: str) -> None:
    session = system.fresh("s")
    assert (await post(system, base, system.chat(session, "count 2"), token(sub="ann"))).text == "1 2"
    url = f"{base}/api/agents/{system.agent}/{session}"
    assert (await system.get(url, Authorization=f"Bearer {token(sub='ben')}")).status == 404
    assert (await system.get(url, Authorization=f"Bearer {token(sub='ann')}")).status == 200
    assert (await system.get(url, Authorization=f"Bearer {token(sub='ann', scope='other')}")).status == 403


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    "name", ["Ann\u202fB.", "\u200fdoc", "co\u00adop", "👩\u200d🔬", "レポート\u3000最終"]
)
async def test_a_user_may_have_any_name_without_control_characters(
    system: LocalSystem, base: str, name: str
) -> None:
    session = system.fresh("s")
    assert (await post(system, base, system.chat(session, "count 1"), token(sub=name))).text == "1"
    url = f"{base}/api/agents/{system.agent}/{session}"
    assert (await system.get(url, Authorization=f"Bearer {token(sub=name)}")).status == 200
    assert (await system.get(url, Authorization=f"Bearer {token(sub=name + '.')}")).status == 404


@pytest.mark.parametrize(
    "bad",
    [
        {"exp": datetime(2020, 1, 1, tzinfo=UTC)},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\x7fb"},
        {"sub": "a\x85b"},
        {"sub": "a\ud800b"},
        {"secret": "another secret, which is long enough for every algorithm that there is too"},
        {"algorithm": "HS512"},
        {"algorithm": "none", "secret": None},
    ],
    ids=str,
)
async def test_a_token_that_does_not_hold_is_refused(
    system: LocalSystem, base: str, bad: dict[str, Any]
) -> None:
    """Past its end, without one, unsigned, signed by another or with another algorithm."""
    assert (await post(system, base, system.chat("s", "count 1"), token(**bad))).status == 401


@pytest.fixture
async def issued() -> AsyncIterator[tuple[str, list[Any], list[float]]]:
    """An issuer that publishes keys: its address, the keys, and the times of the requests."""
    published: list[Any] = []
    asked: list[float] = []

    async def answer(_request: web.Request) -> web.Response:
        asked.append(time.monotonic())
        return web.json_response({"keys": published})

    app = web.Application()
    app.router.add_get("/jwks", answer)
    server = web.AppRunner(app)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    host, port = server.addresses[0][:2]
    yield f"http://{host}:{port}/jwks", published, asked
    await server.cleanup()


def _public(private: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid}


async def test_published_keys_are_read_once_and_again_for_an_unknown_one(
    database: Database, issued: tuple[str, list[Any], list[float]]
) -> None:
    url, published, asked = issued
    first, second = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
    published.append(_public(first, "one"))
    settings = GatewaySettings(nats_url="", database_url="", jwt_jwks_url=url, jwt_tenant_claim="org")
    now = 0.0

    def signed(private: Any, kid: str) -> str:
        claims = {"sub": "ann", "org": "acme", "exp": datetime.now(UTC) + timedelta(minutes=5)}
        return jwt.encode(claims, private, "RS256", headers={"kid": kid})

    async with open_authenticator(settings, PostgresApiKeys(database), clock_s=lambda: now) as gate:
        for _ in range(3):
            principal = await gate.authenticate(f"Bearer {signed(first, 'one')}")
            assert (principal.owner.tenant, principal.owner.user) == ("acme", "ann")
        assert len(asked) == 1
        published.append(_public(second, "two"))
        with pytest.raises(Unauthenticated):
            await gate.authenticate(f"Bearer {signed(second, 'two')}")
        assert len(asked) == 1, "an unknown key does not make us ask at once"
        now += 11
        await gate.authenticate(f"Bearer {signed(second, 'two')}")
        assert len(asked) == 2
        stranger = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(Unauthenticated):
            await gate.authenticate("Bearer " + token(stranger, "ES256", org="acme"))


async def test_a_gateway_that_nobody_could_enter_says_so(database: Database) -> None:
    for settings, why in (
        (GatewaySettings(nats_url="", database_url=""), "no request could be authenticated"),
        (GatewaySettings(nats_url="", database_url="", api_key_pepper="short"), "at least"),
        (GatewaySettings(nats_url="", database_url="", jwt_key="x" * 32, jwt_algorithms="none"), "none"),
        (
            GatewaySettings(nats_url="", database_url="", jwt_key="x" * 31, jwt_algorithms="HS256"),
            "at least 32",
        ),
        (
            GatewaySettings(
                nats_url="", database_url="", jwt_key=f"-----BEGIN{'x' * 32}", jwt_algorithms="HS256"
            ),
            "everyone",
        ),
    ):
        with pytest.raises(Invalid, match=why) as caught:
            async with open_authenticator(settings, PostgresApiKeys(database)):
                pass
        wanted = DoctorSettings(**msgspec.structs.asdict(settings))
        [found] = [one for one in check_settings(wanted) if one.severity is Severity.ERROR]
        assert f"{found.text}: {found.remedy}" == str(caught.value), "doctor says it in the same words"


@pytest.mark.feature("F41")
async def test_too_many_requests_are_told_when_to_come_back(system: LocalSystem, database: Database) -> None:
    """429 with `Retry-After`. The refused request has no effect, and other callers are not limited."""
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER, requests_per_minute=3)
    issuer = KeyCommands(PostgresApiKeys(database), TenantId(system.fresh("tenant")), PEPPER.encode())
    key, other = await issuer.create(NewKey(scopes=CHAT)), await issuer.create(NewKey(scopes=CHAT))
    session = system.fresh("s")
    statuses = [(await post(system, base, system.chat(session, "count 1"), key)).status for _ in range(3)]
    assert statuses == [200, 200, 200]
    refused = await post(system, base, system.chat(session, "count 1"), key)
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.json["retryAfter"] == int(refused.headers["retry-after"])
    url = f"{base}/api/agents/{system.agent}/{session}"
    assert len((await system.get(url, Authorization=f"Bearer {other}")).json["messages"]) == 6


async def test_pages_of_friends_may_call_and_others_may_not(system: LocalSystem) -> None:
    base = await system.gateway(cors_origins="https://app.example")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-agent-id"}
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        async with system.http.options(f"{base}/api/chat", headers={"Origin": origin, **asked}) as response:
            assert (response.headers.get("Access-Control-Allow-Origin") == origin) is allowed
            assert (response.status == 204) is allowed
        async with system.http.get(f"{base}/api/chat/none/stream", headers={"Origin": origin}) as response:
            assert ("Access-Control-Allow-Origin" in response.headers) is allowed
            assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_issuer_is_asked_for_a_pepper() -> None:
    """A key that no gateway could check is not made."""
    assert api_keys.KeySettings(database_url="").api_key_pepper is None


async def test_where_no_credential_could_be_checked_any_is_as_good_as_none(system: LocalSystem) -> None:
    """Some clients cannot be made without a key; on one's own machine they need none."""
    await system.runner()
    base = await system.gateway()
    assert (await post(system, base, system.chat(system.fresh("s"), "count 2"), "any-key")).text == "1 2"
    checked = await system.gateway(api_key_pepper=PEPPER)
    assert (await post(system, checked, system.chat(system.fresh("s"), "count 2"), "any-key")).status == 401


async def test_other_sites_pages_cannot_use_a_gateway_that_needs_no_credential(system: LocalSystem) -> None:
    """Neither from their own origin, nor by a name of theirs that leads to this machine."""
    await system.runner()
    base = await system.gateway()
    for headers, status in (
        ({}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ):
        session = system.fresh("s")
        body = system.chat(session, "count 1")
        async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
            assert (await Answer.of(response)).status == status, headers
        kept = await system.get(f"{base}/api/agents/{system.agent}/{session}")
        assert kept.status == (200 if status == 200 else 404)
