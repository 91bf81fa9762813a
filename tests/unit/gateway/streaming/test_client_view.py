"""Which chunk types a client receives that states a version, and one that states none."""

import pytest

from rejoin_gateway.streaming.client_view import VIEW_DEFAULT, client_view
from rejoin_protocol.errors import Invalid
from rejoin_protocol.log.record import Audience, Head


def sees(ui: str | None, audience: Audience) -> bool:
    return client_view(ui, operations=False).sees(Head(0, 1, 0, 1, audience=audience))


@pytest.mark.feature("F95")
def test_the_decisions_of_approvals_are_only_for_clients_that_state_version_7() -> None:
    """`tool-approval-response` ends the stream of every client of AI SDK 6."""
    assert [ui for ui in (None, "5", "6", "7") if sees(ui, Audience.V7)] == ["7"]


@pytest.mark.feature("F84", "F95")
def test_a_reset_is_for_all_but_those_that_state_an_older_version() -> None:
    assert [ui for ui in (None, "5", "6", "7") if sees(ui, Audience.RESETS)] == [None, "7"]


def test_version_5_has_no_approvals() -> None:
    views = {ui: client_view(ui, operations=False) for ui in (None, "5", "6", "7")}
    assert [ui for ui, view in views.items() if view.knows(b"tool-output-denied")] == [None, "6", "7"]


def test_operations_are_requested_beside_the_version() -> None:
    assert client_view(None, operations=True).operations
    assert not VIEW_DEFAULT.operations


@pytest.mark.parametrize("ui", ["", "4", "8", "seven", "7.0"])
def test_another_version_is_refused(ui: str) -> None:
    with pytest.raises(Invalid, match="ui is 5, 6 or 7"):
        client_view(ui, operations=False)
