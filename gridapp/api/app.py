"""The HTTP application: the read-only API and the live page, with one policy per route."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gridapp.api import routes
from gridapp.api.guard import LOOPBACK, Guard
from gridapp.web import data_pages, pages
from gridcore.db import Database
from gridcore.errors import GridError, UsageError
from gridcore.settings import Settings

logger = logging.getLogger(__name__)


class Served(Protocol):
    """What the application asks of an installation."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...


def create_app(installation: Served, hosts: Collection[str] | None = None) -> FastAPI:
    """The application. `hosts`: the names it answers to, by default those of `api.host`."""
    app = FastAPI(title="Tierflow", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.database = installation.database
    app.state.heartbeat_s = installation.settings.lease.heartbeat_s
    app.state.most_jobs = installation.settings.work.max_jobs_per_task
    app.include_router(routes.v1)
    app.include_router(routes.health)
    app.include_router(pages.router)
    app.include_router(data_pages.router)
    app.add_middleware(Guard, hosts=hosts or names_of(installation.settings.api.host))
    app.exception_handler(GridError)(_grid_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_unexpected)
    return app


def names_of(host: str) -> frozenset[str]:
    """What a server bound to `host` is called: loopback names, and its own where it is bound to others."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return LOOPBACK
    shown = f"[{host}]" if ":" in host else host
    return LOOPBACK | {shown.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}


def _said(status: int, error: str, hint: str | None) -> JSONResponse:
    return JSONResponse({"error": error, "hint": hint}, status_code=status)


def _grid_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GridError)
    if request.url.path.startswith(pages.PREFIXES):
        return pages.error_page(request, error)
    return _said(error.http_status, error.message, error.hint)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(one) for one in first["loc"][1:])
    told = f"{where}: {first['msg']}"
    if request.url.path.startswith(pages.PREFIXES):
        return pages.error_page(request, UsageError(told, hint="go back, and follow the links of the page"))
    return _said(422, told, "see: /api/v1/openapi.json")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = "see: /api/v1/openapi.json" if error.status_code == 404 else None
    return _said(error.status_code, str(error.detail), hint)


def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _said(500, "something went wrong here", "its trace is in the log")
