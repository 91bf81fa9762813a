"""`python -m gateway` is `rejoin`."""

from gateway.cli import main

main(prog_name="rejoin")
