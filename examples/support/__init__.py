"""An agent that asks a person before it spends money, and a client that asks the person."""
