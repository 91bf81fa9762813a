"""Responses through a whole system, with OpenAI's own client: streamed, polled, resumed, cancelled."""

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent

from rejoin_gateway.api.openai.response_format import parse_response_id
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_formats, file_ids
from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import PNG, RecordingModel
from tests.support.clients.openai_client import client_of, gateway, param
from tests.support.faults.takeover import ACK_WAIT_S, FIRST, SECOND, SILENT_RUNNER
from tests.support.models.scripted_models import CallingModel, GatedModel, ShellTools
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

GONE = 410
FAKE = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}
LATER = [{"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


def kinds(events: list[ResponseStreamEvent]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def numbers(events: list[ResponseStreamEvent]) -> list[int]:
    return [event.sequence_number for event in events]


def said(events: list[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def created(client: AsyncOpenAI, **asked: Any) -> list[ResponseStreamEvent]:
    """A new response's events, to their end."""
    return [event async for event in await client.responses.create(stream=True, **asked)]


async def replayed(
    client: AsyncOpenAI, id: str, starting_after: int | None = None
) -> list[ResponseStreamEvent]:
    """A response's events, to their end."""
    if starting_after is None:
        return [event async for event in await client.responses.retrieve(id, stream=True)]
    stream = await client.responses.retrieve(id, stream=True, starting_after=starting_after)
    return [event async for event in stream]


async def ended(client: AsyncOpenAI, id: str) -> Response:
    """A response, once it has an end."""

    async def over() -> bool:
        return (await client.responses.retrieve(id)).status not in ("queued", "in_progress")

    await wait_until(over, "the end of the response")
    return await client.responses.retrieve(id)


async def test_a_response_is_whole_and_can_be_retrieved(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The same, whether the request has waited for it or not."""
    response = await client.responses.create(model=system.agent, input="count 3")
    assert (response.status, response.output_text, response.model) == ("completed", "1 2 3", system.agent)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (2, 3)
    assert await client.responses.retrieve(response.id) == response


async def test_a_response_streams_with_numbers(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Without a hole; its last event is what a retrieval gives then."""
    events = await created(client, model=system.agent, input="count 3")
    assert numbers(events) == list(range(len(events)))
    assert kinds(events)[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds(events)[-1] == "completed"
    assert said(events) == "1 2 3"
    last = events[-1]
    assert last.type == "response.completed"
    assert await client.responses.retrieve(last.response.id) == last.response


@pytest.mark.parametrize("text", ["think", "weather Paris", "count 5"])
async def test_the_sdks_own_accumulation_agrees(system: LocalSystem, client: AsyncOpenAI, text: str) -> None:
    """Its streaming interface checks every event against what came before."""
    async with client.responses.stream(model=system.agent, input=text) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_response()
    whole = await client.responses.retrieve(final.id)
    assert final.output_text == whole.output_text != ""
    assert ("response.reasoning_summary_text.delta" in kinds) == (text == "think")
    assert [item.type for item in whole.output] == {
        "think": ["reasoning", "message"],
        "weather Paris": ["mcp_call", "message"],
    }.get(text, ["message"])


@pytest.mark.feature("F17")
async def test_in_the_background_a_response_is_polled(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The request returns at once, and the run continues."""
    first = await client.responses.create(model=system.agent, input="count 20 every 20 ms", background=True)
    assert first.status == "queued"
    assert first.output == []
    whole = await ended(client, first.id)
    assert whole.status == "completed"
    assert whole.output_text.endswith("19 20")
    assert whole.created_at == first.created_at


@pytest.mark.feature("F69", "F82")
async def test_any_number_is_a_place_to_go_on_at_any_gateway(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """Cut a stream of an active run and resume it at another gateway. Then resume the ended run at each
    event.
    """
    begun, id = [], ""
    async with await client.responses.create(
        model=system.agent, input="count 30 every 20 ms", stream=True, background=True
    ) as stream:
        async for event in stream:
            begun.append(event)
            if event.type == "response.created":
                id = event.response.id
            if said(begun).endswith("5"):
                break
    async with client_of(await gateway(system)) as elsewhere:
        rest = await replayed(elsewhere, id, begun[-1].sequence_number)
        assert said(begun + rest) == " ".join(map(str, range(1, 31)))
        whole = await replayed(elsewhere, id)
        assert begun + rest == whole
        for cut in range(0, len(whole), 5):
            assert await replayed(client, id, cut) == whole[cut + 1 :]


@pytest.mark.feature("F74")
async def test_a_response_is_cancelled_once(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The response is `cancelled`, keeps its text, and is the same after a second request. A completed
    response stays completed.
    """
    stream = await client.responses.create(model=system.agent, input="count 1000 every 20 ms", stream=True)
    events: list[ResponseStreamEvent] = []
    async for event in stream:
        events.append(event)
        if said(events) == "1":
            assert events[0].type == "response.created"
            cancelled = await client.responses.cancel(events[0].response.id)
    assert kinds(events)[-1] == "incomplete"
    assert cancelled.status == "cancelled"
    assert cancelled.output_text == said(events)
    assert await client.responses.cancel(cancelled.id) == cancelled
    whole = await client.responses.create(model=system.agent, input="count 1")
    assert (await client.responses.cancel(whole.id)).status == "completed"


@pytest.mark.feature("F14")
async def test_a_response_goes_on_behind_another(system: LocalSystem, base: str, client: AsyncOpenAI) -> None:
    """In the same conversation; behind a response that has a successor, in a fork without that successor."""
    first = await client.responses.create(model=system.agent, input="count 1")
    second = await client.responses.create(model=system.agent, input="count 2", previous_response_id=first.id)
    other = await client.responses.create(model=system.agent, input="count 3", previous_response_id=first.id)
    assert first.conversation is not None
    assert second.conversation == first.conversation != other.conversation

    async def texts(response: Response) -> list[str]:
        assert response.conversation is not None
        url = f"{base}/api/agents/{system.agent}/{response.conversation.id}"
        messages = (await system.get(url)).json["messages"]
        return [part["text"] for one in messages for part in one["parts"] if part["type"] == "text"]

    assert await texts(second) == ["count 1", "1", "count 2", "1 2"]
    assert await texts(other) == ["count 1", "1", "count 3", "1 2 3"]
    named = await client.responses.create(
        model=system.agent, input="count 4", conversation=first.conversation.id
    )
    assert named.conversation == first.conversation


@pytest.mark.feature("F12")
async def test_a_repeated_request_is_the_same_response(system: LocalSystem, client: AsyncOpenAI) -> None:
    """By its Idempotency-Key, also behind another response, and also in a fork."""
    first = await client.responses.create(model=system.agent, input="count 1")
    for text in ("count 2", "count 3"):
        key = {"Idempotency-Key": system.fresh("key")}
        ids = {
            (
                await client.responses.create(
                    model=system.agent, input=text, previous_response_id=first.id, extra_headers=key
                )
            ).id
            for _ in range(2)
        }
        assert len(ids) == 1


@pytest.mark.feature("F40")
async def test_the_response_of_another_user_is_not_found(
    system: LocalSystem, base: str, client: AsyncOpenAI
) -> None:
    """To be read, streamed, cancelled or gone on from; as one that never was."""
    mine = await client.responses.create(model=system.agent, input="count 1")
    async with client_of(base, "ben") as ben:
        for id in (mine.id, "resp_" + "0" * 26, "resp_x", mine.id.replace("resp_", "run_")):
            for call in (
                ben.responses.retrieve(id),
                ben.responses.cancel(id),
                ben.responses.create(model=system.agent, input="hi", previous_response_id=id),
            ):
                with pytest.raises(openai.NotFoundError):
                    await call


@pytest.mark.feature("F37")
@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"instructions": "Be a pirate"}, "instructions"),
        ({"store": False}, "store"),
        ({"input": []}, "input"),
        ({"input": [{"role": "system", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0"),
        (
            {"input": [{"type": "reasoning"}, *LATER, {"role": "assistant", "content": "d"}, FAKE]},
            "input.4.content.0",
        ),
        ({"conversation": "a/b"}, "conversation"),
        ({"conversation": "a", "previous_response_id": "resp_b"}, "conversation"),
    ],
)
async def test_a_strict_gateway_refuses_an_unsupported_parameter_by_name(
    system: LocalSystem, strict_client: AsyncOpenAI, request_: dict[str, Any], name: str
) -> None:
    """In OpenAI's error shape."""
    fields: dict[str, Any] = {"model": system.agent, "input": "hi"} | request_
    with pytest.raises(openai.BadRequestError) as fault:
        await strict_client.responses.create(**fields)
    assert param(fault.value) == name


@pytest.mark.feature("F69")
async def test_an_invalid_sequence_number_is_refused(system: LocalSystem, client: AsyncOpenAI) -> None:
    """A number beyond the log is 410, as for cursors; other text is 400."""
    response = await client.responses.create(model=system.agent, input="count 1")
    with pytest.raises(openai.APIStatusError) as fault:
        await replayed(client, response.id, 1_000)
    assert fault.value.status_code == GONE
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(response.id, stream=True, starting_after=-1)


@pytest.mark.feature("F45")
async def test_an_image_reaches_the_model(system: LocalSystem) -> None:
    """As a stored file."""
    model = RecordingModel()
    await system.runner([Agent(name=system.agent, model=model)])
    async with client_of(await gateway(system)) as client:
        image: Any = {"type": "input_image", "image_url": file_formats.to_data_url("image/png", PNG)}
        look: Any = {"type": "input_text", "text": "look"}
        await client.responses.create(model=system.agent, input=[{"role": "user", "content": [look, image]}])
    assert model.seen[0] == {"type": "text", "text": "look"}
    assert (model.seen[1]["type"], model.seen[1]["mediaType"]) == ("file", "image/png")


@pytest.mark.feature("F36")
async def test_a_failure_is_a_failed_response(system: LocalSystem, client: AsyncOpenAI) -> None:
    """With the text that there was."""
    events = await created(client, model=system.agent, input="fail")
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message.startswith("The model failed")
    whole = await client.responses.retrieve(last.response.id)
    assert (whole.status, whole.output_text.strip()) == ("failed", "This is going")


@pytest.mark.feature("F52")
async def test_an_approval_goes_on_with_the_same_response(system: LocalSystem) -> None:
    """Approvals have MCP's form. Each request must decide all of them, and its stream has the events that
    follow.
    """
    shell = ShellTools()
    tools = [shell.tool(name, needs_approval=True) for name in ("rm", "mv")]
    model = CallingModel(rm={"command": "rm a"}, mv={"command": "mv a"})
    await system.runner([Agent(name=system.agent, model=model, tools=tools)])
    async with client_of(await gateway(system)) as client:
        before = await created(client, model=system.agent, input="go")
        last = before[-1]
        assert last.type == "response.completed"
        waiting = await client.responses.retrieve(last.response.id)
        assert waiting == last.response
        assert (waiting.status, shell.ran) == ("completed", [])
        asked = [item for item in waiting.output if item.type == "mcp_approval_request"]
        answers: Any = [
            {"type": "mcp_approval_response", "approval_request_id": one.id, "approve": one.name == "rm"}
            for one in asked
        ]
        with pytest.raises(openai.BadRequestError, match="at once"):
            await client.responses.create(
                model=system.agent, input=answers[:1], previous_response_id=waiting.id
            )
        after = await created(client, model=system.agent, input=answers, previous_response_id=waiting.id)
        assert shell.ran == ["rm a"]
        assert kinds(after)[:2] == ["created", "in_progress"]
        assert numbers(after)[0] == last.sequence_number + 1
        assert said(after) == "output-available output-denied"
        whole = await replayed(client, waiting.id)
        assert whole == before[:-1] + after[1:], "it is created once, and ends once"
        assert await replayed(client, waiting.id, last.sequence_number) == after
        again = await client.responses.create(
            model=system.agent, input=answers, previous_response_id=waiting.id
        )
        assert (again.status, again.id) == ("completed", waiting.id)


async def test_a_response_outlives_its_log(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The response is then made from the stored message, and it has no events."""
    for text in ("weather Paris", "think", "fail"):
        whole = await client.responses.create(model=system.agent, input=text)
        run, _ = parse_response_id(whole.id)
        assert run is not None
        await system.apps[0][SERVICE].backend.log.purge(run)
        kept = await client.responses.retrieve(whole.id)
        assert (kept.status, kept.output_text, kept.usage) == (whole.status, whole.output_text, whole.usage)
        assert [item.type for item in kept.output] == [item.type for item in whole.output]
        with pytest.raises(openai.APIStatusError) as fault:
            await replayed(client, whole.id)
        assert fault.value.status_code == GONE


async def test_an_approval_goes_on_where_the_log_has_expired(system: LocalSystem) -> None:
    """The log starts again with the whole message. A sequence number of the expired log is refused."""
    shell = ShellTools()
    model = CallingModel(rm={"command": "rm a"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    async with client_of(await gateway(system)) as client:
        waiting = await client.responses.create(model=system.agent, input="go")
        run, _ = parse_response_id(waiting.id)
        assert run is not None
        await system.apps[0][SERVICE].backend.log.purge(run)
        assert (await client.responses.retrieve(waiting.id)).status == "completed"
        asked = next(item for item in waiting.output if item.type == "mcp_approval_request")
        answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
        events = await created(client, model=system.agent, input=[answer], previous_response_id=waiting.id)
        assert numbers(events)[0] == 0
        assert (kinds(events)[-1], said(events)) == ("completed", "output-available")
        assert await replayed(client, waiting.id) == events
        with pytest.raises(openai.APIStatusError) as fault:
            await replayed(client, waiting.id, 1)
        assert fault.value.status_code == GONE


@pytest.mark.feature("F60")
async def test_a_response_that_waits_can_be_cancelled(system: LocalSystem) -> None:
    """Its approval can no longer be decided, and its tool never runs."""
    shell = ShellTools()
    model = CallingModel(rm={"command": "rm a"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    async with client_of(await gateway(system)) as client:
        waiting = await client.responses.create(model=system.agent, input="go")
        cancelled = await client.responses.cancel(waiting.id)
        assert cancelled.status == "cancelled"
        assert cancelled.model_extra is not None
        assert cancelled.model_extra["rejoin"]["pending_approvals"] == []
        asked = next(item for item in waiting.output if item.type == "mcp_approval_request")
        answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
        with pytest.raises(openai.ConflictError):
            await client.responses.create(model=system.agent, input=[answer], previous_response_id=waiting.id)
    assert shell.ran == []


@pytest.mark.feature("F84")
async def test_a_rewind_breaks_the_stream_and_the_replay_has_nothing_of_it(system: LocalSystem) -> None:
    """A number never changes its meaning. A client can resume after every number that is not void, and after
    no void one.
    """
    gate = asyncio.Semaphore(FIRST)
    await system.runner(
        [Agent(name=system.agent, model=GatedModel(gate, 10), text_interval_s=0)],
        **SILENT_RUNNER,
    )
    async with client_of(await gateway(system)) as client:
        seen: list[ResponseStreamEvent] = []
        written = asyncio.Event()

        async def watch() -> None:
            async for event in await client.responses.create(model=system.agent, input="go", stream=True):
                seen.append(event)
                if said(seen).endswith(str(FIRST - 1)):
                    written.set()

        async def broken() -> None:
            with pytest.raises(openai.APIConnectionError):
                await watch()

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(broken())
            async with asyncio.timeout(20):
                await written.wait()
                model = GatedModel(asyncio.Semaphore(SECOND), SECOND, [])
                await system.runner(
                    [Agent(name=system.agent, model=model, text_interval_s=0)], ack_wait_s=ACK_WAIT_S
                )
                await watching
        gate.release()
        assert seen[0].type == "response.created"
        id = seen[0].response.id
        whole = await replayed(client, id)
        assert said(whole) == " 0 1 2"
        assert kinds(whole)[-1] == "completed"
        assert (await ended(client, id)).output_text == said(whole)
        void = numbers(seen)[2:]
        assert numbers(whole) == [0, 1, *range(void[-1] + 1, void[-1] + len(whole) - 1)]
        for number in (0, 1, *numbers(whole)[2:]):
            rest = [event for event in whole if event.sequence_number > number]
            assert await replayed(client, id, number) == rest
        for number in void:
            with pytest.raises(openai.APIStatusError) as fault:
                await replayed(client, id, number)
            assert fault.value.status_code == GONE


async def test_what_a_response_answers_is_listed_page_by_page(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """The conversation before it, its own question last, in either order; files too."""
    first = await client.responses.create(model=system.agent, input="count 2")
    data = file_formats.to_data_url(file_formats.PNG, PNG)
    content = [{"type": "input_text", "text": "count 1"}, {"type": "input_image", "image_url": data}]
    asked: Any = [{"role": "user", "content": content}]
    second = await client.responses.create(model=system.agent, input=asked, previous_response_id=first.id)
    await client.responses.create(model=system.agent, input="count 3", previous_response_id=second.id)
    page = await client.responses.input_items.list(second.id)
    assert [item.type for item in page.data] == ["message"] * 3
    assert page.has_more is False
    newest, answer, oldest = (item.model_dump() for item in page.data)
    assert [answer["role"], answer["content"][0]["text"]] == ["assistant", first.output_text]
    assert [oldest["role"], oldest["content"][0]["text"]] == ["user", "count 2"]
    text, image = newest["content"]
    assert text["text"] == "count 1"
    assert image["image_url"].startswith(file_ids.FILE_URL_PREFIX)
    for order in ("asc", "desc"):
        pages = client.responses.input_items.list(second.id, limit=1, order=order)
        items = [item async for item in pages]  # page by page
        assert items == (page.data if order == "desc" else page.data[::-1])
    assert [one.id async for one in client.responses.input_items.list(first.id)] == [oldest["id"]]


async def test_invalid_query_parameters_of_input_items_are_named(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    response = await client.responses.create(model=system.agent, input="count 1")
    list_ = client.responses.input_items.list
    cases: list[tuple[dict[str, Any], str]] = [
        ({"order": "up"}, "order is asc or desc"),
        ({"limit": 0}, "limit is a number from 1"),
        ({"limit": 1_000}, "limit is a number from 1"),
        ({"after": "a\0b"}, "a character that cannot be stored"),
    ]
    for wrong, why in cases:
        with pytest.raises(openai.BadRequestError, match=why):
            await list_(response.id, **wrong)
    other = response.id[:-1] + ("1" if response.id.endswith("0") else "0")
    for id, after in ((response.id, "msg_none"), (other, openai.omit), ("x", openai.omit)):
        with pytest.raises(openai.NotFoundError):
            await list_(id, after=after)
