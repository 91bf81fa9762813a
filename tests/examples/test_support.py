"""The support example asks for an approval before it pays, and its client asks the person."""

import msgspec
import pytest

from examples.support import agent as support
from examples.support.ask import talk
from rejoin_client import Client, ToolInputAvailable
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import LocalSystem

CALLS = "tool_calls"


def refund(cents: int) -> ProviderReply:
    arguments = f'{{"number": "A-17", "cents": {cents}}}'
    return ProviderReply([call(0, arguments, name="refund", call_id="c2"), delta(finish=CALLS)])


@pytest.mark.parametrize(("cents", "asks"), [(49_900, True), (900, False)])
async def test_a_large_refund_needs_an_approval_and_a_small_one_does_not(
    system: LocalSystem, provider: FakeProvider, cents: int, asks: bool
) -> None:
    look = ProviderReply(
        [call(0, '{"number": "A-17"}', name="find_order", call_id="c1"), delta(finish=CALLS)]
    )
    provider.queue(look, refund(cents), text("It is ", "on its way."))
    agent = msgspec.structs.replace(support.agent, name=system.agent)
    await system.runner([agent], model_base_url=provider.base_url, model_api_key="k")
    asked: list[ToolInputAvailable] = []
    shown: list[str] = []

    def decide(question: ToolInputAvailable) -> bool:
        asked.append(question)
        return True

    async with Client(await system.gateway()) as client:
        await talk(client, system.fresh("s"), "My money back for A-17!", decide=decide, show=shown.append)
    assert "".join(shown).split("\n") == [*([""] if asks else []), "It is on its way.", ""]
    assert [one.input for one in asked] == ([{"number": "A-17", "cents": cents}] if asks else [])
    said = msgspec.json.encode(provider.requests[2]).decode()
    assert f"Paid {cents} cents back" in said


async def test_a_no_reaches_the_model(system: LocalSystem, provider: FakeProvider) -> None:
    provider.queue(refund(49_900), text("Then ", "not."))
    agent = msgspec.structs.replace(support.agent, name=system.agent)
    await system.runner([agent], model_base_url=provider.base_url, model_api_key="k")
    shown: list[str] = []
    async with Client(await system.gateway()) as client:
        await talk(client, system.fresh("s"), "Money!", decide=lambda _: False, show=shown.append)
    assert "".join(shown) == "\nThen not.\n"
    assert "Paid" not in msgspec.json.encode(provider.requests[1]).decode()
