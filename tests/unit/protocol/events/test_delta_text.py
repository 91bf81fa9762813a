"""Deltas of one part: a character that is split over two of them is one character."""

from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.events.delta_text import DeltaText

units = st.lists(st.text(st.sampled_from("a\ud83d\ude00😀"), max_size=3), max_size=8)


@given(units)
def test_the_deltas_together_are_the_well_formed_text(deltas: list[str]) -> None:
    """However the text is cut, and no delta has half a character."""
    text = DeltaText()
    added = [*map(text.add, deltas), text.end()]
    whole = "".join(deltas).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert "".join(added).encode() == whole.encode()


def test_a_half_waits_for_the_next_delta_and_is_replaced_at_the_end() -> None:
    text = DeltaText()
    assert [text.add("a\ud83d"), text.add("\ude00b"), text.add("c\ud83d"), text.end()] == [
        "a",
        "😀b",
        "c",
        "\ufffd",
    ]
    assert text.end() == ""
