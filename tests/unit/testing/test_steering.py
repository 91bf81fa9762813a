"""Steering in memory: a message that is sent while a run works reaches its model at the next step, once."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from rejoin import Agent, testing, tool
from rejoin.testing import ScriptedModel, call
from rejoin.testing.answer import Answer
from rejoin.testing.chat import Chat
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest


def steering_of(message: MessageDict) -> list[str]:
    return [part["parts"][0]["text"] for part in message["parts"] if part["type"] == "steering-message"]


def says_what_it_was_told(request: ModelRequest) -> str:
    return "Told: " + " ".join(steering_of(request.answer))


class Steering:
    """An agent whose tool is at work while the user sends another message."""

    def __init__(self, *messages: Any) -> None:
        self.messages = messages
        self.accepted: list[bool] = []
        self.chat: Chat

        @tool
        async def look() -> str:
            """Look."""
            for number, message in enumerate(self.messages):
                stored = {"id": f"m{number}", "parts": [{"type": "text", "text": message}]}
                self.accepted.append(await self.chat.steer(stored if isinstance(message, str) else message))
            return "fine"

        self.agent = Agent(name="shop", model="openai:gpt-5-mini", tools=[look])

    async def send(self, chat: Chat) -> Answer:
        self.chat = chat
        return await chat.send("Look around")


@pytest.mark.feature("F106")
async def test_the_model_reads_it_at_its_next_step() -> None:
    steering, model = Steering("in Oslo"), ScriptedModel(call("look"), says_what_it_was_told)
    async with testing.chat(steering.agent, model=model) as chat:
        answer = await steering.send(chat)
        assert steering.accepted == [True]
        assert answer.text == "Told: in Oslo"
        types = [part["type"] for part in answer.message["parts"]]
        assert types == ["step-start", "tool-look", "steering-message", "step-start", "text"]
        assert await chat.history() == [(await chat.history())[0], answer.message]


async def test_several_messages_are_read_in_their_order() -> None:
    steering, model = Steering("one", "two"), ScriptedModel(call("look"), says_what_it_was_told)
    async with testing.chat(steering.agent, model=model) as chat:
        answer = await steering.send(chat)
        assert (answer.text, steering_of(answer.message)) == ("Told: one two", ["one", "two"])


async def test_the_same_message_twice_is_read_once() -> None:
    twice = {"id": "m", "parts": [{"type": "text", "text": "in Oslo"}]}
    steering, model = Steering(twice, twice), ScriptedModel(call("look"), says_what_it_was_told)
    async with testing.chat(steering.agent, model=model) as chat:
        answer = await steering.send(chat)
        assert steering.accepted == [True, True]
        assert answer.text == "Told: in Oslo"
        again = await chat.steer(twice)
        assert again
        assert (await chat.send(twice)).message == answer.message
        assert len(await chat.history()) == 2


class Late(ScriptedModel):
    """While it gives its last response, the user sends a message."""

    chat: Chat

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        if not steering_of(request.answer):
            assert await self.chat.steer("late")
        async with aclosing(super().stream(request)) as stream:
            async for item in stream:
                yield item


async def test_a_message_that_comes_during_the_last_step_gets_another_one() -> None:
    model = Late("It is fine.", says_what_it_was_told)
    async with testing.chat(Agent(name="shop", model=model)) as chat:
        model.chat = chat
        answer = await chat.send("Look around")
        assert (answer.text, steering_of(answer.message)) == ("It is fine.\nTold: late", ["late"])


async def test_a_message_that_no_step_reads_is_the_next_turn() -> None:
    steering, model = Steering("in Oslo"), ScriptedModel(call("look"), "You asked for Oslo.")
    agent = Agent(name="shop", model=model, tools=steering.agent.tools, max_steps=1)
    async with testing.chat(agent, model=model) as chat:
        answer = await steering.send(chat)
        assert (answer.finish_reason, steering_of(answer.message)) == ("tool-calls", [])
        assert (await chat.resume()).text == "You asked for Oslo."
        texts = [message["parts"][0].get("text") for message in await chat.history()]
        assert texts == ["Look around", None, "in Oslo", None]


async def test_without_a_run_at_work_it_is_a_message_as_any() -> None:
    async with testing.chat(Agent(name="shop", model=ScriptedModel("Hello."))) as chat:
        assert not await chat.steer("Hi")
        assert (await chat.resume()).text == "Hello."


async def test_only_texts_and_files_steer() -> None:
    async with testing.chat(Agent(name="shop", model=ScriptedModel("Hello."))) as chat:
        with pytest.raises(Invalid, match="data-cart"):
            await chat.steer({"id": "m", "parts": [{"type": "data-cart", "data": {}}]})
        assert not await chat.steer("Hi")


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    "event",
    ["tool-output-available", "finish-step", "steering-message", "start-step", "text-delta", "finish"],
)
async def test_a_crash_around_it_neither_loses_nor_repeats_it(event: str, *, stored: bool) -> None:
    steering, model = Steering("in Oslo"), ScriptedModel(call("look"), says_what_it_was_told)
    async with testing.chat(steering.agent, model=model) as chat:
        chat.crash_at(event, stored=stored)
        answer = await steering.send(chat)
        assert (answer.text, steering_of(answer.message)) == ("Told: in Oslo", ["in Oslo"])
        assert [message["role"] for message in await chat.history()] == ["user", "assistant"]
