"""The pages of the data half: with rows, without any, with hostile names, and by which statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from full_grid import EVENTS, SCRIPT, START, full_grid
from sqlalchemy import Connection, event, select, update

from catalogs.tables import block, dataset, dataset_history, dataset_meta, link, se
from datamgmt.deletion_states import DeletionState
from datamgmt.tables import deletion, link_bin, subscription, transfer_error
from gridapp.api.app import create_app
from gridapp.insights import dashboards, deletions
from gridapp.web import data_pages
from gridapp.web.rendering import PAGES
from gridcore.db import Database, insert_rows
from gridcore.settings import load
from gridcore.tables import quota

FRAGMENT = {"hx-request": "true"}
DATA = [address for address, _ in PAGES if address != "/"]
ONE = f"/data/dataset?name={EVENTS}"


def client_of(database: Database) -> TestClient:
    app = create_app(SimpleNamespace(settings=load(environ={}), database=database))
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The grid in the middle of its work, and a bit of everything shown, hostile where it can be."""
    with full_grid(tmp_path_factory.mktemp("grid")) as (made, _):
        made.transaction(_more)
        yield made


def _more(conn: Connection) -> None:
    (dataset_id,) = conn.execute(select(dataset.c.id).where(dataset.c.name == EVENTS)).one()
    (way, dst) = conn.execute(select(link.c.id, link.c.dst_se_id).order_by(link.c.id).limit(1)).one()
    (block_id,) = conn.execute(select(block.c.id).order_by(block.c.id).limit(1)).one()
    bins = {"link_id": way, "files_ok": 95, "files_bad": 5, "bytes_ok": 10**9, "busy_s": 60.0}
    insert_rows(conn, link_bin, [{**bins, "bin_start": START + timedelta(minutes=5)}])
    error = {"link_id": way, "n": 7, "first_at": START, "last_at": START, "file_id": None}
    classes = ({"error_class": one, "sample": SCRIPT} for one in ("DEST_FULL", SCRIPT[:25]))
    insert_rows(conn, transfer_error, [{**error, **one} for one in classes])
    asked = {"block_id": block_id, "se_id": dst, "requester": SCRIPT, "acct_group": SCRIPT}
    times = {"created_at": START, "updated_at": START, "due_at": START, "decided_at": START}
    said = {"code": None, "params": None, "comments": SCRIPT, "decided_by": SCRIPT, "custodial_too": 1}
    rows = [
        {"id": 100 + n, "state": state, "ask_id": f"ask{n}", **asked, **times, **said}
        for n, state in enumerate(DeletionState)
    ]
    insert_rows(conn, deletion, rows)
    meta = {"dataset_id": dataset_id, "name": "generator", "num": None, "txt": SCRIPT}
    insert_rows(conn, dataset_meta, [meta])
    change = {"dataset_id": dataset_id, "at": START, "actor": SCRIPT, "change": "described"}
    insert_rows(conn, dataset_history, [{**change, "detail": {"was": SCRIPT}}])
    conn.execute(update(dataset).where(dataset.c.id == dataset_id).values(description=SCRIPT))
    conn.execute(update(subscription).values(comments=SCRIPT, eta_p50=START, eta_p90=START))
    conn.execute(update(se).where(se.c.id == dst).values(space_bytes=10))
    owner = f"space:T1_DE_Alder:{SCRIPT}"
    insert_rows(conn, quota, [{"id": 900, "owner": owner, "limit_value": 4, "used_value": 5}])


@pytest.fixture(scope="module")
def client(database: Database) -> TestClient:
    return client_of(database)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


# --- what is shown -----------------------------------------------------------------------------------


