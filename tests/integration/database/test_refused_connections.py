"""A server that refuses a connection for good: the reason is said at once, without the password."""

from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import pytest

from rejoin_adapters.embedded import Servers
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.pool import open_database
from rejoin_protocol.errors import RejoinError, Unavailable


def wrong_password(url: SplitResult) -> SplitResult:
    return url._replace(netloc=f"{url.username}:hunter2@{url.hostname}:{url.port}")


def missing_database(url: SplitResult) -> SplitResult:
    return url._replace(path="/nowhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_password, "the user or the password of its URL is wrong"),
        (missing_database, "it has no database of the name in its URL"),
    ],
)
async def test_the_reason_is_said_and_no_name_of_a_role(
    servers: Servers, change: Callable[[SplitResult], SplitResult], reason: str
) -> None:
    url = change(urlsplit(servers.database_url)).geturl()
    for connect in (open_database, migrate.check_schema):
        with pytest.raises(RejoinError) as fault:
            await connect(url)
        assert str(fault.value) == f"the database refuses the connection: {reason}"
        assert not isinstance(fault.value, Unavailable)
