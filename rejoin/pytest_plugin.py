"""The pytest plugin of Rejoin: the fixture `rejoin_chat` and the option `--rejoin-config`.

pytest finds it by itself once Rejoin is installed. It imports agents only when a test uses the fixture.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rejoin.testing.chat import Chat

type OpenChat = Callable[..., AbstractAsyncContextManager["Chat"]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rejoin-config .rejoin/rejoin.toml`: chats run on the servers of a running `rejoin dev`."""
    parser.getgroup("rejoin").addoption(
        "--rejoin-config",
        metavar="FILE",
        help="run the tests that use rejoin_chat on the servers of a running `rejoin dev`",
    )


@pytest.fixture
def rejoin_chat(request: pytest.FixtureRequest) -> OpenChat:
    """`rejoin.testing.chat`: in memory, or with `--rejoin-config` on real servers."""
    from rejoin.testing.chat import chat

    config = request.config.getoption("--rejoin-config")

    def open_chat(*args: Any, **options: Any) -> AbstractAsyncContextManager["Chat"]:
        return chat(*args, **{"config": config, **options})

    return open_chat
