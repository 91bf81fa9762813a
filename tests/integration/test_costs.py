"""What a run costs, counted: round trips, messages and writes do not depend on the machine, times do.

A count that grows is a regression unless somebody decides otherwise, here.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from protocol import chunks
from protocol.adapters.broker import Broker
from protocol.adapters.database import Database
from protocol.adapters.log import JetStreamLog
from runner.demo import demo
from tests.rig import Rig

_TOKENS = re.compile(r"run_\w+|demo-\w+|[A-Z0-9]{20,}|_INBOX\S*")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is asked of database and broker by this process, by kind."""
    counts: Counter[str] = Counter()

    def count(kind: type, method: str, name: Callable[..., str]) -> None:
        original = getattr(kind, method)

        def counting(*args: Any, **options: Any) -> Any:
            counts[name(*args, **options)] += 1
            return original(*args, **options)

        monkeypatch.setattr(kind, method, counting)

    def subject(_: object, subject: str, *_args: object, **_options: object) -> str:
        return _TOKENS.sub("…", subject)

    count(Database, "_once", lambda _, query, _args: f"database {' '.join(query.split())[:50]}")
    count(Broker, "ask", lambda *args, **_: f"ask {subject(*args)}")
    count(Broker, "ask_many", lambda *args: f"ask_many {subject(*args)}")
    count(Broker, "subscribe", lambda *args: f"subscribe {subject(*args)}")
    count(Broker, "flush", lambda _: "flush")
    count(web.StreamResponse, "write", lambda *_: "write")
    count(JetStreamLog, "append", lambda *_: "append")
    return counts


async def test_print(rig: Rig, counted: Counter[str]) -> None:
    base = await rig.gateway()
    await rig.runner()
    for _ in range(2):
        await rig.post(base, rig.chat(rig.fresh("s"), "count 1"))
    counted.clear()
    for _ in range(10):
        await rig.post(base, rig.chat(rig.fresh("s"), "count 3"))
    print()
    for k, v in counted.most_common(): print(v, k)
