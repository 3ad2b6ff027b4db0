"""The live page: rendered here, refreshed by the browser, and whole without any script."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gridapp.api.policy import anyone, reader
from gridapp.api.routes import ask, explain
from gridapp.insights.overview import overview
from gridapp.insights.views import views
from gridapp.web.rendering import STATIC, fragment_or_page, is_fragment, page
from gridcore.errors import GridError, NotFound

#: Addresses whose errors are shown as a page.
PREFIXES = ("/live", "/why/", "/data")
MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
#: Links shown, trouble and traffic first.
LINKS_SHOWN = 60
#: Rows of groups at sites shown.
GROUPS_SHOWN = 200

router = APIRouter(include_in_schema=False)


def _static() -> dict[str, tuple[bytes, str]]:
    files = sorted(STATIC.iterdir())
    return {one.name: (one.read_bytes(), MEDIA[one.suffix]) for one in files if one.suffix in MEDIA}


FILES = _static()


@router.get("/", dependencies=[reader])
def home(request: Request) -> Response:
    """The page."""
    return page("page.html", **_live(request), **_groups(request))


@router.get("/live", dependencies=[reader])
def live(request: Request, part: str | None = None) -> Response:
    """What the page refreshes; the part `groups`, which takes longer, less often."""
    if part == "groups":
        return page("groups.html", **_groups(request))
    return page("live.html", **_live(request))


@router.get("/why/{what:path}", dependencies=[reader])
def show_why(request: Request, what: str) -> Response:
    """Why something is where it is: a fragment for the page, or a page of its own."""
    return page(fragment_or_page(request, "why"), answer=explain(request, what))


@router.get("/static/{name}", dependencies=[anyone])
def static(name: str) -> Response:
    """A file of the page. Raises NotFound."""
    found = FILES.get(name)
    if found is None:
        raise NotFound(f"there is no file {name}")
    return Response(found[0], media_type=found[1], headers={"cache-control": "public, max-age=3600"})


def error_page(request: Request, error: GridError) -> Response:
    """An error where a page or a fragment was asked for. htmx shows a fragment only with status 200."""
    status = 200 if is_fragment(request) else error.http_status
    return page(fragment_or_page(request, "error"), status, error=error.message, hint=error.hint)


def _live(request: Request) -> dict[str, Any]:
    seen = ask(request, overview, request.app.state.heartbeat_s)
    moving: Counter[str] = Counter()
    for one in seen["transfers_by_link"]:
        moving.update(one["files"])
    return {"seen": seen, "moving": moving, "rows": link_rows(seen), "jobs": seen["jobs"]}


def _groups(request: Request) -> dict[str, Any]:
    found = ask(request, views)
    return {"groups": found[:GROUPS_SHOWN], "more_groups": max(0, len(found) - GROUPS_SHOWN)}


def link_rows(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Links with their transfers by state, those in trouble first, then the busy ones. Pure."""
    by_link = {(one["src"], one["dst"]): one["files"] for one in seen["transfers_by_link"]}
    rows = [{**one, "files": by_link.get((one["src"], one["dst"]), {})} for one in seen["links"]]
    rows.sort(key=lambda one: (one["state"] == "OPEN", not one["files"], -one["files_bad"], -one["files_ok"]))
    return rows[:LINKS_SHOWN]
