"""Changed arguments as a message has them."""

from datetime import UTC, datetime

from rejoin_protocol.events.edited_input import EditedInput, edit_of, with_edit

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EDIT = EditedInput({"cents": 900}, "ann", AT)


def test_a_change_stands_beside_what_others_have_written() -> None:
    known = {"openai": {"itemId": "i"}, "rejoin": {"agent": "a", "call": "c"}}
    assert with_edit(known, EDIT) == {
        "openai": {"itemId": "i"},
        "rejoin": {
            "agent": "a",
            "call": "c",
            "edit": {"shownInput": {"cents": 900}, "by": "ann", "at": "2026-01-02T03:04:05Z"},
        },
    }
    assert "edit" not in known["rejoin"]


def test_a_change_is_read_back() -> None:
    assert edit_of({"callProviderMetadata": with_edit(None, EDIT)}) == EDIT
    assert edit_of({"callProviderMetadata": with_edit({"rejoin": "odd"}, EDIT)}) == EDIT


def test_a_call_without_a_change_has_none() -> None:
    for metadata in (None, {}, {"rejoin": {"agent": "a"}}, {"rejoin": {"edit": {"shownInput": "x"}}}):
        assert edit_of({"callProviderMetadata": metadata}) is None
    assert edit_of({}) is None
