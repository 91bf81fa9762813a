"""The input forms and the routes of the session API."""

from typing import Any

import pytest

from tests.support.system.local_system import Answer, LocalSystem

TEXT = "count 2"
PARTS = [{"type": "text", "text": TEXT}]
FORMS: dict[str, Any] = {
    "a string": {"message": TEXT},
    "a bare string": TEXT,
    "a UI message": {"message": {"id": "m1", "role": "user", "parts": PARTS}},
    "parts": {"message": {"parts": PARTS}},
    "bare parts": PARTS,
    "a typed message": {"type": "message", "message": TEXT},
    "the client's messages": {"messages": [{"id": "m1", "role": "user", "parts": PARTS}]},
    "a list of one": [{"message": TEXT}],
}
BAD: dict[str, Any] = {
    "nothing": {},
    "a number": 7,
    "no parts": {"message": {"parts": []}},
    "an assistant's message": {"message": {"id": "m", "role": "assistant", "parts": PARTS}},
    "a message and a number": [{"message": TEXT}, 7],
    "an empty list": [],
    "a message and an approval": [{"message": TEXT}, {"type": "approval", "approval": {}}],
    "an approval without an id": {"type": "approval", "approval": {"approved": True}},
    "an odd option": {"message": TEXT, "whenBusy": "perhaps"},
}


@pytest.fixture
async def base(system: LocalSystem) -> str:
    await system.runner()
    return f"{await system.gateway()}/api/agents/{system.agent}"


async def post(system: LocalSystem, url: str, body: Any) -> Answer:
    async with system.http.post(url, json=body) as response:
        return await Answer.of(response)


async def test_every_form_stores_the_same_message(system: LocalSystem, base: str) -> None:
    for form, body in FORMS.items():
        url = f"{base}/{system.fresh('s')}"
        answer = await post(system, url, body)
        assert answer.text == "1 2", form
        [user, _] = (await system.get(url)).json["messages"]
        assert user["parts"] == PARTS, form


@pytest.mark.feature("F4")
async def test_an_array_of_messages_is_one_turn(system: LocalSystem, base: str) -> None:
    """One message is stored and answered once. A file that is refused is named by its place in the array."""
    url = f"{base}/{system.fresh('s')}"
    last = {"id": "m2", "role": "user", "parts": [{"type": "text", "text": "please"}]}
    for _ in range(2):  # a repeat is the same request
        answer = await post(system, url, [TEXT, {"message": last}])
        assert answer.complete
    messages = (await system.get(url)).json["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant"]
    assert messages[0] == last | {"parts": [*PARTS, *last["parts"]]}
    bad = {"message": {"parts": [{"type": "file", "url": "x:", "mediaType": "image/png"}]}}
    refused = await post(system, f"{base}/{system.fresh('s')}", [TEXT, bad])
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (400, "/1/message/parts/0")


async def test_an_invalid_message_is_refused_with_400_and_stores_nothing(
    system: LocalSystem, base: str
) -> None:
    for form, body in BAD.items():
        url = f"{base}/{system.fresh('s')}"
        assert (await post(system, url, body)).status == 400, form
        assert (await system.get(url)).status == 404, form


@pytest.mark.feature("F52", "F59")
async def test_an_approval_goes_on_with_the_stream(system: LocalSystem, base: str) -> None:
    """And the reason of a denial is kept."""
    for approved, kind in ((True, "tool-output-available"), (False, "tool-output-denied")):
        url = f"{base}/{system.fresh('s')}"
        asked = await post(system, url, {"message": "delete notes.txt"})
        id = next(chunk["approvalId"] for chunk in asked.chunks if "approvalId" in chunk)
        approval = {"approvalId": id, "approved": approved, "reason": "because"}
        answer = await post(system, url, {"type": "approval", "approval": approval})
        assert kind in [chunk["type"] for chunk in answer.chunks]
        [_, message] = (await system.get(url)).json["messages"]
        [part] = [part for part in message["parts"] if part["type"] == "tool-delete"]
        assert part["approval"] == {"id": id, "approved": approved, "reason": "because"}
        contrary = {"type": "approval", "approval": approval | {"approved": not approved}}
        assert (await post(system, url, contrary)).status == 409


@pytest.mark.feature("F68")
async def test_reconnect_and_interrupt(system: LocalSystem, base: str) -> None:
    """Without an active run, the stream is a 204, and the response to an interrupt reports that there is no
    run.
    """
    url = f"{base}/{system.fresh('s')}"
    await post(system, url, TEXT)
    assert (await system.get(f"{url}/reconnect")).status == 204
    assert (await post(system, f"{url}/interrupt", {})).json == {"success": True, "interrupted": False}


async def test_a_key_makes_a_message_without_an_id_the_same_message(system: LocalSystem, base: str) -> None:
    url, key = f"{base}/{system.fresh('s')}", {"Idempotency-Key": system.fresh("k")}
    answers = []
    for text in (TEXT, TEXT, "count 3"):
        async with system.http.post(url, json={"message": text}, headers=key) as response:
            answers.append(await Answer.of(response))
    first, again, other = answers
    assert first.raw == again.raw
    assert other.status == 409
    assert len((await system.get(url)).json["messages"]) == 2