def test_deliveries_are_shown_by_group_with_what_they_wait_for(client: TestClient) -> None:
    text = text_of(client.get("/data").text)
    assert "1 active" in text
    assert f"{EVENTS} to Alder_Disk active" in text
    assert re.search(r"likely there (in \S+ \w+ \(12:00\)|\S+ \w+ ago), nearly surely", text)
    assert f"turn: {SCRIPT}" not in text
    assert re.search(r"\d block\w* \w+", text)
    group = re.search(r'<h2 id="h-1">(\S+)', client.get("/data").text)
    assert group
    only = client.get("/data", params={"group": group[1]}).text
    assert f"{EVENTS}" in only
    assert "Nothing is subscribed" in client.get("/data?group=nobody").text


def test_datasets_are_found_and_a_bad_query_is_told(client: TestClient) -> None:
    page = client.get("/data/datasets")
    assert page.status_code == 200
    assert f'href="/data/dataset?name={EVENTS.replace("/", "%2F")}"' in page.text
    found = client.get("/data/datasets", params={"q": "tier=NOSUCH"})
    assert "No dataset is like that" in found.text
    assert 'value="tier=NOSUCH"' in found.text
    bad = client.get("/data/datasets", params={"q": "tier>RAW"})
    assert bad.status_code == 422
    assert 'role="alert"' in bad.text
    assert 'value="tier&gt;RAW"' in bad.text


def test_a_dataset_is_shown_with_all_that_is_known(client: TestClient) -> None:
    text = text_of(client.get(ONE).text)
    for words in ("generator", "Where it is", "Who wants it", "described by", "Blocks", "Alder_Disk"):
        assert words in text, words
    assert client.get("/data/dataset", params={"name": EVENTS[1:]}).status_code == 200
    missing = client.get("/data/dataset?name=/MinBiasAuAu7/UrQMD-v1/GENE")
    assert missing.status_code == 404
    assert EVENTS in missing.text


def test_the_quality_of_links_is_text_as_well_as_colour(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_pages, "dbnow", lambda conn: START + timedelta(hours=1))
    page = client.get("/data/transfers").text
    assert re.search(r'<td class="q-fair"><b><a [^>]*>95</a></b><span>101</span></td>', page)
    assert {one["error_class"] for one in client.get("/api/v1/transfers/errors").json()} >= {"DEST_FULL"}
    assert re.search(r"dest full \S+ → \S+ destination 7 2026-03-01", text_of(page))
    monkeypatch.setattr(data_pages, "dbnow", lambda conn: START + timedelta(days=3))
    assert "Nothing was copied." in client.get("/data/transfers").text


def test_links_sites_and_deletions_are_shown(client: TestClient) -> None:
    links = client.get("/data/links").text
    assert "Larch_Disk → Alder_Disk parked" in text_of(links)
    assert 'class="fabric"' in links
    sites = client.get("/data/sites").text
    assert "free of 10 B" in text_of(sites)
    assert 'class="bar over"' in sites
    assert "-1 B" in sites
    gone = text_of(client.get("/data/deletions").text)
    for state in DeletionState:
        assert f"1 {state.lower()}" in gone
    only = client.get("/data/deletions?state=asked").text
    assert only.count('<th scope="row">') == 1
    assert client.get("/data/deletions?state=gone").status_code == 422


