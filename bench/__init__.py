"""The benchmark, `make bench`: what Rejoin costs compared with the servers and libraries below it.

Only ratios between the figures of one run can be compared; absolute numbers depend on the machine.

figures           one figure, percentiles, CPU and memory of a process
goals             the goals, and whether a run's figures meet them
servers           the measured processes: NATS and PostgreSQL, a gateway, a runner, a baseline
packages          the packages of an installation, and their size
http_load         the clients: raw HTTP, many streams in one process
run_logs          runs and their logs without a runner; as a process, the writer of live events
nats_baseline     the baseline `nats`: the same reads and subscriptions with nats-py alone
aiohttp_baseline  the baseline `bare`: the same events from memory, without NATS and PostgreSQL
agents            an agent whose text is the current time, and agents that ask the provider
provider          a model provider whose tokens are the times at which they are sent
loop_lag          how late a runner's event loop is
peers             other chat backends, with the same provider behind them
database          measurements of PostgreSQL alone
scenarios         one module for each measurement: `async def figures(*, full)`, run in its own process
"""
