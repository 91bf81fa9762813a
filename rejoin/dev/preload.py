"""A process of `rejoin dev` that is started ahead: it imports what it is made of, which is most of its start,
while what it stands on starts.

`python -m rejoin.dev.preload MODULE PACKAGE ARGUMENT…` imports the module, is told the rest of its variables
by its supervisor, and goes on as `python -m PACKAGE ARGUMENT…`. It does not know what the packages are.
"""

import os
import runpy
import socket
import sys
from importlib import import_module

import msgspec
from rejoin_adapters.service.service_process import SUPERVISOR


def told(fd: int) -> dict[str, str]:
    """The line that the supervisor says once, a JSON object; waits for it. Exits if there is nobody."""
    with socket.socket(fileno=os.dup(fd)) as supervisor, supervisor.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        sys.exit("the supervisor is gone")
    return msgspec.json.decode(line, type=dict[str, str])


def main(module: str, package: str, *arguments: str) -> None:
    """Become the package."""
    import_module(module)
    os.environ.update(told(int(os.environ[SUPERVISOR])))
    sys.argv[1:] = arguments
    runpy.run_module(package, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
