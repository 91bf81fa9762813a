"""The HTTP APIs, one folder or file for each family.

A family parses its requests, calls `core` and renders the result. It holds no state and no rules of its own,
and imports no other family; what families share is in `shared`. `chat_dispatch` stands above them: three
families answer `POST /api/chat`, and the body says which.

sessions        session API: /api/agents/{agent}/{session}
run             run API: /run/api, /run/v1/conversations
parts           parts API: /api/chat with `parts`, /api/chat/approve, /api/threads
aisdk           AI SDK (`useChat`): /api/chat, /api/chat/{id}/stream
agent_chat      agent-chat API: /api/agent/chat
openai          OpenAI-compatible: /run/v1/chat/completions, /run/v1/responses, /run/v1/models
ag_ui           AG-UI 1.0: /ag-ui/{agent}
mcp             MCP server: /run/v1/mcp
files, health   attachments; probes and metrics
webhooks        /api/webhooks: who is told of runs
"""
