"""The guard in front of the application: Host header, control characters, security headers."""

from __future__ import annotations

import json
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset(["127.0.0.1", "localhost", "[::1]"])
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_ENCODED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_CACHED = [pair for pair in _ENCODED if pair[0] != b"cache-control"]
#: Longer addresses are refused: no name of ours comes near.
TARGET_MAX = 4000


class Guard:
    """An ASGI application around another; `hosts` are the names a browser may call us by.

    Without the check, a page elsewhere whose name is rebound to 127.0.0.1 could read what we serve.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", [])}
                extra = _CACHED if b"cache-control" in given else _ENCODED
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        fault = self._fault(scope)
        if fault is None:
            await self._app(scope, receive, guarded)
        else:
            await _refuse(guarded, *fault)

    def _fault(self, scope: Scope) -> tuple[int, str, str] | None:
        """(status, error, hint) of a request that goes no further."""
        headers = [value for name, value in scope["headers"] if name == b"host"]
        if len(headers) != 1 or _name(headers[0].decode("latin-1")) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return 421, "this host does not answer to that name", f"it is called {names}"
        query = scope.get("query_string", b"")
        if len(scope["path"]) + len(query) > TARGET_MAX:
            return 414, "the address is too long", f"at most {TARGET_MAX} characters"
        if any(ord(char) < 32 or ord(char) == 127 for char in scope["path"]) or _controls(query):
            return 400, "the address holds control characters", "leave them out"
        return None


def _controls(query: bytes) -> bool:
    """Whether the query, once decoded, holds any of the first 32 characters; they are written %00 to %1F."""
    low = query.lower()
    return any(f"%{code:02x}".encode() in low for code in range(32)) or any(byte < 32 for byte in query)


def _name(host: str) -> str:
    """The host without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


async def _refuse(send: Send, status: int, error: str, hint: str) -> None:
    body = json.dumps({"error": error, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
