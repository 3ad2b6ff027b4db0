"""The routes of /api/v1: each answers with what insights say, bounded and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from gridapp.api.policy import anyone, reader, scraper
from gridapp.insights import agents as agent_rows
from gridapp.insights import (
    blocks,
    datasets,
    deletions,
    deliveries,
    files,
    finding,
    gauges,
    overview,
    spaces,
    topology,
    transfers,
    work,
)
from gridapp.insights.values import KEY_MAX
from gridapp.insights.why import why
from gridcore import metrics
from gridcore.db import dbnow
from gridcore.selectors import LENGTH_MAX

LIMIT_MAX = 1000
NAME_MAX = 700
#: A week: bins are kept no longer than that is asked for.
HOURS_MAX = 168

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="rows at most")]
Key = Annotated[int, Path(ge=0, le=KEY_MAX)]
Name = Annotated[str, Path(max_length=NAME_MAX)]
Text = Annotated[str | None, Query(max_length=NAME_MAX)]

v1 = APIRouter(prefix="/api/v1")
health = APIRouter()


def ask(request: Request, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The answer to a question of insights, in a snapshot of its own."""
    with request.app.state.database.snapshot() as conn:
        return question(conn, *args, **kwargs)


def _answer(request: Request, question: Callable[..., Any], *args: Any, **kwargs: Any) -> JSONResponse:
    return JSONResponse(ask(request, question, *args, **kwargs))


@v1.get("/requests", dependencies=[reader])
def list_requests(request: Request, limit: Limit = 100) -> Response:
    """Requests, newest first."""
    return _answer(request, work.requests, limit)


@v1.get("/requests/{request_id}", dependencies=[reader])
def show_request(request: Request, request_id: Key) -> Response:
    """One request with its tasks."""
    return _answer(request, work.request, request_id)


@v1.get("/tasks", dependencies=[reader])
def list_tasks(request: Request, limit: Limit = 100, state: Text = None) -> Response:
    """Tasks, newest first."""
    return _answer(request, work.tasks, limit, state)


@v1.get("/tasks/{name:path}", dependencies=[reader])
def show_task(request: Request, name: Name) -> Response:
    """One task."""
    return _answer(request, work.task, name)


@v1.get("/jobs", dependencies=[reader])
def list_jobs(request: Request, task: Text = None, state: Text = None, limit: Limit = 100) -> Response:
    """Jobs of one task, or of all, newest first."""
    return _answer(request, work.jobs, task, state, limit)


@v1.get("/jobs/{name:path}", dependencies=[reader])
def show_job(request: Request, name: Name) -> Response:
    """One job, named TASK/17, with attempts, history and outputs."""
    return _answer(request, work.job, name)


@v1.get("/shares", dependencies=[reader])
def list_shares(request: Request) -> Response:
    """The share tree."""
    return _answer(request, work.shares)


@v1.get("/datasets", dependencies=[reader])
def list_datasets(
    request: Request, pattern: Annotated[str, Query(max_length=NAME_MAX)] = "*", limit: Limit = 100
) -> Response:
    """Datasets whose name fits the pattern, `*` standing for any text."""
    return _answer(request, datasets.datasets, pattern, limit)


@v1.get("/datasets/{name:path}", dependencies=[reader])
def show_dataset(request: Request, name: Name) -> Response:
    """One dataset, with or without the slash its name begins with."""
    return _answer(request, datasets.dataset, "/" + name.lstrip("/"))


@v1.get("/history/datasets/{name:path}", dependencies=[reader])
def list_changes(request: Request, name: Name, limit: Limit = 100) -> Response:
    """What was changed of a dataset, newest first."""
    return _answer(request, datasets.history, "/" + name.lstrip("/"), limit)


@v1.get("/blocks", dependencies=[reader])
def list_blocks(
    request: Request,
    dataset: Annotated[str, Query(max_length=NAME_MAX)],
    after: Annotated[int, Query(ge=0, le=KEY_MAX)] = 0,
    limit: Limit = 100,
) -> Response:
    """Blocks of a dataset by id, of those ids above `after`."""
    return _answer(request, blocks.blocks, dataset, after, limit)


@v1.get("/blocks/{name:path}", dependencies=[reader])
def show_block(request: Request, name: Name) -> Response:
    """One block by its name, whose `#` is written %23."""
    return _answer(request, blocks.block, "/" + name.lstrip("/"))


@v1.get("/files/{name:path}", dependencies=[reader])
def show_file(request: Request, name: Name) -> Response:
    """One file by its LFN, with or without its first slash."""
    return _answer(request, files.file, "/" + name.lstrip("/"))


@v1.get("/find/datasets", dependencies=[reader])
def find_datasets(
    request: Request,
    query: Annotated[str, Query(max_length=LENGTH_MAX)],
    after: Annotated[str, Query(max_length=NAME_MAX)] = "",
    limit: Limit = 100,
) -> Response:
    """Datasets that a query such as `tier=DST site=T1_*` means, by name, of those after a name."""
    return _answer(request, finding.find, query, after, limit)


@v1.get("/where/{name:path}", dependencies=[reader])
def show_where(request: Request, name: Name) -> Response:
    """Where a dataset is, or a file by its LFN, with or without the slash the name begins with."""
    return _answer(request, finding.where, "/" + name.lstrip("/"))


