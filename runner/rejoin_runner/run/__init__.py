"""One attempt to execute a run: model steps, tool calls, delegation, compaction."""
