"""`Artifacts`: the adapter and the double pass the same tests."""

from datetime import UTC, datetime
from typing import Any

import pytest

from rejoin_adapters.ports.artifacts import Artifacts
from rejoin_adapters.store_types import Artifact, Owner
from rejoin_protocol.errors import Fenced
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import ANN, BEN, DEFAULT, OTHER, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def artifacts(ports: DatabasePorts) -> Artifacts:
    return ports.artifacts


async def made(ports: DatabasePorts, owner: Owner = ANN, data: Any = None) -> Artifact:
    """One that is not stored yet, of a session that is."""
    chat = Chat(ports.run_store, owner)
    run = await chat.send("draw")
    return Artifact(fresh("art"), chat.id, run.id, "chart", "Sales", {"rows": 2}, data, NOW)


@pytest.mark.parametrize("data", [None, "\u0000", {"z": 1, "a": [None, 1e300]}, 2**53 + 1])
async def test_an_artifact_comes_back_as_it_was(
    ports: DatabasePorts, artifacts: Artifacts, data: Any
) -> None:
    artifact = await made(ports, data=data)
    assert await artifacts.get(ANN, artifact.id) is None
    await artifacts.put(ANN.tenant, artifact)
    assert await artifacts.get(ANN, artifact.id) == artifact
    assert await artifacts.get(DEFAULT, artifact.id) == artifact


async def test_the_same_artifact_is_stored_once(ports: DatabasePorts, artifacts: Artifacts) -> None:
    artifact = await made(ports, data="first")
    await artifacts.put(ANN.tenant, artifact)
    await artifacts.put(ANN.tenant, Artifact(**{**as_dict(artifact), "data": "second"}))
    assert await artifacts.get(ANN, artifact.id) == artifact


def as_dict(artifact: Artifact) -> dict[str, Any]:
    return {name: getattr(artifact, name) for name in artifact.__struct_fields__}


@pytest.mark.feature("F40")
@pytest.mark.parametrize("stranger", [OTHER, BEN, Owner(OTHER.tenant, ANN.user)], ids=str)
async def test_a_strangers_artifact_is_none(
    ports: DatabasePorts, artifacts: Artifacts, stranger: Owner
) -> None:
    artifact = await made(ports)
    await artifacts.put(ANN.tenant, artifact)
    assert await artifacts.get(stranger, artifact.id) is None


async def test_with_its_session_it_goes_and_whoever_makes_more_is_fenced(
    ports: DatabasePorts, artifacts: Artifacts
) -> None:
    artifact = await made(ports)
    await artifacts.put(ANN.tenant, artifact)
    assert await ports.session_store.delete(ANN, artifact.session) == [artifact.run]
    assert await artifacts.get(ANN, artifact.id) is None
    with pytest.raises(Fenced):
        await artifacts.put(ANN.tenant, artifact)
    with pytest.raises(Fenced):
        await artifacts.put(OTHER.tenant, await made(ports))


async def test_a_run_that_is_gone_makes_nothing_for_a_new_session_of_the_same_id(
    ports: DatabasePorts, artifacts: Artifacts
) -> None:
    artifact = await made(ports)
    await ports.session_store.delete(ANN, artifact.session)
    await Chat(ports.run_store, ANN, artifact.session).send("anew")
    with pytest.raises(Fenced):
        await artifacts.put(ANN.tenant, artifact)
    await artifacts.put(ANN.tenant, Artifact(**as_dict(artifact) | {"run": None}))
    assert await artifacts.get(ANN, artifact.id) is not None
