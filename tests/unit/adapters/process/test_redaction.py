"""No log line holds a credential or a value of a request's context."""

import asyncio

import pytest

from rejoin_adapters.process import redaction
from rejoin_adapters.process.redaction import REDACTED, redact


def shown(**event: object) -> str:
    return str(redact(None, "info", dict(event)))


@pytest.mark.parametrize(
    "text",
    [
        "rk_abcdefghijkl.0123456789012345678901234567890123456789012",
        "Authorization: Bearer abc.def",
        "bearer hunter2",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
        "sk-proj-abcdefgh12345",
        "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
        "postgresql://rejoin:hunter2@db:5432/rejoin",
        "nats://s3cret-token@nats:4222",
    ],
)
def test_a_credential_is_known_by_its_looks(text: str) -> None:
    secret = text.rpartition(" ")[2].removeprefix("postgresql://rejoin:").partition("@")[0]
    line = shown(event=f"it failed: {text}", error=text, all=[{"x": text}])
    assert secret.removeprefix("nats://") not in line


@pytest.mark.parametrize(
    "name", ["authorization", "X-Api-Key", "context", "api_key_pepper", "token", "natsUrl"]
)
def test_a_field_is_known_by_its_name(name: str) -> None:
    assert "hunter" not in shown(event="e", **{name: "hunter", "inner": {name: {"a": "hunter"}}})


def test_what_is_no_secret_stays() -> None:
    event = {"event": "claimed", "run": "run_01ABC", "attempt": 2, "error": None, "ok": True, "took_ms": 1.5}
    assert redact(None, "info", dict(event)) == event


async def test_hidden_values_stay_hidden_in_tasks_that_are_started_and_nowhere_else() -> None:
    """Nested ones, numbers too; short ones are left alone; the next request forgets them."""

    async def line() -> str:
        return shown(event="the pin of hunter2 is 123456", pin=123456, seats="10")

    async def attempt() -> str:
        redaction.hide({"name": "hunter2", "more": [{"pin": 123456}], "seats": 10})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(line())
        return task.result()

    async with asyncio.TaskGroup() as group:
        inside = group.create_task(attempt())
    assert inside.result() == str(
        {"event": f"the pin of {REDACTED} is {REDACTED}", "pin": REDACTED, "seats": "10"}
    )
    assert "hunter2" in await line()
    redaction.hide("hunter2")
    redaction.hide_only(None)
    assert "hunter2" in await line()
