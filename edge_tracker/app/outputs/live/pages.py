"""The files of the page, and the sign-in form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SIGN_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>edge-tracker: token</title>
<h1>edge-tracker</h1>
<form action="/"><p><label>Token <input type="password" name="token" required autofocus></label> <button>Open</button>
</form></html>
"""


def page_routes() -> list[Route]:
    """Routes to the page and its files."""
    return [Route(path, _page(name, kind)) for path, (name, kind) in PAGE.items()]


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    data = resources.files("edge_tracker.app.outputs.live").joinpath("page", name).read_bytes()

    async def respond(request: Request) -> Response:
        return Response(data, headers={"content-type": kind})

    return respond
