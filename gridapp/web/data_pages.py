"""The pages of the data half: deliveries, datasets, transfers, links, sites, deletions. They only read."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from catalogs.finding import FIELDS
from datamgmt.deletion_states import DeletionState
from datamgmt.subscription_states import SubscriptionState
from gridapp.api.policy import reader
from gridapp.api.routes import NAME_MAX, ask
from gridapp.insights import blocks, dashboards, datasets, finding, spaces, topology, traffic
from gridapp.insights import deletions as deletion_rows
from gridapp.insights import transfers as transfer_rows
from gridapp.insights.values import KEY_MAX, iso, state_of
from gridapp.web.rendering import is_fragment, page
from gridcore.db import dbnow
from gridcore.errors import UsageError
from gridcore.selectors import LENGTH_MAX

#: Rows of a page; links listed, trouble and traffic first; queues and errors beside pictures.
PAGE, LINKS_SHOWN, QUEUES_SHOWN, ERRORS_SHOWN = 50, 300, 60, 60
#: After how many seconds a page is refreshed: what changes slowly less often.
OFTEN_S = 5
REFRESHED = {"datasets": 60, "dataset": 20, "transfers": 20, "deletions": 20, "sites": 10}
#: Asks for every state, where none asks for what is under way.
ANY = "all"
#: What the search shows before anything was asked.
ALL = "dataset=*"

Before = Annotated[int, Query(ge=0, le=KEY_MAX)]
Name = Annotated[str, Query(max_length=NAME_MAX)]
State = Annotated[str | None, Query(max_length=20)]

S = TypeVar("S", bound=StrEnum)

router = APIRouter(include_in_schema=False, prefix="/data")


def _shown(request: Request, name: str, title: str, status: int = 200, **values: Any) -> Response:
    """The page of that name, or only what of it is refreshed."""
    query = f"?{request.url.query}" if request.url.query else ""
    if is_fragment(request):
        return page(f"{name}.html", **values)
    frame: dict[str, Any] = {"part": f"{name}.html", "title": title, "at_url": f"{request.url.path}{query}"}
    frame["every_s"] = REFRESHED.get(name, OFTEN_S)
    return page("data_page.html", status, here=request.url.path, **frame, **values)


@router.get("", dependencies=[reader])
def deliveries(
    request: Request,
    group: Annotated[str | None, Query(max_length=60)] = None,
    state: State = None,
    before: Before = KEY_MAX,
) -> Response:
    """Subscriptions by group: how much of each is there, when it will be, what it waits for, and for whom."""
    states = _states(SubscriptionState, state)
    seen = ask(request, dashboards.deliveries, before, group or None, states)
    return _shown(request, "deliveries", "deliveries", seen=seen, group=group or None, state=state)


@router.get("/datasets", dependencies=[reader])
def find(
    request: Request, q: Annotated[str, Query(max_length=LENGTH_MAX)] = "", after: Name = ""
) -> Response:
    """Datasets that a query means; a query that means nothing is told on the page."""
    fault: UsageError | None = None
    found: dict[str, Any] = {"datasets": [], "after": None, "left_out": 0}
    try:
        found = ask(request, finding.find, q.strip() or ALL, after, PAGE)
    except UsageError as error:
        fault = error
    status = 422 if fault else 200
    return _shown(
        request, "datasets", "datasets", status, q=q, fault=fault, found=found, after=after, fields=FIELDS
    )


@router.get("/dataset", dependencies=[reader])
def dataset(request: Request, name: Name, after: Before = 0) -> Response:
    """One dataset: facts, where it is, who wants it, its blocks, what was changed."""

    def question(conn: Connection) -> dict[str, Any]:
        one = datasets.facts(conn, "/" + name.lstrip("/"))
        listed = blocks.blocks(conn, one["name"], after, PAGE + 1)
        return {
            "at": iso(dbnow(conn)),
            "one": one,
            "wanted": dashboards.deliveries_of(conn, one["id"]),
            "blocks": listed[:PAGE],
            "next": listed[PAGE - 1]["id"] if len(listed) > PAGE else None,
            "history": datasets.history(conn, one["name"], PAGE),
        }

    return _shown(request, "dataset", name, **ask(request, question))


@router.get("/transfers", dependencies=[reader])
def transfers(request: Request) -> Response:
    """What links moved and how well they work, what queues on them, the last errors with their owners."""

    def question(conn: Connection) -> dict[str, Any]:
        links = by_need(topology.links(conn))
        return {"now": dbnow(conn), "links": links, "errors": last(transfer_rows.errors(conn))}

    seen = ask(request, question)
    now = seen.pop("now")
    # Each in a snapshot of its own: of many links there are many bins.
    hours, quality = ask(request, traffic.hours, now), ask(request, traffic.quality, now)
    return _shown(
        request,
        "transfers",
        "transfers",
        at=iso(now),
        hours=hours,
        quality=quality,
        shown=QUEUES_SHOWN,
        **seen,
    )


@router.get("/links", dependencies=[reader])
def links(request: Request) -> Response:
    """The grid as a picture, and all its links."""

    def question(conn: Connection) -> dict[str, Any]:
        return {
            "at": iso(dbnow(conn)),
            "sites": topology.sites(conn),
            "links": by_need(topology.links(conn)),
            "shown": LINKS_SHOWN,
        }

    return _shown(request, "links", "links", **ask(request, question))


@router.get("/sites", dependencies=[reader])
def sites(request: Request) -> Response:
    """The space of every storage element, and what groups may keep where."""

    def question(conn: Connection) -> dict[str, Any]:
        rows = spaces.spaces(conn)
        return {"at": iso(dbnow(conn)), "spaces": rows, "quotas": spaces.group_quotas(conn)}

    return _shown(request, "sites", "sites", **ask(request, question))


@router.get("/deletions", dependencies=[reader])
def deletions(request: Request, state: State = None, before: Before = KEY_MAX) -> Response:
    """Replicas that somebody wants away, and how far that is."""
    states = _states(DeletionState, state)
    seen = ask(request, deletion_rows.page, before, states)
    return _shown(request, "deletions", "deletions", seen=seen, state=state)


def _states(kind: type[S], state: str | None) -> Sequence[S] | None:
    """The state that is named, or every one; None for those under way. Raises UsageError."""
    return state_of(kind, None if state == ANY else state) if state else None


def last(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest errors by link and class. Pure."""
    return sorted(errors, key=lambda one: one["last_at"], reverse=True)[:ERRORS_SHOWN]


def by_need(links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Links that are not open first, then the busy ones, then by name. Pure."""
    return sorted(
        links,
        key=lambda one: (
            one["state"] == "OPEN",
            -(one["queued"] + one["active"]),
            -one["files_bad"],
            one["src"],
            one["dst"],
        ),
    )
