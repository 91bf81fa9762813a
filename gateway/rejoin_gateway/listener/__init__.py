"""The sockets of a gateway: which connections it accepts, and how long each may do nothing."""
