"""What stands before every page: who may come, from where, with how much, and what a browser may do with the answer.

Forged requests from another site are told by what browsers say of them (Sec-Fetch-Site, else Origin; OWASP's cheat
sheet on cross-site request forgery, "fetch metadata") and by a secret in every form; a program that is no browser sends
none of these headers. A name that leads here but is none of ours is refused, against DNS rebinding.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detect.web.settings import MIB, WebSettings

SESSION, PASS = "smear_session", "smear_pass"  # cookies: a form's secret hangs on the first, the second shows the token
_SAFE = {"GET", "HEAD", "OPTIONS"}
_OPEN = ("/login", "/static/", "/api/health")  # what is shown to whoever has no token
_SLOW, _LEAST = 60.0, 16 * 1024  # seconds without a byte of an upload; bytes a second that it brings at least
_SMALL = 1  # MiB of whatever is no upload
_UPLOADS = ("/uploads", "/api/uploads")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The report of a run brings its style and its pictures within itself, and runs nothing.
_REPORT = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; sandbox"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class _TooLargeError(Exception):
    """More was sent than is taken."""


class Guard:
    """An ASGI layer around the page."""

    def __init__(self, app: ASGIApp, settings: WebSettings, secret: bytes) -> None:
        self._app, self._settings, self._secret = app, settings, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path, fresh = scope["path"], ""
        cookies = _cookies(headers)
        session = cookies.get(SESSION, "")
        if not session:
            session = fresh = secrets.token_urlsafe(24)
        scope.setdefault("state", {})["form_secret"] = self.form_secret(session)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    told.setdefault(name, value)
                report = path.startswith("/uploads/") and path.endswith("/report")
                told.setdefault("Content-Security-Policy", _REPORT if report else _POLICY)
                if fresh:
                    told.append("Set-Cookie", f"{SESSION}={fresh}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        refused = self._refused(scope, headers, cookies)
        if refused is not None:
            await refused(scope, receive, answer)
            return
        try:
            await self._app(scope, self._counted(receive, self._most(scope)), answer)
        except _TooLargeError:
            await self._too_large(scope)(scope, receive, answer)
        except TimeoutError:
            told = {"error": "it came too slowly", "where": None, "remedy": "send it again, or less of it at once"}
            await JSONResponse(told, 408, {"Connection": "close"})(scope, receive, answer)

    def _most(self, scope: Scope) -> int:
        """Bytes that a request may bring."""
        return (self._settings.upload_mib if scope["path"] in _UPLOADS else _SMALL) * MIB

    def _too_large(self, scope: Scope) -> JSONResponse:
        what = f"more than {self._most(scope) // MIB} MiB in one request"
        told = {"error": what, "where": None, "remedy": "send it in several uploads"}
        return JSONResponse(told, 413, {"Connection": "close"})

    def form_secret(self, session: str) -> str:
        """What every form of a session has to bring."""
        return hmac.new(self._secret, session.encode(), hashlib.sha256).hexdigest()

    def _refused(self, scope: Scope, headers: Headers, cookies: dict[str, str]) -> Any:
        """The answer to a request that is not let through; None where it is."""
        host = _host(f"//{headers.get('host', '')}")
        if self._settings.hosts and host not in {h.strip("[]").casefold() for h in self._settings.hosts}:
            return PlainTextResponse("this page does not answer to that name; see smear web --name", 421)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most(scope):
            return self._too_large(scope)
        shown = headers.get("authorization", "").removeprefix("Bearer ").strip()
        token = self._settings.token
        by_header = bool(token) and hmac.compare_digest(shown.encode(), token.encode())
        if scope["method"] not in _SAFE and not by_header and not _own(headers):
            told = {"error": "the request comes from another site", "where": None, "remedy": "open the page itself"}
            return JSONResponse(told, 403)
        if not token or by_header or scope["path"].startswith(_OPEN):
            return None
        if hmac.compare_digest(cookies.get(PASS, "").encode(), self.shown().encode()):
            return None
        if scope["path"].startswith("/api"):
            told = {"error": "no access token", "where": None, "remedy": "send Authorization: Bearer TOKEN"}
            return JSONResponse(told, 401, {"WWW-Authenticate": "Bearer"})
        return RedirectResponse(f"/login?to={quote(scope['path'])}", 303)

    def shown(self) -> str:
        """What the cookie holds of one who showed the token."""
        return hmac.new(self._secret, b"pass:" + self._settings.token.encode(), hashlib.sha256).hexdigest()

    def _counted(self, receive: Receive, most: int) -> Receive:
        """What is sent, as long as it is not too much, nor too slow."""
        came, whole, began = 0, False, time.monotonic()

        async def count() -> Message:
            nonlocal came, whole
            if whole:  # only that the visitor has gone can come now, and nobody has to go
                return await receive()
            left = _SLOW + came / _LEAST - (time.monotonic() - began)
            async with asyncio.timeout(min(_SLOW, max(0.0, left))):
                message = await receive()
            came += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if came > most:
                raise _TooLargeError
            return message

        return count


def _host(place: str) -> str:
    """The name of a host without its port; empty where it is none."""
    try:
        return (urlsplit(place).hostname or "").casefold()
    except ValueError:
        return ""


def _own(headers: Headers) -> bool:
    """Whether a request was made by a page of ours, or by no browser at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _cookies(headers: Headers) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: one.value for name, one in jar.items()}
