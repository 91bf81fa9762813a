"""Language models behind one small port, and how much of a conversation they are shown.

model           the port: what a model is asked, and what it may answer
scripted        the demo's model, which answers by rules
fallback        several models as one
missing_model   the model of an agent that has none
deadline        a time limit for one answer
context_window  which turns of a conversation a model is shown
compaction      the summary that stands for the others
token_count     how many tokens a message has
providers       real providers, through pydantic-ai's model classes
"""
