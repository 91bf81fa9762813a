"""Several agents in one run: transfers and delegations."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from rejoin_protocol.ids import RunId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.run.executor import INTERRUPTED
from tests.support.clients.full_answer import collect_answer
from tests.support.models.agent_teams import (
    Breaks,
    Calls,
    Line,
    Lines,
    Thinks,
    model_requests,
    outcomes,
    scripted_agent,
    texts,
)
from tests.support.models.three_tools import build_tools, count_into
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import expire_log


def delegation(task: str, to: str = "research") -> Calls:
    return Calls(f"delegate_to_{to}", {"task": task})


async def test_the_target_of_a_transfer_goes_on_in_the_same_message_and_begins_the_next(
    system: LocalSystem,
) -> None:
    """It sees the whole conversation; its instructions, model and tools are its own."""
    base = await system.gateway()
    [look, *_] = build_tools()
    billing = scripted_agent(
        "billing",
        {"go": [[], [Calls("look")], ["Billing here: {}"]], "next": [["Still billing."]]},
        instructions="Bill.",
        tools=[look],
    )
    support = scripted_agent(
        system.agent, {"go": [["One moment.", Calls("transfer_to_billing")]]}, handoffs=[billing]
    )
    await system.runner([support])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    assert texts(message, "text") == [
        "One moment.",
        "Billing here: billing has the conversation now. seen",
    ]
    assert heard.operations("transfer") == [("transfer", system.agent, "billing")]
    first, _ = model_requests(billing)
    assert (first.instructions, [one.name for one in first.tools], first.step) == ("Bill.", ["look"], 1)
    assert texts(first.answer, "text") == ["One moment."]
    assert message["metadata"]["usage"]["outputTokens"] == 30

    session = system.fresh("s")
    await system.post(base, system.chat(session, "go"))
    again = await system.post(base, system.chat(session, "next"))
    assert again.text.strip() == "Still billing."


async def test_only_who_asks_for_operations_hears_of_transfers(system: LocalSystem) -> None:
    """They are an operation in detail, and no history has them."""
    base = await system.gateway()
    billing = scripted_agent("billing", {"go": [[], ["Done."]]})
    await system.runner(
        [scripted_agent(system.agent, {"go": [[Calls("transfer_to_billing")]]}, handoffs=[billing])]
    )
    heard = []
    for headers in ({}, {"x-emit-operations": "true"}):
        body = system.chat(system.fresh("s"), "go")
        async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
            heard.append('"type":"transfer"' in await response.text())
    assert heard == [False, True]


async def test_a_run_is_handed_over_only_so_often(system: LocalSystem) -> None:
    base = await system.gateway()
    ping: list[Line] = [Calls("transfer_to_pong")]
    pong = scripted_agent(
        "pong", {"go": [[], [Calls(f"transfer_to_{system.agent}")]] * 6}, handoffs=[system.agent]
    )
    lines: Lines = {"go": [ping, [], ping, ["I stay: {}"]]}
    await system.runner([scripted_agent(system.agent, lines, handoffs=[pong], handoffs_max=2)])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    assert len(heard.operations("transfer")) == 2
    assert "handed off too often" in texts(message, "text")[-1]


async def test_a_delegated_agents_last_words_are_the_output_of_the_call(system: LocalSystem) -> None:
    """The delegated agent knows only the task. The caller gets only its output, and the answer has none of
    its text.
    """
    base = await system.gateway()
    [look, *_] = build_tools()
    research = scripted_agent(
        "research",
        {"find it": [[Thinks("Where?"), "Looking.", Calls("look")], ["It is {}."]]},
        tools=[look],
    )
    lines: Lines = {"go": [["I ask.", delegation("find it")], ["They say: {}"]], "next": [["Fine."]]}
    support = scripted_agent(system.agent, lines, delegates=[research])
    await system.runner([support])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    assert texts(message, "text") == ["I ask.", "They say: It is seen."]
    assert texts(message, "reasoning") == ["Where?", "Looking.", "It is seen."]
    assert heard.operations("delegation_sent", "delegation_returned") == [
        ("delegation_sent", system.agent, "research"),
        ("delegation_returned", "research", system.agent),
    ]
    assert message["metadata"]["usage"]["outputTokens"] == 40

    first, second = model_requests(research)
    assert (first.history, first.step, second.step) == (second.history, 0, 1)
    assert [part["text"] for part in first.history[0]["parts"]] == ["find it"]
    assert (texts(second.answer, "text"), texts(second.answer, "reasoning")) == (["Looking."], ["Where?"])
    caller = model_requests(support)[-1].answer
    assert (texts(caller, "text"), texts(caller, "reasoning")) == (["I ask."], [])
    assert outcomes(caller) == ["It is seen."]

    session = system.fresh("s")
    await system.post(base, system.chat(session, "go"))
    await system.post(base, system.chat(session, "next"))
    [_, earlier, _] = model_requests(support)[-1].history
    assert texts(earlier, "reasoning") == []
    assert outcomes(earlier) == ["It is seen."]


async def test_delegations_nest_and_those_of_one_step_run_one_after_the_other(system: LocalSystem) -> None:
    base = await system.gateway()
    [look, *_] = build_tools()
    dig = scripted_agent("dig", {"deeper": [[Calls("look")], ["Dug: {}."]]}, tools=[look])
    lines: Lines = {"a": [[delegation("deeper", "dig")], ["A: {}"]], "b": [["B."]]}
    research = scripted_agent("research", lines, delegates=[dig])
    support = scripted_agent(
        system.agent,
        {"go": [[delegation("a"), Calls("look"), delegation("b")], ["All: {}"]]},
        tools=[look],
        delegates=[research],
    )
    await system.runner([support])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    assert texts(message, "text") == ["All: A: Dug: seen. seen B."]
    assert heard.operations("delegation_sent", "delegation_returned") == [
        ("delegation_sent", system.agent, "research"),
        ("delegation_sent", "research", "dig"),
        ("delegation_returned", "dig", "research"),
        ("delegation_returned", "research", system.agent),
        ("delegation_sent", system.agent, "research"),
        ("delegation_returned", "research", system.agent),
    ]


async def test_delegation_is_bounded_in_depth(system: LocalSystem) -> None:
    """Agents may delegate in a circle; at the bound the call gets an error, and everybody ends."""
    base = await system.gateway()
    lines: Lines = {"down": [[delegation("down", "a")], ["Back: {}"]]}
    inner = scripted_agent("a", lines, delegates=["a"])
    head = scripted_agent(
        system.agent, {"go": [[delegation("down", "a")], ["{}"]]}, delegates=[inner], delegation_depth_max=3
    )
    await system.runner([head])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    assert texts(message, "text")[0].startswith("Back: Back: Back: Not done: too many agents")


async def test_a_delegated_agent_that_fails_or_never_ends_is_an_error_that_its_caller_sees(
    system: LocalSystem,
) -> None:
    base = await system.gateway()
    [look, *_] = build_tools()
    lines: Lines = {"break": [["I try.", Calls("look"), Breaks()]], "loop": [[Calls("look")]] * 2}
    research = scripted_agent("research", lines, tools=[look], max_steps=2)
    support = scripted_agent(
        system.agent,
        {"go": [[delegation("break"), delegation("loop")], ["It went: {}"]]},
        delegates=[research],
    )
    await system.runner([support])
    heard = await collect_answer(system, base, "go")
    message = heard.message
    [text] = texts(message, "text")
    assert text == "It went: It failed: The provider is on fire. It used up its steps and has not finished."
    assert all(part["state"].startswith("output-") for part in message["parts"] if "toolCallId" in part)
    assert len(heard.operations("delegation_returned")) == 2


async def test_an_approval_inside_a_delegated_agent_suspends_the_run_and_goes_on_inside(
    system: LocalSystem,
) -> None:
    """Also if it is denied, and also if the log has expired in between."""
    base = await system.gateway()
    runs: Counter[str] = Counter()
    dig = scripted_agent(
        "dig", {"deep": [[Calls("delete")], ["Dug: {}."]]}, tools=build_tools(count_into(runs))[2:]
    )
    research = scripted_agent("research", {"a": [[delegation("deep", "dig")], ["A: {}"]]}, delegates=[dig])
    support = scripted_agent(system.agent, {"go": [[delegation("a")], ["All: {}"]]}, delegates=[research])
    await system.runner([support])
    for approved, expired in ((True, False), (False, False), (True, True)):
        runs.clear()
        session = system.fresh("s")
        asked = await system.post(base, system.chat(session, "go"))
        if expired:
            await expire_log(system.nats_url, RunId(asked.headers["x-workflow-run-id"]), 0)
        await system.post(base, await system.decision(base, session, approved=approved))
        [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
        outcome = "deleted" if approved else "output-denied"
        assert texts(message, "text") == [f"All: A: Dug: {outcome}."]
        assert runs["delete"] == approved


class Hangs:
    """A model that records its call and then emits nothing."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        del request
        self.asked.set()
        await asyncio.Event().wait()
        yield Done("stop")


