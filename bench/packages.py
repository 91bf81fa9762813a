"""What an installation of Rejoin consists of: the distributions that an extra brings, and their size.

Read from the metadata of this environment, so that nothing has to be downloaded.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "rejoin"
MB = 1_000_000


def packages_of(*extras: str) -> list[str]:
    """The distributions that `rejoin` with these extras needs here, without itself, by name. Without extras:
    those of the base. Raises `PackageNotFoundError` if one is not installed.
    """
    waiting: list[tuple[str, Sequence[str]]] = [(PACKAGE, extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, wanted = waiting.pop()
        for extra in ("", *wanted):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in metadata.requires(name) or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append((canonicalize_name(needed.name), sorted(needed.extras)))
    return sorted({name for name, _ in seen} - {PACKAGE})


def size_mb(packages: Sequence[str]) -> float:
    """The installed files of these distributions, without compiled bytecode, in megabytes (10⁶ bytes)."""
    files = {
        Path(str(file.locate()))
        for package in packages
        for file in metadata.files(package) or ()
        if file.suffix != ".pyc"
    }
    return sum(path.stat().st_size for path in files if path.exists()) / MB
