"""`GET /api/files/{id}`: a message's file, to those whose it is, and to a browser as nothing but that file.

The bytes were anybody's once. So they are served as exactly what they were checked to be, never guessed at,
never run, and a PDF never opened inside of our origin. They are passed on as they are taken: a slow reader
holds two chunks of a file here, never the whole. What goes wrong behind the headers breaks the connection, so
that less than `Content-Length` has come and nobody takes it for the file.
"""

from contextlib import aclosing

from aiohttp import web
from rejoin_protocol import file_formats
from rejoin_protocol.errors import NotFound

from rejoin_gateway.http.response import abort_on_error
from rejoin_gateway.http.routes import Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",  # the id is made of the bytes
}


async def get_file(request: web.Request) -> web.StreamResponse:
    """The file, unless the client has it already. Somebody else's is as unknown as none."""
    attachments = request.app[SERVICE].backend.attachments
    owner = request[PRINCIPAL].owner
    id = file_formats.parse_file_id(request.match_info["id"])
    if attachments is None or id is None or not file_formats.is_visible_to(id, owner.user):
        raise NotFound("there is no such file")
    file = await attachments.files.open(owner.tenant, id)
    if file is None:
        raise NotFound("there is no such file")
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
            "A message's file",
            responses={
                200: (file_formats.PNG, file_formats.JPEG, file_formats.WEBP, file_formats.PDF),
                304: None,
            },
            headers={"If-None-Match": "The file's ETag: what the client has."},
        ),
    ),
)
