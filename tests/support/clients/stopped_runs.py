"""A run that its user stops while a tool of the demo agent works."""

import asyncio

from tests.support.system.local_system import LocalSystem


async def stop_while_working(system: LocalSystem, base: str) -> str:
    """Send a message, stop its run, and read the stream to the run's end. Returns the run's id."""
    session = system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, "sleep 30")) as response:
        received = b""
        while b"tool-input-available" not in received:
            received += await response.content.readany()
        async with asyncio.timeout(5):
            stopped = await system.http.post(f"{base}/api/chat/{session}/stop")
            assert stopped.status < 300, await stopped.text()
            while b"abort" not in received:
                received += await response.content.readany()
        return response.headers["x-workflow-run-id"]
