"""Who may ask the server, and how much at once: a token, the host's name, and the size of a request."""

import base64
import binascii
import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = "/health"  # asked by what watches over the server, without a token
# Nothing from elsewhere, though Gradio's page needs scripts and styles of its own inside the page.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own, which no other machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI app in front of another: it refuses what may not pass, and bounds what may.

    With a token, every request but /health carries it, as `Authorization: Bearer TOKEN` or as the password that a
    browser asks for (any user name). Without one, the Host must be this machine's own, so that no page from elsewhere
    can have a browser ask in its name.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_bytes: int):
        self.app, self.token, self.max_bytes = app, token, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        seen_bytes = 0

        async def bounded() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > self.max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, bounded, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.max_bytes:
            return _refused(413, self._too_large)
        if self.token is None:
            host = headers.get("host", "").rsplit(":", 1)[0] if "]" not in headers.get("host", "") else "[::1]"
            return None if is_loopback(host) else _refused(421, f"found the host {host!r}, expected 127.0.0.1")
        if scope["path"] == _OPEN or hmac.compare_digest(_password(headers).encode(), self.token.encode()):
            return None
        refusal = _refused(401, "found no valid token, expected the server's: Authorization: Bearer TOKEN")
        refusal.headers["www-authenticate"] = 'Basic realm="emo_ray: any name, the token as password", Bearer'
        return refusal

    @property
    def _too_large(self) -> str:
        return f"found more than serve.max_mb={self.max_bytes / 2**20:g} MiB, expected a shorter clip"


def _password(headers: Headers) -> str:
    """The token that a request carries; empty where it has none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status)
