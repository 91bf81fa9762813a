"""`python -m rejoin`: the command `rejoin`."""

from rejoin.cli.main import main

main(prog_name="rejoin")