async def test_a_delegated_agent_that_takes_too_long_is_an_error_that_its_caller_sees(
    system: LocalSystem,
) -> None:
    base = await system.gateway()
    slow = Agent(name="slow", model=Hangs(), step_timeout_s=0.05)
    lines: Lines = {"go": [[delegation("a", "slow")], ["It went: {}"]]}
    await system.runner([scripted_agent(system.agent, lines, delegates=[slow])])
    heard = await collect_answer(system, base, "go")
    assert texts(heard.message, "text") == ["It went: It failed: The model took longer than 0.05 seconds."]


async def test_an_interrupt_leaves_no_call_open_in_any_frame(system: LocalSystem) -> None:
    """Neither in the frame of the active agent nor in those of the agents that wait. The next answer
    continues.
    """
    base = await system.gateway()
    model = Hangs()
    research = scripted_agent(
        "research", {"a": [[delegation("x", "dig")]]}, delegates=[Agent(name="dig", model=model)]
    )
    lines: Lines = {"go": [[delegation("a"), delegation("b")]], "next": [["Fine: {}"]]}
    await system.runner([scripted_agent(system.agent, lines, delegates=[research])])
    session = system.fresh("s")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(system.post(base, system.chat(session, "go")))
        await model.asked.wait()
        await system.http.post(f"{base}/api/agents/{system.agent}/{session}/interrupt")
    assert any(chunk["type"] == "abort" for chunk in reading.result().chunks)
    [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    calls = [part for part in message["parts"] if "toolCallId" in part]
    assert [call["errorText"] for call in calls] == 3 * [INTERRUPTED]
    assert (await system.post(base, system.chat(session, "next"))).text.strip() == "Fine:"
