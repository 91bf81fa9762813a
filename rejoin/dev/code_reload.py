"""Restarts the runners of `rejoin dev` when Python files change."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from rejoin.dev.progress import ProgressLines

SHOWN_NAMES_MAX = 3
DEBOUNCE_MS = 200
"""Changes within this time cause one restart."""


async def restart_on_change(folder: Path, restart: Callable[[], None], progress: ProgressLines) -> None:
    """Watch the Python files below a folder until cancelled, and call `restart` after each change.

    Hidden folders, virtual environments and caches are not watched. Without the package `watchfiles` it says
    so and returns.
    """
    try:
        from watchfiles import PythonFilter, awatch
    except ImportError:
        progress("changes of the code need a restart: `watchfiles` is missing (the extra `embedded` has it)")
        return
    folder = await asyncio.to_thread(folder.resolve)
    async for changes in awatch(folder, watch_filter=PythonFilter(), debounce=DEBOUNCE_MS):
        names = sorted({_relative(Path(path), folder) for _, path in changes})
        more = f" and {len(names) - SHOWN_NAMES_MAX} more" if len(names) > SHOWN_NAMES_MAX else ""
        progress(f"{', '.join(names[:SHOWN_NAMES_MAX])}{more} changed: the runners restart")
        restart()


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
