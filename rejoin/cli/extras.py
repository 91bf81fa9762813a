"""Checks that the optional dependencies of a command are installed.

The distribution's own metadata says what an extra needs, so that `pyproject.toml` stays the only list.
"""

import re
from collections.abc import Iterator
from importlib import metadata

from rejoin_adapters.extras import DISTRIBUTION, needs_extra
from rejoin_protocol.errors import Invalid

_REQUIREMENT = re.compile(
    r"^Requires-Dist: (?P<name>[\w.-]++)[^;\n]*+;.*\bextra == ['\"](?P<extra>[\w.-]+)['\"]", re.MULTILINE
)
"""A line of the metadata. The standard library's parser of it takes longer to import than all else here."""


def require(command: str, *extras: str) -> None:
    """Check that a command's extras are installed. Raises `Invalid` that names the missing ones."""
    missing = [extra for extra in extras if not all(map(_is_installed, _requirements(extra)))]
    if missing:
        raise Invalid(needs_extra(f"rejoin {command}", *missing))


def _requirements(extra: str) -> Iterator[str]:
    """The names of an extra's distributions. None for a checkout that was not installed."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("METADATA") or ""
    except metadata.PackageNotFoundError:
        return
    for found in _REQUIREMENT.finditer(text):
        if found["extra"] == extra:
            yield found["name"]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
