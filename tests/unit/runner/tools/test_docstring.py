"""Docstrings of tools in Google, NumPy and Sphinx style: description and parameters."""

import subprocess
import sys

import pytest

from rejoin_runner.tools.docstring import parse_docstring

GOOGLE = """Book a room.

Args:
    city: Where the room is,
        as people call it.
    nights: How long.

Returns:
    The room's number.
"""
GOOGLE_TYPED = """Book a room.

Args:
    city (str): Where the room is,
        as people call it.
    nights (int, optional): How long.

Returns:
    The room's number.
"""
NUMPY = """Book a room.

Parameters
----------
city
    Where the room is,
    as people call it.
nights
    How long.

Returns
-------
The room's number.
"""
NUMPY_TYPED = """Book a room.

Parameters
----------
city : str
    Where the room is,
    as people call it.
nights : int, optional
    How long.

Returns
-------
int
    The room's number.
"""
SPHINX = """Book a room.

:param city: Where the room is,
    as people call it.
:param nights: How long.
:returns: The room's number.
"""
SPHINX_TYPED = """Book a room.

:param str city: Where the room is,
    as people call it.
:param nights: How long.
:type nights: int
:rtype: int
:returns: The room's number.
"""
STYLES = {
    "google": GOOGLE,
    "google with types": GOOGLE_TYPED,
    "numpy": NUMPY,
    "numpy with types": NUMPY_TYPED,
    "sphinx": SPHINX,
    "sphinx with types": SPHINX_TYPED,
}


@pytest.mark.parametrize("style", STYLES)
def test_each_style_describes_the_parameters(style: str) -> None:
    """And the rest stays the description of the tool."""
    found = parse_docstring(STYLES[style].strip())
    assert found.arguments == {
        "city": "Where the room is, as people call it.",
        "nights": "How long.",
    }
    first, *rest = found.text.split("\n\n")
    assert first == "Book a room."
    assert len(rest) == 1
    assert rest[0].startswith("Returns: ")
    assert "The room's number" in rest[0]


@pytest.mark.parametrize(
    "text",
    [
        "Book a room.",
        "Book a room.\n\nReturns:\n    The room's number.",
        "Book a room: any: will do.\n\n    Example: book('Oslo')",
        "Book a room with the given parameters.",
    ],
)
def test_a_docstring_that_describes_no_parameters_is_the_description(text: str) -> None:
    found = parse_docstring(text)
    assert found.text == text
    assert found.arguments == {}


def test_paragraphs_around_the_parameters_stay() -> None:
    text = (
        "Book a room.\n\nIt must be free.\n\nArgs:\n    city: Where.\n\nNote:\n    It costs nothing.\n\nBye."
    )
    found = parse_docstring(text)
    assert found.text == "Book a room.\n\nIt must be free.\n\nNote: It costs nothing.\n\nBye."
    assert found.arguments == {"city": "Where."}


def test_errors_and_examples_stay_readable() -> None:
    text = (
        "Book.\n\nArgs:\n    city: Where.\n\nRaises:\n    ToolError: If full.\n\n"
        "Examples:\n    >>> book('Oslo')\n    7"
    )
    found = parse_docstring(text)
    assert found.text == "Book.\n\nRaises: ToolError: If full.\n\nExamples:\n>>> book('Oslo')\n7"


def test_the_parser_is_imported_only_for_docstrings_that_need_it() -> None:
    """Its import takes a quarter of a second."""
    code = (
        "import sys; from rejoin_runner.tools.docstring import parse_docstring;"
        "parse_docstring('Book a room.'); assert 'griffe' not in sys.modules;"
        "parse_docstring('Book.\\n\\nArgs:\\n    city: Where.'); assert 'griffe' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
