"""The HTTP server in a thread of its own: started on a free port, stopped within a second."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp

from gridcore.errors import UsageError

STARTED_S = 10.0
STOPPED_S = 1.0


class _Server(uvicorn.Server):
    """Tells when it serves; leaves signals to the process that owns the thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


@dataclass(slots=True)
class ServerThread:
    """A running server."""

    url: str
    _server: _Server
    _thread: threading.Thread
    _stopping: threading.Lock = field(default_factory=threading.Lock)

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish what is being answered, but for a second at most; harmless when repeated."""
        with self._stopping:
            self._server.should_exit = True
            self._thread.join(STOPPED_S / 2)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(STOPPED_S / 2)


def serve(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> tuple[ServerThread, str]:
    """(the server's handle, its URL), serving when this returns; port 0 takes a free one.

    Raises UsageError where the address is not to be had.
    """
    listener = _listen(host, port)
    bound = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=5,
        limit_concurrency=100,
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    if not server.serving.wait(STARTED_S):
        raise UsageError("the HTTP server does not start", hint="see the log")
    shown = f"[{host}]" if ":" in host else host
    handle = ServerThread(f"http://{shown}:{bound}/", server, thread)
    return handle, handle.url


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="set api.port = 0 for a free port, or another api.host",
        ) from None
    return listener
