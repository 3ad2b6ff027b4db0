"""The REST API: a policy on every route, errors as JSON, hostile requests, and its server."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from full_grid import EVENTS, Names, full_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from gridapp.api.app import create_app, names_of
from gridapp.api.guard import LOOPBACK
from gridapp.api.policy import Policy
from gridapp.api.server import serve
from gridcore.db import Database
from gridcore.errors import UsageError
from gridcore.settings import Settings, load

URL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, Names]]:
    with full_grid(tmp_path_factory.mktemp("grid")) as (database, names):
        yield create_app(SimpleNamespace(settings=load(environ={}), database=database)), names


@pytest.fixture(scope="module")
def names(made: tuple[FastAPI, Names]) -> Names:
    return made[1]


@pytest.fixture(scope="module")
def client(made: tuple[FastAPI, Names]) -> TestClient:
    return TestClient(made[0], base_url=URL, raise_server_exceptions=False)


def routes_of(app: FastAPI) -> list[APIRoute]:
    """All routes, those of included routers as well."""
    found: list[Any] = []
    waiting: list[Any] = list(app.routes)
    while waiting:
        one = waiting.pop()
        inner = getattr(one, "original_router", None)
        if inner is not None:
            waiting += inner.routes
        else:
            found.append(one)
    return found


def test_every_route_has_exactly_one_policy(made: tuple[FastAPI, Names]) -> None:
    routes = routes_of(made[0])
    assert len(routes) > 20
    for route in routes:
        assert isinstance(route, APIRoute), f"{route} is no route of ours"
        policies = [one for one in route.dependencies if isinstance(one.dependency, Policy)]
        assert len(policies) == 1, f"{route.path} has {len(policies)} policies"
        assert route.methods == {"GET"}


@pytest.mark.parametrize(
    "path",
    [
        *("requests", "requests/1", "tasks", "tasks?state=active", "jobs", "jobs?state=FAILED&limit=5"),
        *("shares", "datasets", "datasets?pattern=*GEN", "subscriptions", "subscriptions/1", "transfers"),
        *("transfers?state=RETRY_WAIT", "links", "sites", "agents", "overview", "why/sub:1", "openapi.json"),
        *("transfers/queue", "transfers/quality?hours=9", "subscriptions?state=active"),
        "links/Larch_Disk/Alder_Disk",
        "tasks?unknown=1",
    ],
)
def test_all_questions_are_answered(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_the_page_of_the_api_names_every_route(made: tuple[FastAPI, Names]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rest-api.md").read_text()
    for route in routes_of(made[0]):
        shown = route.path.replace(":path}", "}")
        assert f"`{shown}`" in page, shown


def test_names_with_slashes_and_colons(client: TestClient, names: Names) -> None:
    assert client.get(f"/api/v1/tasks/{names.generate}").json()["name"] == names.generate
    for written in (f"{names.generate}/5", quote(f"{names.generate}/5", safe="")):
        assert client.get(f"/api/v1/jobs/{written}").json()["state"] == "FAILED"
    assert client.get("/api/v1/jobs", params={"task": names.generate, "limit": 3}).json()[2]["index"] == 3
    for written in (EVENTS, EVENTS[1:], quote(EVENTS, safe="")):
        assert client.get(f"/api/v1/datasets/{written}").json()["name"] == EVENTS
    assert client.get(f"/api/v1/why/{EVENTS}@Alder_Disk").json()["what"] == "sub:1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("tasks/nobody", 404), ("jobs/nobody", 422), ("jobs/nobody/1", 404), ("datasets/a/b/C", 404)),
        *(("requests/99", 404), ("requests/x", 422), (f"requests/{2**63}", 422), ("subscriptions/-1", 422)),
        *(("tasks?limit=0", 422), ("tasks?limit=100000", 422), ("tasks?state=BUSY", 422), ("nothing", 404)),
        *(("why/nobody", 404), ("jobs/%00", 400), ("datasets?pattern=%00", 400), ("tasks/" + "x" * 800, 422)),
        *(("tasks/" + "x" * 5000, 414),),
    ],
)
def test_bad_input_is_refused_with_a_cure(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "hint"}
    assert answer.json()["error"]


def test_near_names_are_offered(client: TestClient, names: Names) -> None:
    answer = client.get(f"/api/v1/tasks/{names.generate}x")
    assert names.generate in answer.json()["hint"]


KINDS = ("requests", "tasks", "jobs", "datasets", "subscriptions", "why", "transfers")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(["limit", "state", "task", "pattern", "x"]),
        st.text(max_size=20) | st.integers(),
        max_size=3,
    ),
)
def test_nothing_asked_makes_the_server_fail(
    client: TestClient, kind: str, name: str, query: dict[str, Any]
) -> None:
    written = quote(name, safe="", errors="surrogatepass")
    answer = client.get(f"/api/v1/{kind}/{written}" if name else f"/api/v1/{kind}", params=query)
    assert answer.status_code < 500, (answer.status_code, answer.text)


def test_security_headers_are_on_every_answer(client: TestClient) -> None:
    for path in ("/", "/api/v1/tasks", "/api/v1/tasks/nobody", "/static/page.css", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "localhost@x"]
)
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/v1/tasks", headers={"host": host})
    assert answer.status_code == 421
    assert "nosniff" in answer.headers["x-content-type-options"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:80", "LOCALHOST:1"])
def test_loopback_names_are_ours(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_a_server_bound_to_the_outside_answers_to_its_own_name() -> None:
    assert names_of("127.0.0.1") == LOOPBACK
    assert "grid.example.org" in names_of("grid.example.org")


def test_it_only_reads(client: TestClient) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert client.request(method, "/api/v1/tasks").status_code == 405


def test_metrics_show_the_database_and_are_for_this_host(
    made: tuple[FastAPI, Names], client: TestClient
) -> None:
    text = client.get("/metrics").text
    assert 'tierflow_jobs{state="READY"} 6.0' in text
    assert re.search(r"^tierflow_files_registered [1-9]", text, re.MULTILINE)
    elsewhere = TestClient(made[0], base_url=URL, client=("192.0.2.7", 1))
    assert elsewhere.get("/metrics").status_code == 403


def test_a_silent_database_is_said_so(made: tuple[FastAPI, Names], tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/missing/tierflow.db")
    app = create_app(SimpleNamespace(settings=Settings(), database=database))
    answer = TestClient(app, base_url=URL).get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["hint"]


def test_the_server_starts_on_a_free_port_and_stops_twice(made: tuple[FastAPI, Names]) -> None:
    handle, url = serve(made[0])
    try:
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        conn = http.client.HTTPConnection(host, int(port), timeout=60)
        conn.request("GET", "/healthz")
        assert json.loads(conn.getresponse().read()) == {"ok": True}
        with pytest.raises(UsageError, match="cannot listen"):
            serve(made[0], port=int(port))
    finally:
        handle.stop()
    handle.stop()
    assert not handle.alive
    conn.close()
