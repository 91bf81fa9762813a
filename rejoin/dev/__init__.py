"""`rejoin dev`: NATS, PostgreSQL, gateways and runners on one machine, as child processes."""
