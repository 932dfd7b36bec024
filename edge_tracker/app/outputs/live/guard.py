"""Checks of requests (method, size, host name, token, cookie), and the security headers of responses."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from edge_tracker.app.outputs.live.access import Access
from edge_tracker.app.outputs.live.pages import SIGN_IN

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUEST_BYTES = 16 * 1024

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware that passes on the requests that are allowed, and adds security headers to every response.

    Args:
        app: responds to the requests that are passed on.
        access: the token and the host names that requests may use.
        port: becomes part of the cookie's name, since browsers send a cookie to all ports of a host.
    """

    def __init__(self, app: ASGIApp, access: Access, port: int) -> None:
        self._app = app
        self._token, self._hosts = access.token, access.hosts
        self._cookie = f"edge-tracker-{port}"
        # Derived from the token, so that a stolen cookie does not reveal it.
        token = access.token
        self._session = "" if token is None else hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(key.encode(), text.encode()) for key, text in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await (self._refusal(Request(scope)) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The response to a request that is not passed on: a refusal, or a redirect that drops the token; else None."""
        headers = request.headers
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD are allowed\n", 405, {"allow": "GET, HEAD"})
        size = len(request.scope["raw_path"]) + len(request.scope["query_string"])
        if size + sum(len(key) + len(text) for key, text in headers.raw) > MAX_REQUEST_BYTES:
            return PlainTextResponse("the request is too long\n", 431, {"connection": "close"})
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return PlainTextResponse("requests must not have a body\n", 413, {"connection": "close"})
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this server answers only requests from this machine, sent to localhost\n", 421)
        if self._token is None or request.url.path == "/healthz":
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _equal(bearer.strip(), self._token):
            return None
        if _equal(_cookie(headers.get("cookie", ""), self._cookie), self._session):
            return None if "token" not in request.query_params else _without_token(request)
        if _equal(request.query_params.get("token", ""), self._token):
            redirect = _without_token(request)
            redirect.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return redirect
        challenge = {"www-authenticate": 'Bearer realm="edge-tracker"'}
        if "text/html" in headers.get("accept", ""):
            return HTMLResponse(SIGN_IN, 401, challenge)
        return PlainTextResponse("a token is required: Authorization: Bearer TOKEN\n", 401, challenge)


def _equal(given: str, right: str) -> bool:
    """True if both are equal; takes the same time wherever they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


def _host_of(header: str) -> str:
    """The name in a Host header, without the port."""
    name = header.rpartition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
    return name.lower()


def _cookie(header: str, name: str) -> str:
    """The value of a cookie in a Cookie header; empty without one."""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _without_token(request: Request) -> RedirectResponse:
    """A redirect to the same path without the query, which holds the token."""
    # One leading slash: browsers take two for the start of a host name.
    return RedirectResponse(quote("/" + request.url.path.lstrip("/\\")), 303)
