"""Functions that say whether a call needs an approval: async ones, slow ones, and ones that change."""

import asyncio
from typing import Any

import pytest

from rejoin import Agent, ToolContext, testing, tool
from rejoin.testing import ScriptedModel, call
from rejoin_runner.run import tool_calls


class Rule:
    """Answers one after the other, and counts what it is asked."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, input: dict[str, Any], ctx: ToolContext[None]) -> bool:
        await asyncio.sleep(0)
        self.asked.append({**input, "call": ctx.call})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def build_agent(rule: Any, runs: list[str], **options: Any) -> Agent:
    @tool(needs_approval=rule, **options)
    async def pay(to: str) -> str:
        """Pay somebody."""
        runs.append(to)
        return f"Paid {to}."

    @tool(needs_approval=True)
    async def ring() -> str:
        """Ring the bell."""
        runs.append("ring")
        return "rung"

    return Agent(name="bank", model="openai:gpt-5-mini", tools=[pay, ring])


PAY = call("pay", to="Ann")


@pytest.mark.feature("F51")
@pytest.mark.parametrize("answer", [True, False])
async def test_an_async_rule_is_asked_once_for_each_call(*, answer: bool) -> None:
    rule, runs = Rule(answer, not answer), list[str]()
    model = ScriptedModel([PAY, call("pay", to="Bob")], "Done.")
    async with testing.chat(build_agent(rule, runs), model=model) as chat:
        asked = await chat.send("Pay")
        assert [one.input["to"] for one in asked.waiting] == (["Ann"] if answer else ["Bob"])
        assert runs == (["Bob"] if answer else ["Ann"])
        assert (await chat.approve()).text == "Done."
        assert sorted(runs) == ["Ann", "Bob"]
    assert [one["to"] for one in rule.asked] == ["Ann", "Bob"]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("event", ["tool-output-available", "finish-step"])
async def test_an_attempt_that_takes_over_acts_on_the_same_answer(event: str, *, stored: bool) -> None:
    """The rule would say something else now; the call that may have run needs no approval all the same."""
    rule, runs = Rule(False, True), list[str]()
    agent = build_agent(rule, runs, on_crash="retry")
    async with testing.chat(agent, model=ScriptedModel(PAY, "Done.")) as chat:
        chat.crash_at(event, stored=stored)
        answer = await chat.send("Pay")
        assert (answer.text, answer.waiting, len(rule.asked)) == ("Done.", [], 1)


async def test_a_crash_before_the_answer_is_in_the_log_asks_again() -> None:
    rule, runs = Rule(True, False), list[str]()
    async with testing.chat(build_agent(rule, runs), model=ScriptedModel(PAY, "Done.")) as chat:
        chat.crash_at("tool-approval-request")
        answer = await chat.send("Pay")
        # The request was stored before the crash: a person is asked, whatever the rule says now.
        assert [one.name for one in answer.waiting] == ["pay"]
        assert (len(rule.asked), runs) == (1, [])


async def test_a_rule_that_fails_asks_a_person() -> None:
    runs: list[str] = []
    agent = build_agent(Rule(ValueError("no")), runs)
    async with testing.chat(agent, model=ScriptedModel(PAY, "Done.")) as chat:
        assert (await chat.send("Pay")).tool("pay").waits_for_approval


async def test_a_rule_that_takes_too_long_asks_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_calls, "RULE_TIMEOUT_S", 0.02)

    async def slow(_: dict[str, Any], __: ToolContext[None]) -> bool:
        await asyncio.Event().wait()
        return False

    async with testing.chat(build_agent(slow, []), model=ScriptedModel(PAY, "Done.")) as chat:
        assert (await chat.send("Pay")).tool("pay").waits_for_approval


async def test_an_interrupt_ends_a_rule_and_no_call_is_left_open() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_: dict[str, Any], __: ToolContext[None]) -> bool:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return False

    runs: list[str] = []
    async with testing.chat(build_agent(slow, runs), model=ScriptedModel(PAY)) as chat:
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(chat.send("Pay"))
            await begun.wait()
            assert await chat.interrupt()
        assert answer.result().interrupted
        assert answer.result().tool("pay").state == "output-error"
        assert (ended.is_set(), runs) == (True, [])


async def test_a_deadline_ends_a_rule() -> None:
    async def slow(_: dict[str, Any], __: ToolContext[None]) -> bool:
        await asyncio.Event().wait()
        return False

    agent = build_agent(slow, [])
    limited = Agent(name="bank", model="openai:gpt-5-mini", tools=agent.tools, timeout_s=0.05)
    async with testing.chat(limited, model=ScriptedModel(PAY)) as chat:
        assert (await chat.send("Pay")).error == "The run took longer than 0.05 seconds."


async def test_a_rule_and_a_fixed_answer_of_one_step_wait_together() -> None:
    rule, runs = Rule(True), list[str]()
    model = ScriptedModel([PAY, call("ring")], "Done.")
    async with testing.chat(build_agent(rule, runs), model=model) as chat:
        assert {one.name for one in (await chat.send("Both")).waiting} == {"pay", "ring"}
        assert (await chat.approve("ring")).events == []
        assert (await chat.approve("pay")).text == "Done."
    assert (sorted(runs), len(rule.asked)) == (["Ann", "ring"], 1)
