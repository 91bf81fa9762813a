"""The session API: `/api/agents` and `/api/agents/{agent}/{session}`."""
