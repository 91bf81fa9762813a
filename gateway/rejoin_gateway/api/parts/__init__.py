"""The parts API: `POST /api/chat` with `parts`, `/api/chat/approve`, and `/api/threads`."""
