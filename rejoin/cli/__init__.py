"""The command line `rejoin`. `main` defines the commands; one module for each group implements them."""
