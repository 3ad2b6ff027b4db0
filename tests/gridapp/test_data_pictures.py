"""Pictures of the data half and how its pages write values: pure functions."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridapp.web import charts, data_charts, data_pages
from gridapp.web.rendering import due, linked, static

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


def test_of_a_large_grid_only_trouble_and_traffic_is_drawn() -> None:
    calm = [way("a", "b")] * charts.DRAWN
    busy = [way("a", "b", active=n) for n in range(1, charts.DRAWN + 1)]
    assert charts.drawn(calm) == calm
    found = charts.drawn([*calm, *busy, way("c", "d", "PARKED")])
    assert [one["state"] for one in found[:2]] == ["PARKED", "OPEN"]
    assert [one["active"] for one in found[1:]] == list(range(charts.DRAWN, 1, -1))


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


# --- the hours ---------------------------------------------------------------------------------------


def hour(n: int, rate: float, bad: int) -> dict[str, Any]:
    begin = f"2026-03-{1 + n // 24:02}T{n % 24:02}:00:00.000Z"
    return {"hour": begin, "rate": rate, "bytes_ok": int(rate * 3600), "files_ok": 7, "files_bad": bad}


@given(st.lists(st.tuples(st.floats(0, 1e12), st.integers(0, 10**6)), min_size=1, max_size=48))
def test_bars_of_hours_stay_within_the_picture(values: list[tuple[float, int]]) -> None:
    rows = [hour(n, rate, bad) for n, (rate, bad) in enumerate(values)]
    picture = ElementTree.fromstring(data_charts.rates(rows))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    boxes = [one.attrib for one in picture.iter("rect")]
    assert len(boxes) == 2 * len(rows)
    for box in boxes:
        assert 0 <= float(box["x"]) <= float(box["x"]) + float(box["width"]) <= width
        assert 0 <= float(box["y"]) <= float(box["y"]) + float(box["height"]) <= height


def test_the_picture_of_hours_is_told_in_words() -> None:
    picture = ElementTree.fromstring(data_charts.rates([hour(11, 1e6, 2), hour(12, 2e6, 0)]))
    assert picture.attrib["aria-label"] == "10.8 GB moved; most at 12:00 UTC with 2 MB/s; 2 copies failed"
    assert [one.text for one in picture.iter("text")] == ["2 MB/s", "1 MB/s", "12:00"]
    titles = [one.text for one in picture.iter("title")]
    assert titles[0] == "11:00 UTC: 3.6 GB, 1 MB/s, 7 good, 2 failed"


def test_moments_are_told_from_now() -> None:
    now = "2026-03-01T12:00:00.000Z"
    assert due("2026-03-01T12:12:00.000Z", now) == "in 12 min (12:12)"
    assert due("2026-03-04T12:12:00.000Z", now) == "in 3 days (2026-03-04 12:12)"
    assert due("2026-03-01T11:55:00.000Z", now) == "5 min ago"


def test_files_of_the_pages_have_another_address_once_they_change() -> None:
    name, _, digest = static("page.css").partition("?")
    assert name == "/static/page.css"
    assert len(digest) == 8


def test_a_storage_without_a_limit_is_drawn_to_the_fullest_of_its_like() -> None:
    one = {"space_bytes": None, "used": 50, "free": None, "complete": 50, "arriving": 0}
    bar = ElementTree.fromstring(data_charts.space_bar({**one, "leaving": 0, "transit": 0}, "half", 100))
    assert (bar.attrib["class"], float(bar[1].attrib["width"])) == ("bar nolimit", 50)
