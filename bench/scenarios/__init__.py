"""One module for each measurement. `figures(*, full)` runs in its own process.

`full` uses the sizes of the goals. Without it, the sizes are small enough to run often.
"""
