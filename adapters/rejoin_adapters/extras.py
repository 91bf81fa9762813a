"""The extras of the distribution: whether a library is installed, and the sentence that says what to add."""

from collections.abc import Sequence
from importlib.util import find_spec

DISTRIBUTION = "rejoin"


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported. Does not import it."""
    return find_spec(module) is not None


def needs_extra(what: str, *extras: str) -> str:
    """The sentence for a missing extra: what needs it, and the command that installs it."""
    plural = "extra" if len(extras) == 1 else "extras"
    return f'{what} needs the {plural} {_join(extras)}: pip install "{DISTRIBUTION}[{",".join(extras)}]"'


def _join(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
