"""The pages of the data half: with rows, without any, with hostile names, and by which statements."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient
from full_grid import EVENTS, SCRIPT, START, full_grid
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, event, select, update

from catalogs.tables import block, dataset, dataset_history, dataset_meta, link, se
from datamgmt.deletion_states import DeletionState
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, deletion, link_bin, subscription, transfer_error
from gridapp.api.app import create_app
from gridapp.insights import dashboards, deletions, spaces
from gridapp.web import data_charts, data_pages
from gridapp.web.rendering import PAGES, linked
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
    assert "likely by 2026-03-01 12:00, nearly surely by 2026-03-01 12:00 UTC" in text
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
    address = "/data/deletions"
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


# --- statements --------------------------------------------------------------------------------------


def plan_of(database: Database, question: Callable[..., object], *args: Any) -> str:
    """What SQLite does for the statements of a question, one step a line."""
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, sql: str, binds: Any, context: Any, many: bool) -> None:
        seen.append((sql, binds))

    with database.snapshot() as conn:
        event.listen(conn, "before_cursor_execute", note)
        question(conn, *args)
        event.remove(conn, "before_cursor_execute", note)
        rows = [
            one for sql, binds in seen for one in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", binds)
        ]
    return "\n".join(row.detail for row in rows if "json_each" not in row.detail)


#: Tables that grow with what is stored or moved.
GROWING = (
    *("block_dest", "block_replica", "holding", "deletion", "link_bin", "block", "dataset", "transfer"),
    *("data_file", "file_exception", "subscription_history"),
)


@pytest.mark.parametrize(
    ("question", "args", "counted"),
    [
        (dashboards.deliveries, (), ("subscription",)),
        (dashboards.deliveries, (2**60, "heavy"), ("subscription",)),
        (dashboards.deliveries_of, (1,), ()),
        (dashboards.quality, (START,), ()),
        (deletions.page, (), ("deletion",)),
        (spaces.spaces, (), ()),
    ],
)
def test_no_page_reads_all_of_what_grows(
    database: Database, question: Callable[..., object], args: tuple[Any, ...], counted: tuple[str, ...]
) -> None:
    """But for the states of subscriptions and deletions, counted over an index."""
    steps = plan_of(database, question, *args)
    assert steps
    for step in steps.splitlines():
        scanned = re.match(r"SCAN (\w+)(?! USING (?:COVERING )?INDEX| USING INTEGER)", step)
        assert not (scanned and scanned[1] in GROWING and scanned[1] not in counted), step


def test_what_waits_is_told_of_the_first_ones_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.snapshot() as conn:
        whole = dashboards.deliveries(conn)["groups"][0]["list"][0]["waits"]
        wanted = conn.execute(select(block_dest.c.block_id)).all()
        monkeypatch.setattr(dashboards, "WAITING", 1)
        first = dashboards.deliveries(conn)["groups"][0]["list"][0]["waits"]
    assert sum(one["n"] for one in whole) == len(wanted)
    assert sum(one["n"] for one in first) == 1
    assert all(one["sentence"] for one in whole)


# --- pure --------------------------------------------------------------------------------------------

ACTIVE, COMPLETE = SubscriptionState.ACTIVE, SubscriptionState.COMPLETE


@pytest.mark.parametrize(
    ("state", "done", "whole", "percent"),
    [
        (ACTIVE, (1, 50), (2, 100), 50.0),
        (ACTIVE, (2, 100), (2, 100), 99.9),
        (ACTIVE, (1, 0), (2, 0), 50.0),
        (ACTIVE, (0, 0), (0, 0), 0.0),
        (ACTIVE, (5, 50), None, None),
        (COMPLETE, (5, 50), None, 100.0),
    ],
)
def test_percent(
    state: SubscriptionState, done: tuple[int, int], whole: tuple[int, int] | None, percent: float | None
) -> None:
    assert dashboards._percent(state, done, whole) == percent


@pytest.mark.parametrize(
    ("good", "bad", "percent"), [(1, 0, 100.0), (9999, 1, 99.9), (1, 9999, 0.1), (0, 3, 0.0), (2, 1, 66.7)]
)
def test_good_and_bad_are_never_told_as_all_or_nothing(good: int, bad: int, percent: float) -> None:
    assert dashboards._good(good, bad) == percent


BYTES = st.integers(0, 10**16)


@given(st.none() | BYTES, BYTES, BYTES, BYTES, BYTES)
def test_a_bar_of_space_never_overflows(
    limit: int | None, complete: int, arriving: int, leaving: int, transit: int
) -> None:
    used = complete + arriving + leaving
    one = {"space_bytes": limit, "used": used, "free": None if limit is None else limit - used}
    parts = {"complete": complete, "arriving": arriving, "leaving": leaving, "transit": transit}
    bar = ElementTree.fromstring(data_charts.space_bar({**one, **parts}, "<told>"))
    assert bar.attrib["aria-label"] == "<told>"
    assert ("over" in bar.attrib["class"]) == (limit is not None and used > limit)
    for piece in bar[1:]:
        left, width = float(piece.attrib["x"]), float(piece.attrib["width"])
        assert left >= -0.01
        assert left + width <= 100.01


@pytest.mark.parametrize(
    ("percent", "width", "kind"),
    [(0, 0, "bar"), (40.5, 40.5, "bar"), (100, 100, "bar over"), (130, 100, "bar over")],
)
def test_a_limit_reached_is_framed(percent: float, width: float, kind: str) -> None:
    bar = ElementTree.fromstring(data_charts.used_bar(percent, "a<b"))
    assert (bar.attrib["class"], float(bar[1].attrib["width"])) == (kind, width)
    assert bar.attrib["aria-label"] == f"a<b: {percent:g} % used"


def site(name: str, *states: str) -> dict[str, Any]:
    storage = [{"name": f"{name}_{n}", "state": state} for n, state in enumerate(states)]
    return {"name": name, "tier": int(name[1]), "state": "ENABLED", "storage": storage, "endpoints": []}


def way(src: str, dst: str, state: str = "OPEN", active: int = 0) -> dict[str, Any]:
    return {"src": src, "dst": dst, "state": state, "active": active, "rate_mb_s": 2.0, "queued": 3}


def test_the_picture_joins_sites_by_their_worst_link() -> None:
    sites = [site("T0_A", "ENABLED"), site("T1_B", "ENABLED", "ENABLED"), site("T2_<C>", "DISABLED")]
    links = [
        *(way("T0_A_0", "T1_B_0"), way("T1_B_0", "T0_A_0", "PARKED"), way("T1_B_0", "T1_B_1")),
        *(way("T1_B_0", "T2_<C>_0", active=2), way("T0_A_0", "gone")),
    ]
    picture = data_charts.fabric(sites, links)
    drawn = [one.attrib["class"] for one in ElementTree.fromstring(picture)]
    assert drawn == ["link l-parked", "link l-open busy", "node", "node", "node off"]
    assert "T2_&lt;C&gt;" in picture
    assert "4 MB/s" in picture
    assert ElementTree.fromstring(data_charts.fabric([], [])).tag == "svg"


@given(st.integers(1, 70))
def test_no_two_sites_of_the_picture_overlap(n: int) -> None:
    sites = [site("T0_A"), *(site(f"T2_{number:03}") for number in range(n))]
    picture = ElementTree.fromstring(data_charts.fabric(sites, []))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    boxes = [
        (float(box.attrib["x"]), float(box.attrib["y"]))
        for node in picture
        for box in node
        if "rx" in box.attrib
    ]
    assert len(set(boxes)) == n + 1
    for x, y in boxes:
        assert 0 <= x <= width - data_charts.NODE_W
        assert 0 <= y <= height - data_charts.NODE_H
    for number, (x, y) in enumerate(boxes):
        for a, b in boxes[:number]:
            assert abs(x - a) >= data_charts.NODE_W or abs(y - b) >= data_charts.NODE_H


def test_grades_and_addresses() -> None:
    assert [data_charts.grade(n) for n in (100, 99, 98.9, 90, 50, 49.9, 0)] == [
        *("good", "good", "fair", "fair", "poor", "bad", "bad"),
    ]
    assert linked("/data", group="a&b", before=None) == "/data?group=a%26b"
    order = [way("a", "b"), way("c", "d", "PARKED"), way("e", "f", active=9)]
    found = data_pages.by_need([{**one, "files_bad": 0} for one in order])
    assert [one["src"] for one in found] == ["c", "e", "a"]
