"""The live page and its charts: what they show, and that nothing stored becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient
from full_grid import EVENTS, SCRIPT, Names, full_grid
from hypothesis import given
from hypothesis import strategies as st

from gridapp.api.app import create_app
from gridapp.web import charts, pages, rendering
from gridcore.settings import load

FRAGMENT = {"hx-request": "true"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Names]]:
    with full_grid(tmp_path_factory.mktemp("grid")) as (database, names):
        app = create_app(SimpleNamespace(settings=load(environ={}), database=database))
        yield TestClient(app, base_url="http://127.0.0.1"), names


@pytest.fixture(scope="module")
def client(grid: tuple[TestClient, Names]) -> TestClient:
    return grid[0]


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_page_shows_the_grid(client: TestClient, grid: tuple[TestClient, Names]) -> None:
    page = client.get("/").text
    text = text_of(page)
    assert grid[1].generate in text
    assert "30 of 160 events 18.8 %" in text
    assert "6 ready" in text
    assert "Larch_Disk → Alder_Disk parked" in text
    assert "block_manager failing" in text
    assert "66.7 % 2 of 3 files" in text
    assert 'hx-get="/live" hx-trigger="every 2s"' in page


def test_the_page_tells_what_waits_for_somebody(client: TestClient, grid: tuple[TestClient, Names]) -> None:
    text = text_of(client.get("/live").text)
    assert (
        f"Waiting for somebody request {grid[1].request + 1}, pbpb submitted waits for the approval" in text
    )
    assert "Its turn: an approver." in text


def test_an_open_breaker_is_told_with_its_cure(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = pages.overview
    one = {"site": "T2_DE_Birch", "class": "stage_in", "state": "OPEN", "reason": f"9 of 9 {SCRIPT}"}
    monkeypatch.setattr(pages, "overview", lambda *args: {**seen(*args), "breakers": [one]})
    page = client.get("/live").text
    assert "breaker of stage in open 9 of 9" in text_of(page)
    assert "tierflow breaker reset T2_DE_Birch stage_in" in page
    assert 'class="pill b-open"' in page
    assert "<script>alert" not in page


def test_groups_at_sites_are_a_fragment_of_the_page(client: TestClient) -> None:
    fragment = client.get("/live?part=groups").text
    assert "<html" not in fragment
    assert fragment.strip() in client.get("/").text
    assert 'hx-get="/live?part=groups" hx-trigger="every 30s"' in client.get("/").text
    assert re.search(r"T2_DE_Birch heavy \d of 4 \d", text_of(fragment))


def test_more_groups_than_shown_are_counted(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"site": "T2", "group": "g", "site_slots": 4, "slots": 1, "running": 1, "waiting": 0}
    row |= {"response_s": None, "response": "unknown", "how": "unknown: it is <b>so</b>"}
    monkeypatch.setattr(pages, "views", lambda conn: [row] * (pages.GROUPS_SHOWN + 3))
    page = client.get("/live?part=groups").text
    assert "and 3 more: tierflow share views" in text_of(page)
    assert page.count('<th scope="row">') == pages.GROUPS_SHOWN
    assert "<b>" not in page


def test_the_page_works_without_scripts(client: TestClient) -> None:
    page = client.get("/").text
    assert '<noscript><meta http-equiv="refresh"' in page
    assert 'href="/why/sub:1"' in page


def test_the_fragment_is_the_page_without_its_frame(client: TestClient) -> None:
    live = client.get("/live").text
    assert "<html" not in live
    assert live.strip() in client.get("/").text


def test_what_was_stored_never_becomes_markup(client: TestClient, grid: tuple[TestClient, Names]) -> None:
    generate = grid[1].generate
    for path in ("/", "/live", f"/why/{generate}/5", f"/why/{generate}", "/why/sub:1", f"/why/{SCRIPT}"):
        for headers in ({}, FRAGMENT):
            page = client.get(path, headers=headers).text
            assert "<script>alert" not in page, path
            assert "alert(" in page, path


def test_no_inline_script_or_style_and_nothing_from_outside(client: TestClient) -> None:
    for path in ("/", "/why/sub:1", "/why/nobody"):
        page = client.get(path).text
        assert not re.search(r"<script(?![^>]*\ssrc=)", page)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
        addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert addresses
        assert all(re.match(r"/(?!/)|#main$", one) for one in addresses)
    assert "://" not in client.get("/static/page.css").text


def test_every_file_the_page_names_is_served(client: TestClient) -> None:
    for one in re.findall(r'(?:src|href)="(/static/[^"]*)"', client.get("/").text):
        answer = client.get(one)
        assert answer.status_code == 200
        assert answer.headers["cache-control"].startswith("public")
    assert client.get("/static/..%2Fpages.py").status_code == 404
    assert "Zero-Clause BSD" in client.get("/static/LICENSES.txt").text


def test_why_is_a_fragment_or_a_page(client: TestClient, grid: tuple[TestClient, Names]) -> None:
    path = f"/why/{grid[1].generate}/12"
    assert "<html" in client.get(path).text
    fragment = client.get(path, headers=FRAGMENT).text
    assert "<html" not in fragment
    assert "1 job of its class ahead" in fragment
    assert "the prodagent" in fragment
    assert client.get(f"/why/{EVENTS}@Alder_Disk").status_code == 200


def test_an_unknown_name_is_told_on_the_page(client: TestClient) -> None:
    page = client.get("/why/nobody")
    assert page.status_code == 404
    assert "there is no task nobody" in page.text
    fragment = client.get("/why/nobody", headers=FRAGMENT)
    assert fragment.status_code == 200  # htmx shows nothing else
    assert "<html" not in fragment.text


# --- charts ------------------------------------------------------------------------------------------


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@given(st.dictionaries(st.sampled_from(charts.JOB_STATES), st.integers(0, 10**6)), st.text(max_size=30))
def test_a_bar_is_full_whatever_it_counts(counts: dict[str, int], label: str) -> None:
    label = re.sub(r"[^\x20-\ud7ff]", "", label)
    bar = parsed(charts.stacked_bar(counts, label))
    widths = [float(one.attrib["width"]) for one in bar][1:]
    assert sum(widths) == pytest.approx(100 if any(counts.values()) else 0, abs=0.01)
    assert bar.attrib["aria-label"].startswith(label)


def test_a_bar_tells_its_numbers() -> None:
    bar = parsed(charts.stacked_bar({"DONE": 3, "FAILED": 1}, "jobs of t"))
    assert bar.attrib["aria-label"] == "jobs of t: 3 done, 1 failed"
    assert [one.attrib["class"] for one in bar] == ["s-none", "s-done", "s-failed"]
    assert "no jobs yet" in charts.stacked_bar({}, "t")


@pytest.mark.parametrize(
    ("percent", "width", "kind"), [(0, 0, "s-running"), (42.5, 42.5, "s-running"), (120, 100, "s-done")]
)
def test_progress(percent: float, width: float, kind: str) -> None:
    piece = list(parsed(charts.progress_bar(percent, "x")))[1]
    assert (float(piece.attrib["width"]), piece.attrib["class"]) == (width, kind)


def site(name: str, tier: int) -> dict[str, Any]:
    return {
        "name": name,
        "tier": tier,
        "state": "ENABLED",
        "storage": [{"name": f"{name}_d"}],
        "endpoints": [],
    }


def link(src: str, dst: str, state: str = "OPEN", active: int = 0) -> dict[str, Any]:
    shown = {"rate_mb_s": None, "files_ok": 1, "files_bad": 0, "last_error": None}
    return {"src": f"{src}_d", "dst": f"{dst}_d", "state": state, "active": active, **shown}


def test_the_topology_draws_sites_and_links_by_state() -> None:
    sites = [site("T0_X_A", 0), site("T1_X_B", 1), site("<T2>", 2)]
    links = [link("T0_X_A", "T1_X_B"), link("T1_X_B", "<T2>", "PARKED"), link("T1_X_B", "T0_X_A", active=2)]
    svg = charts.topology(sites, links)
    kinds = [one.attrib.get("class", "") for one in parsed(svg)]
    assert kinds == ["link l-open", "link l-parked", "link l-open busy", "node", "node", "node"]
    assert "&lt;T2&gt;" in svg
    assert parsed(svg).attrib["aria-label"] == "3 sites, 3 links, 1 of them not open"


def test_the_topology_of_nothing_and_of_links_to_nowhere() -> None:
    parsed(charts.topology([], []))
    assert "link l-" not in charts.topology([site("T0_X_A", 0)], [link("T0_X_A", "gone")])


def test_trouble_and_traffic_come_first() -> None:
    rows = [link("a", "b"), link("b", "c", "PARKED"), link("c", "d")]
    seen = {"links": rows, "transfers_by_link": [{"src": "c_d", "dst": "d_d", "files": {"QUEUED": 1}}]}
    assert [one["src"] for one in pages.link_rows(seen)] == ["b_d", "c_d", "a_d"]


def test_how_values_are_written() -> None:
    assert (rendering.number(12345), rendering.number(None)) == ("12,345", "n/a")
    assert rendering.clock("2026-03-01T12:21:05.000Z") == "12:21:05"
    assert rendering.address("a b/<x>") == "a%20b/%3Cx%3E"
