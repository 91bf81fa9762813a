"""The workers: they claim runs, execute agent loops, and append what comes of it to the runs' logs.

agents    what an application declares
tools     functions as tools
models    language models behind one small port
standing  what a run's log says about it
machine   what is to be done next: pure, and the same for live work and after a crash
loop      does it
journal   the log's one writer: batches, one append in flight
worker    pulls requests, claims, keeps them alive, drains
demo      the scripted agent of `rejoin dev`
"""

from runner.agents import Agent
from runner.tools import ToolContext, ToolError, tool

__all__ = ("Agent", "ToolContext", "ToolError", "tool")
