"""`GET /`: the overview or the playground for browsers, and what this service is for programs."""

from importlib.metadata import version
from typing import Literal

import msgspec
from aiohttp import web

from rejoin_gateway.http.middleware import identify
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.ui.pages import home
from rejoin_protocol.errors import Forbidden, Unauthenticated


class AuthState(msgspec.Struct, frozen=True):
    """`setup`: whether credentials can be checked, which is always so. `authenticated`: whether this request
    has a valid one.
    """

    authenticated: bool
    setup: Literal[True] = True


class ServiceInfo(msgspec.Struct, frozen=True):
    """What the gateway is. Clients of the message parts API request it before they log in."""

    version: str
    auth: AuthState
    name: Literal["Rejoin"] = "Rejoin"
    runtime: Literal["python"] = "python"
    serverless: Literal[False] = False


async def root(request: web.Request) -> web.StreamResponse:
    """A page if the client takes HTML, as browsers say that they do; else JSON."""
    response = (
        await home(request)
        if "text/html" in request.headers.get("Accept", "")
        else json_response(ServiceInfo(version("rejoin"), AuthState(await _is_authenticated(request))))
    )
    response.headers.add("Vary", "Accept, Authorization")
    return response


async def _is_authenticated(request: web.Request) -> bool:
    try:
        await identify(request)
    except (Unauthenticated, Forbidden):
        return False
    return True


ROUTES = (
    Route(
        "GET",
        "/",
        root,
        None,
        RouteDoc(
            "Open the overview, or read what this service is",
            description="A browser, whose header `Accept` names `text/html`, gets the page `/overview`, and "
            "in `rejoin dev` the page `/playground`. Other clients get name and version as JSON, and whether "
            "their credential is valid.",
            responses={200: ("text/html", ServiceInfo)},
        ),
    ),
)
