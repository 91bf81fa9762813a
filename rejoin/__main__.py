"""`python -m rejoin` is the command `rejoin`."""

from rejoin.cli.main import main

main(prog_name="rejoin")
