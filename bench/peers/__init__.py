"""The peers that `make bench` measures beside Rejoin: chat servers with the same fake model behind them.

installation           installs the pinned packages of each into a folder of its own
backends               starts them, each as a `Backend`
ai_sdk_server.mjs      AI SDK 6 with resumable-stream: one Node process, messages in memory, streams in Redis
pydantic_ai_server     pydantic-ai's adapter for the AI SDK in uvicorn, which keeps nothing
"""