@v1.get("/subscriptions", dependencies=[reader])
def list_subscriptions(request: Request, state: Text = None, limit: Limit = 100) -> Response:
    """Subscriptions, newest first, in one state or any."""
    return _answer(request, deliveries.subscriptions, limit, state)


@v1.get("/subscriptions/{subscription_id}", dependencies=[reader])
def show_subscription(request: Request, subscription_id: Key) -> Response:
    """One subscription, block by block."""
    return _answer(request, deliveries.subscription, subscription_id)


@v1.get("/deletions", dependencies=[reader])
def list_deletions(request: Request, state: Text = None, limit: Limit = 100) -> Response:
    """Deletions asked for and under way, newest first; in a state, also those that have ended."""
    return _answer(request, deletions.deletions, limit, state)


@v1.get("/deletions/{deletion_id}", dependencies=[reader])
def show_deletion(request: Request, deletion_id: Key, limit: Limit = 100) -> Response:
    """All that was asked for with one deletion, replica by replica."""
    return _answer(request, deletions.deletion, deletion_id, limit)


@v1.get("/transfers", dependencies=[reader])
def list_transfers(request: Request, state: Text = None, limit: Limit = 100) -> Response:
    """Transfers of replicas that are not complete."""
    return _answer(request, transfers.transfers, state, limit)


@v1.get("/transfers/queue", dependencies=[reader])
def list_queues(request: Request) -> Response:
    """Links with files that wait or are under way, and how long that takes at their rates."""
    return _answer(request, transfers.queue)


@v1.get("/transfers/errors", dependencies=[reader])
def list_errors(request: Request) -> Response:
    """Errors by link and class, the most frequent first, with whose they are."""
    return _answer(request, transfers.errors)


@v1.get("/transfers/quality", dependencies=[reader])
def list_quality(request: Request, hours: Annotated[int, Query(ge=1, le=HOURS_MAX)] = 24) -> Response:
    """What ended in each hour on each link."""
    return _answer(request, transfers.quality, hours)


@v1.get("/links/{src}/{dst}", dependencies=[reader])
def show_link(request: Request, src: Name, dst: Name) -> Response:
    """One link by its ends."""
    return _answer(request, topology.link, src, dst)


@v1.get("/links", dependencies=[reader])
def list_links(request: Request) -> Response:
    """Links with what they have shown."""
    return _answer(request, topology.links)


@v1.get("/sites", dependencies=[reader])
def list_sites(request: Request) -> Response:
    """Sites with their storage elements and endpoints."""
    return _answer(request, topology.sites)


@v1.get("/sites/{name}", dependencies=[reader])
def show_site(request: Request, name: Name) -> Response:
    """One site: the space of its storage, its endpoints, and the quotas of groups."""
    return _answer(request, spaces.site, name)


@v1.get("/space", dependencies=[reader])
def list_space(request: Request, site: Text = None) -> Response:
    """Space by storage element, of all sites or of one: complete, arriving, leaving, in transit, free."""
    return _answer(request, spaces.spaces, site)


@v1.get("/quotas", dependencies=[reader])
def list_quotas(request: Request, site: Text = None) -> Response:
    """Quotas of space by site and group, of all sites or of one."""
    return _answer(request, spaces.group_quotas, site)


@v1.get("/sites/{name}/unique", dependencies=[reader])
def show_unique(request: Request, name: Name) -> Response:
    """By dataset, what has its only good copy at a site or storage element."""
    return _answer(request, finding.unique, name)


@v1.get("/sites/{name}/lose", dependencies=[reader])
def show_loss(request: Request, name: Name) -> Response:
    """What would be lost if a site or storage element died."""
    return _answer(request, finding.lose, name)


@v1.get("/agents", dependencies=[reader])
def list_agents(request: Request) -> Response:
    """Agents and their heartbeats."""
    return _answer(request, agent_rows.agents, request.app.state.heartbeat_s)


@v1.get("/overview", dependencies=[reader])
def show_overview(request: Request) -> Response:
    """All that the page shows."""
    return _answer(request, overview.overview, request.app.state.heartbeat_s)


@v1.get("/why/{what:path}", dependencies=[reader])
def show_why(request: Request, what: Name) -> Response:
    """Why a job, task, request, subscription, block, file, link or deletion is where it is."""
    return JSONResponse(explain(request, what))


@v1.get("/openapi.json", dependencies=[reader])
def show_openapi(request: Request) -> Response:
    """The description of these routes."""
    return JSONResponse(request.app.openapi())


@health.get("/healthz", dependencies=[anyone])
def healthz(request: Request) -> Response:
    """Whether the database answers."""
    return JSONResponse({"ok": ask(request, dbnow) is not None})


@health.get("/metrics", dependencies=[scraper])
def show_metrics(request: Request) -> Response:
    """Counters of this process and gauges of the database, for Prometheus."""
    for name, value, labels in ask(request, gauges.gauges):
        metrics.gauge(name, value, **labels)
    return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")


def explain(request: Request, what: str) -> dict[str, Any]:
    """The answer to why, for the API and the page."""

    def question(conn: Connection) -> dict[str, Any]:
        state = request.app.state
        return why(conn, what, dbnow(conn), state.heartbeat_s, state.most_jobs)

    answer: dict[str, Any] = ask(request, question)
    return answer
