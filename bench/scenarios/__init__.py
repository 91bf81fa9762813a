"""What is measured: in each module `figures(*, full)`, run in a process of its own. `full` are the sizes that
are promised; without it they are small enough to be run often.
"""
