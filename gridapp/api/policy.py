"""Policies: who may call a route. Each route has exactly one, as a dependency; a test sees to it."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Depends, Request

from gridcore.errors import Denied


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule on callers. The API only reads; `local` ones serve callers on this host alone."""

    name: str
    local: bool = False

    def __call__(self, request: Request) -> None:
        """Raises Denied."""
        caller = request.client.host if request.client else ""
        if self.local and caller not in ("127.0.0.1", "::1", "testclient"):
            raise Denied(
                f"{self.name} is served to this host only", hint="ask from the host tierflow runs on"
            )


#: Anybody who reaches the port: the page, its files and whether we live.
ANYONE = Policy("the page")
#: What the database holds; read-only. Users with accounts of their own come with the remote API.
READER = Policy("the API")
#: Counters of this process.
SCRAPER = Policy("the metrics", local=True)

anyone = Depends(ANYONE)
reader = Depends(READER)
scraper = Depends(SCRAPER)
