"""Real model providers: what is right for all of them, and the wires that pydantic-ai speaks. Imported when
the first model is opened.
"""
