"""The guard: who may ask the server at all, and what a browser may do with its answers."""

import ipaddress
import json
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # whose address would hold the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. Nothing here allows another origin to read one."""
LONGEST = 500
"""How many characters a path may have; ours are short."""


class Json(Response):
    """JSON in ASCII: a token may be half a character, which UTF-8 can't write."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Its bytes; no NaN."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def sentence(said: str, status: int) -> Json:
    """An answer that says what is wrong."""
    return Json({"said": said}, status, {"Retry-After": "2"} if status == 503 else None)


@dataclass(frozen=True)
class Hosts:
    """The names under which the server may be asked: a page elsewhere can have a name of its own lead here.

    >>> hosts = Hosts("127.0.0.1", 8000)
    >>> [host in hosts for host in ("localhost:8000", "127.0.0.1:8000", "localhost:80", "evil.example:8000")]
    [True, True, False, False]

    Where it listens to all networks, that is any address in numbers, which nobody can have lead elsewhere.
    """

    host: str
    port: int

    def __contains__(self, header: str) -> bool:
        header = header.lower()
        name = header.removesuffix(f":{self.port}")
        if name == header and self.port != 80:  # which goes without saying
            return False
        if name in ("127.0.0.1", "localhost", "[::1]", _bracketed(self.host.lower())):
            return True
        return self.host in ("0.0.0.0", "::") and _in_numbers(name)


class Guard:
    """Lets those in who have the token, ask under a name that is ours, and change things from our own page only.

    The token is the first part of every path. It is compared in constant time, and taken off the path.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Hosts):
        self._app, self._token, self._hosts = app, token.encode(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        token, slash, rest = scope["path"].removeprefix("/").partition("/")
        refused = self._refused(scope, token if slash else "")
        if refused is not None:
            await refused(scope, receive, guarded)
            return
        await self._app({**scope, "path": f"/{rest}"}, receive, guarded)

    def _refused(self, scope: Scope, token: str) -> Json | None:
        headers = Headers(scope=scope)
        host, origin = headers.getlist("host"), headers.get("origin")
        if len(host) != 1 or host[0] not in self._hosts:
            return sentence("This server is not asked under that name; use the address that it printed.", 421)
        if not secrets.compare_digest(token.encode(errors="replace"), self._token):
            return sentence("The address lacks the token; use the whole address that clearhead serve printed.", 403)
        if len(scope["path"]) > LONGEST:
            return sentence(f"The address is too long: it may have {LONGEST} characters.", 414)
        if scope["method"] not in ("GET", "HEAD") and origin not in (None, f"http://{host[0]}"):
            return sentence("This was asked from a page of somebody else, and is refused.", 403)
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _in_numbers(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
