"""Pre-starts a child process of `rejoin dev`: imports its code while NATS and PostgreSQL are still starting.

Importing is most of a service's start time. `python -m rejoin.dev.preload MODULE PACKAGE ARGUMENT…` imports
MODULE, waits for the parent to send the remaining environment variables, and continues as
`python -m PACKAGE ARGUMENT…`. It knows nothing about MODULE and PACKAGE.
"""

import gc
import os
import runpy
import socket
import sys
from importlib import import_module

import msgspec

from rejoin_adapters.process.service_process import SUPERVISOR


def read_variables(fd: int) -> dict[str, str]:
    """Wait for the parent's line, a JSON object of environment variables. Exits if the parent is gone.

    The socket stays open: the service uses it afterwards.
    """
    with socket.socket(fileno=os.dup(fd)) as supervisor, supervisor.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        sys.exit("the supervisor is gone")
    return msgspec.json.decode(line, type=dict[str, str])


def main(module: str, package: str, *arguments: str) -> None:
    """Import the module, wait, and run the package in this process."""
    gc.disable()  # nothing that an import creates is garbage: looking for it takes a tenth of the time
    import_module(module)
    gc.enable()
    os.environ.update(read_variables(int(os.environ[SUPERVISOR])))
    sys.argv[1:] = arguments
    runpy.run_module(package, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
