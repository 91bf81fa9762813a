"""An agent whose refunds need approval, and a client that asks the person in a terminal."""
