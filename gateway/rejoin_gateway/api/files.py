"""`GET /api/files/{id}`: a message's file, for its owner, and for whoever has its signed URL.

Files come from users, so a browser must not execute them: each is served with the media type that was
checked when it was stored, sandboxed, and all but images as a download. The file is streamed: a slow reader
holds two chunks in memory. An error after the headers breaks the connection, so that the client sees fewer
bytes than `Content-Length` and does not take them for the file.
"""

from contextlib import aclosing

from aiohttp import web

from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.response import abort_on_error
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.errors import NotFound

FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",  # the id is a hash of the bytes
}


async def get_file(request: web.Request) -> web.StreamResponse:
    """The file; 304 if the client has it. Raises `NotFound`, also for another user's file."""
    opened = await directory_of(request).open_file(request.match_info["id"])
    if opened is None:
        raise NotFound("there is no such file")
    id, file = opened
    headers = FILE_HEADERS | {"ETag": f'"{id}"'} | _signed_headers(request)
    if any(tag.value in (id, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    disposition = "inline" if file.media_type.startswith("image/") else "attachment"
    charset = "; charset=utf-8" if file_formats.is_text(file.media_type) else ""
    headers |= {"Content-Type": file.media_type + charset, "Content-Disposition": disposition}
    headers |= {"Content-Length": str(file.size_bytes)}
    if request.method == "HEAD":
        return web.Response(headers=headers)
    response = web.StreamResponse(headers=headers)
    if request.transport is not None:
        with abort_on_error(request, request.transport):
            await response.prepare(request)
            async with aclosing(file.chunks) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)
            await response.write_eof()
    return response


def _signed_headers(request: web.Request) -> dict[str, str]:
    """For a request by a signed URL: pages of any origin may show the image, until the URL expires."""
    if "Authorization" in request.headers:
        return {}
    access = request.app[SERVICE].backend.file_access(request.match_info["id"], request.query)
    if access is None:
        return {}
    return {
        "Cache-Control": f"private, max-age={access.seconds_left}",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }


ROUTES = (
    Route(
        "GET",
        f"{file_ids.FILE_URL_PREFIX}{{id}}",
        get_file,
        Scope.CHAT,
        RouteDoc(
            "Download a file",
            description="Returns an image, PDF or text that a message refers to by its URL. File parts in "
            "histories and streams have such URLs, signed: they need no credential until they expire, so an "
            "`<img>` element can load them. Read the message again for a URL that has expired. The content "
            "of a URL never changes, so clients may cache it.",
            responses={
                200: (
                    file_formats.PNG,
                    file_formats.JPEG,
                    file_formats.WEBP,
                    file_formats.GIF,
                    file_formats.PDF,
                    file_formats.TEXT,
                ),
                304: None,
            },
            query={
                "tenant": "Of a signed URL: whose file it is.",
                "expires": "Of a signed URL: when it expires, in seconds since 1970.",
                "signature": "Of a signed URL: replaces the credential.",
            },
            headers={"If-None-Match": "The ETag of the client's copy; if it is current, the status is 304."},
            tag="session",
        ),
        takes_signed_url=True,
    ),
)
