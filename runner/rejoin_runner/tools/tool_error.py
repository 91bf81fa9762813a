"""`ToolError`: how a tool tells the model that a call failed."""


class ToolError(Exception):
    """Raise it in a tool to tell the model that the call failed. The model and the users see the text."""
