"""`GET /api/files/{id}`: a message's file, for its owner.

Files come from users, so a browser must not execute them: each is served with the media type that was checked
when it was stored, sandboxed, and a PDF as a download. The file is streamed: a slow reader holds two chunks
in memory. An error after the headers breaks the connection, so that the client sees fewer bytes than
`Content-Length` and does not take them for the file.
"""

from contextlib import aclosing

from aiohttp import web
from rejoin_protocol import file_formats
from rejoin_protocol.errors import NotFound

from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import abort_on_error
from rejoin_gateway.http.routes import Route, RouteDoc

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",  # the id is a hash of the bytes
}


async def get_file(request: web.Request) -> web.StreamResponse:
    """The file; 304 if the client has it. Raises `NotFound`, also for another user's file."""
    opened = await directory_of(request).open_file(request.match_info["id"])
    if opened is None:
        raise NotFound("there is no such file")
    id, file = opened
    headers = HEADERS | {"ETag": f'"{id}"'}
    if any(tag.value in (id, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    disposition = "attachment" if file.media_type == file_formats.PDF else "inline"
    headers |= {"Content-Type": file.media_type, "Content-Disposition": disposition}
    response = web.StreamResponse(headers=headers | {"Content-Length": str(file.size_bytes)})
    if request.transport is not None:
        with abort_on_error(request, request.transport):
            await response.prepare(request)
            async with aclosing(file.chunks) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)
            await response.write_eof()
    return response


ROUTES = (
    Route(
        "GET",
        f"{file_formats.URL}{{id}}",
        get_file,
        Scope.CHAT,
        RouteDoc(
            "Download a file",
            description="Returns an image or PDF that a message refers to by its URL. File parts in "
            "histories and streams have such URLs. The content of a URL never changes, so clients may cache "
            "it.",
            responses={
                200: (file_formats.PNG, file_formats.JPEG, file_formats.WEBP, file_formats.PDF),
                304: None,
            },
            headers={"If-None-Match": "The ETag of the client's copy; if it is current, the status is 304."},
            tag="session",
        ),
    ),
)
