"""Models behind one small port.

port      what the loop asks for
scripted  the demo's model, by rule
window    how much of a conversation a model is shown, and the summary of the rest
history   stored UI messages as a provider's messages
call      one call to a real provider
limit     how long it may take
quick     what of OpenAI's client and its model is done in a quicker way
wire      the connections to providers
answer    what comes back, as chunks
fallback  several models as one
provider  real providers, through pydantic-ai's model classes, loaded on first use
"""
