"""Models behind one small port.

port      what the loop asks for
scripted  the demo's model, by rule
history   stored UI messages as a provider's messages
call      one call to a real provider
provider  real providers, through pydantic-ai's model classes, loaded on first use
"""
