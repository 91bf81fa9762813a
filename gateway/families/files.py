"""`GET /api/files/{id}`: a message's file, to those whose it is, and to a browser as nothing but that file.

The bytes were anybody's once. So they are served as exactly what they were checked to be, never guessed at,
never run, and a PDF never opened inside of our origin.
"""

from aiohttp import web

from gateway.routing import Route, Says, Scope
from gateway.web import PRINCIPAL, SERVICE
from protocol import media
from protocol.errors import NotFound

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",  # the id is made of the bytes
}


async def get(request: web.Request) -> web.StreamResponse:
    """The file. Somebody else's is as unknown as none."""
    attachments = request.app[SERVICE].backend.attachments
    owner = request[PRINCIPAL].owner
    id = media.parse_file_id(request.match_info["id"])
    if attachments is None or id is None or not media.belongs(id, owner.user):
        raise NotFound("there is no such file")
    file = await attachments.files.get(owner.tenant, id)
    if file is None:
        raise NotFound("there is no such file")
    disposition = "attachment" if file.media_type == media.PDF else "inline"
    return web.Response(
        body=file.data,
        headers=HEADERS | {"Content-Type": file.media_type, "Content-Disposition": disposition},
    )


ROUTES = (
    Route(
        "GET",
        f"{media.URL}{{id}}",
        get,
        Scope.CHAT,
        Says("A message's file", answers={200: (media.PNG, media.JPEG, media.WEBP, media.PDF)}),
    ),
)
