"""The worker process: from a run request to its acknowledgement.

`worker` pulls requests and drains; `delivery` carries out one delivered request; `lease` has the control
messages about the runs that are executed; `maintenance` does the periodic work; `configuration` has what a
worker is given; `heartbeat` keeps deliveries from a thread that `loop_watch` lets see a blocked event loop.
"""