def test_long_lists_come_page_by_page(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    address = "/data/deletions?state=all"
    limited = deletions.page
    monkeypatch.setattr(deletions, "page", lambda *args: limited(*args, 3))
    for _ in range(3):
        page = client.get(address).text
        seen += re.findall(r'<span class="pill p-([a-z]+)', page)
        more = re.search(r'href="([^"]*)" rel="next"', page)
        address = more[1].replace("&amp;", "&") if more else ""
    assert sorted(seen) == sorted(state.lower() for state in DeletionState)
    assert address == ""


def test_blocks_and_datasets_have_next_pages(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_pages, "PAGE", 1)
    for address, row in (
        (ONE, 'scope="row"><a[^>]*>/MinBias[^<]*#'),
        ("/data/datasets", "/data/dataset\\?name="),
    ):
        names: list[str] = []
        at = address
        while at and len(names) < 50:
            page = client.get(at).text
            table = page[page.rindex("<tbody>") :]
            names += [text_of(one)[:90] for one in re.findall(rf"(?:{row})[^\n]*", table)][:1]
            more = re.search(r'href="([^"]*)" rel="next"', page)
            at = more[1].replace("&amp;", "&") if more else ""
        assert len(names) == len(set(names)) > 1, address


# --- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_what_was_stored_never_becomes_markup(client: TestClient, address: str) -> None:
    for headers in ({}, FRAGMENT):
        page = client.get(address, headers=headers).text
        assert "<script>alert" not in page
        assert "<script>" not in page
    if address not in ("/data/datasets", "/data/links"):
        assert "alert(" in page


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_a_page_is_whole_and_names_nothing_outside(client: TestClient, address: str) -> None:
    page = client.get(address).text
    assert not re.search(r"<script(?![^>]*\ssrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
    addresses = re.findall(r'(?:src|href|action|hx-get)="([^"]*)"', page)
    assert all(re.match(r"/(?!/)|#main$", one) for one in addresses), addresses
    assert page.count("<h1") == 1
    assert f'hx-get="{address}"' in page
    assert "<noscript>" in page
    shown = address.partition("?")[0]
    assert page.count('aria-current="page"') == (shown in DATA)


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_the_fragment_is_the_page_without_its_frame(
    client: TestClient, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (data_pages, dashboards):
        monkeypatch.setattr(module, "dbnow", lambda conn: START)
    fragment = client.get(address, headers=FRAGMENT)
    assert "<html" not in fragment.text
    assert fragment.headers["vary"] == "hx-request"
    assert fragment.text.strip() in client.get(address).text


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_tables_serve_keyboard_and_screen_reader(client: TestClient, address: str) -> None:
    page = client.get(address).text
    for table in re.findall(r"<table.*?</table>", page, re.S):
        assert "<caption" in table
        assert re.search(r'<th scope="col"', table)
        assert not re.search(r"<th(?! scope=|ead)", table)
    for region in re.findall(r'<div class="scroll"[^>]*>', page):
        assert 'tabindex="0"' in region
        label = re.search(r'aria-labelledby="([^"]*)"', region)
        assert label
        assert f'id="{label[1]}"' in page
    for picture in re.findall(r"<svg[^>]*>", page):
        assert 'role="img"' in picture
        assert re.search(r'aria-label="[^"]+', picture)


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_every_link_leads_somewhere(client: TestClient, address: str) -> None:
    page = client.get(address).text
    found = {one.replace("&amp;", "&") for one in re.findall(r'href="(/[^"]*)"', page)}
    for one in sorted(found):
        assert client.get(one).status_code == 200, one


@pytest.mark.parametrize("address", DATA)
def test_an_empty_grid_says_what_to_do(sqlite_db: Database, address: str) -> None:
    page = client_of(sqlite_db).get(address)
    assert page.status_code == 200
    assert 'class="empty' in page.text


@pytest.mark.parametrize("address", [*DATA, ONE])
def test_pages_only_read(database: Database, client: TestClient, address: str) -> None:
    """And by few statements, however much there is."""
    said: list[str] = []

    def note(conn: Any, cursor: Any, sql: str, *rest: Any) -> None:
        said.append(sql.lstrip().partition(" ")[0].upper())

    engines = (database._reader, database._writer)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    assert client.get(address).status_code == 200
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    assert "SELECT" in said
    assert not {"INSERT", "UPDATE", "DELETE"} & set(said)
    assert len(said) < 40


def test_a_name_too_long_or_a_key_too_large_is_refused(client: TestClient) -> None:
    for address in (f"/data?before={2**63}", "/data?before=x", f"/data/dataset?name=/{'x' * 800}/b/C"):
        refused = client.get(address)
        assert refused.status_code == 422
        assert "<h2>" in refused.text
    assert client.get(f"/data/datasets?q={'x' * 4500}").status_code == 414
