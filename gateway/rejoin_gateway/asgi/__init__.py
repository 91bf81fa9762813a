"""The session routes as an ASGI application, for FastAPI, Starlette and any ASGI server.

The routes exist once, as an aiohttp application. `application` serves them to an ASGI server through
`connection`, a connection in memory; `response_parser` reads what aiohttp writes to it.
"""
