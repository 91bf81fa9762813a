"""An own client for one wire: OpenAI's chat completions, as OpenAI and the compatible services speak it."""
