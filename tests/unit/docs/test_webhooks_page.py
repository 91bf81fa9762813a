"""The receiver on the page about webhooks takes what is signed, once, and refuses the rest."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rejoin_protocol.security.webhook_signature import format_secret, sign

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "webhooks.md"
SECRET = format_secret(b"s" * 32)
BODY = b'{"type":"run.completed","data":{"run":"run_1"}}'


def test_the_receiver_in_python_takes_each_event_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)  # noqa: S102 - our page
    client = TestClient(names["app"])
    headers = sign([format_secret(b"o" * 32), SECRET], "msg_1", int(time.time()), BODY)
    for _ in range(2):
        assert client.post("/hook", content=BODY, headers=headers).status_code == 204
    assert capsys.readouterr().out == "run.completed run_1\n"
    assert client.post("/hook", content=BODY + b" ", headers=headers).status_code == 401
    old = sign([SECRET], "msg_2", int(time.time()) - 3600, BODY)
    assert client.post("/hook", content=BODY, headers=old).status_code == 401
