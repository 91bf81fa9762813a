"""What Rejoin says about a call stands beside what the provider says, and beside itself."""

import pytest

from rejoin_protocol.events.own_metadata import CLIENT_KEY, add_own, runs_in_client


@pytest.mark.feature("F104")
def test_what_is_there_already_stays() -> None:
    known = {"google": {"signature": "x"}, "rejoin": {"agent": "aide"}}
    marked = add_own(known, CLIENT_KEY, value=True)
    assert marked == {"google": {"signature": "x"}, "rejoin": {"agent": "aide", "client": True}}
    assert runs_in_client(marked)
    assert "client" not in known["rejoin"]
    assert add_own(None, CLIENT_KEY, value=True) == add_own({"rejoin": 1}, CLIENT_KEY, value=True)


@pytest.mark.parametrize(
    "metadata", [None, {}, 1, {"rejoin": {}}, {"rejoin": {"client": "yes"}}, {"rejoin": 1}]
)
def test_other_calls_are_not_the_clients(metadata: object) -> None:
    assert not runs_in_client(metadata)
