"""One attempt at a run: `executor` carries out the actions of `decide` on an `attempt`.

`model_step` is one model response, `tool_calls` are approvals and tools, `delegation` is work between agents,
`call_output` is a tool's way to the log. `run_inputs`, `context_fitting` and `model_files` prepare what a
model gets; `model_calls` stores recorded calls; `status_updates` run beside the work; `instrumentation` and
`metrics` observe it.
"""
