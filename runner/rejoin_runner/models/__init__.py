"""Language models behind one small port, and how much of a conversation they receive.

model             the port: a request to a model, and the chunks of its answer
demo_model        the demo's model, which answers by rules
fallback          several models as one
missing_model     the model of an agent that has none
deadline          a time limit for one answer
call_recording    what is sent to a provider and what it answers, for whoever records it
context_window    which turns of a conversation a model receives
compaction        the summary that replaces the other turns
token_count       how many tokens a message has
chat_completions  the own client for OpenAI's chat completions
providers         real providers: retries, keys, conversations, and the wires that pydantic-ai speaks
"""
