"""What a topology says of data, space, pace, weights and quotas: read, applied, changed and exported."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from catalogs import sites, space
from datamgmt.tables import group_weight, link_use, transfer_error
from gridapp import quotas
from gridapp.apply import apply, export, plan, stored
from gridapp.topology.diff import Change, difference, settled
from gridapp.topology.items import GroupWeightItem, LinkItem, SpaceQuotaItem, StorageItem
from gridapp.topology.reader import GRID_FILE, Topology, read_topology
from gridapp.topology.writer import write_topology
from gridcore.clock import FakeClock
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.errors import UsageError
from gridcore.tables import audit_log, quota

NOW = FakeClock().now()
GRID = """
[[site]]
name = "T1_DE_Alder"

[[site]]
name = "T2_FR_Birch"

[[se]]
name = "Alder"
site = "T1_DE_Alder"
storage = "tfc/Alder.xml"
transit_bytes = 1000
space_bytes = 5000
delete_rate = 60

[[se]]
name = "Birch"
site = "T2_FR_Birch"
storage = "tfc/Birch.xml"

[[link]]
src = "Alder"
dst = "Birch"
window_max = 20
rate_cap = 1.5e6
local = true

[[link]]
src = "Birch"
dst = "Alder"

[[share]]
group = "physics/higgs"
target = 1

[[share]]
group = "physics"
target = 1

[[account]]
name = "ann"
login = "*"
groups = ["top"]
roles = { "*" = ["operator"] }

[[group_weight]]
group = "higgs"
weight = 3

[[space_quota]]
site = "T2_FR_Birch"
group = "top"
bytes = 700
"""
RULE = '<lfn-to-pfn protocol="local" path-match="^/store/(.*)$" result="/{name}/$1"/>'


def write(directory: Path, text: str = GRID) -> Path:
    (directory / "tfc").mkdir(parents=True, exist_ok=True)
    for name in ("Alder", "Birch"):
        rule = RULE.format(name=name)
        (directory / f"tfc/{name}.xml").write_text(f"<storage-mapping>{rule}</storage-mapping>")
    (directory / GRID_FILE).write_text(text)
    return directory


def put(database: Database, topology: Topology, *, prune: bool = False) -> list[Change]:
    return apply(database, Keys(database), topology, "ann", prune, NOW)


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return read_topology(write(tmp_path), {})


def edited(tmp_path: Path, old: str, new: str) -> Topology:
    assert old in GRID
    return read_topology(write(tmp_path, GRID.replace(old, new, 1)), {})


def limits(database: Database) -> dict[str, tuple[int, int]]:
    """{owner: (limit, used)}."""
    with database.snapshot() as conn:
        return {row.owner: (row.limit_value, row.used_value) for row in conn.execute(select(quota))}


# --- what is read and written ------------------------------------------------------------------------


def test_what_is_said_of_data_is_read(topology: Topology) -> None:
    alder, birch = topology.se["Alder"], topology.se["Birch"]
    assert (alder.space_bytes, alder.delete_rate, alder.transit_bytes) == (5000, 60, 1000)
    assert (birch.space_bytes, birch.delete_rate, birch.transit_bytes) == (None, None, 0)
    there, back = topology.link["Alder -> Birch"], topology.link["Birch -> Alder"]
    assert (there.window_max, there.rate_cap, there.local) == (20, 1.5e6, True)
    assert (back.window_max, back.rate_cap, back.local) == (None, None, False)
    assert topology.group_weight["higgs"].weight == 3
    assert topology.space_quota["T2_FR_Birch:top"].bytes == 700


AMOUNTS = st.none() | st.integers(1, 10**9)
BYTES = st.integers(0, 2**63 - 1)
RATES = st.floats(min_value=1e-3, max_value=1e15, allow_nan=False)
GROUPS = ("physics", "higgs", "top", "ann")
SITES = ("T1_DE_Alder", "T2_FR_Birch")


@st.composite
def storages(draw: st.DrawFn, old: StorageItem) -> StorageItem:
    space_bytes = draw(st.none() | BYTES)
    transit = draw(st.integers(0, 2**63 - 1 if space_bytes is None else space_bytes))
    values = {"space_bytes": space_bytes, "transit_bytes": transit, "delete_rate": draw(AMOUNTS)}
    return _with(old, **values)


@st.composite
def links(draw: st.DrawFn, old: LinkItem) -> LinkItem:
    cap = draw(st.none() | RATES)
    return _with(old, window_max=draw(AMOUNTS), rate_cap=cap, local=draw(st.booleans()))


def _with(item: Any, **values: Any) -> Any:
    names = item.__dataclass_fields__
    return type(item)(**{**{name: getattr(item, name) for name in names}, **values})


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """The grid above with other figures."""
    with TemporaryDirectory() as name:
        old = read_topology(write(Path(name)), {})
    weights = draw(st.dictionaries(st.sampled_from(GROUPS), RATES.map(lambda one: min(one, 1e6))))
    held = draw(st.dictionaries(st.tuples(st.sampled_from(SITES), st.sampled_from(GROUPS)), BYTES))
    quota_items = [SpaceQuotaItem(site=at, group=group, bytes=n) for (at, group), n in held.items()]
    kinds: dict[str, Any] = {
        **old.kinds(),
        "se": {name: draw(storages(one)) for name, one in old.se.items()},
        "link": {name: draw(links(one)) for name, one in old.link.items()},
        "group_weight": {group: GroupWeightItem(group=group, weight=n) for group, n in weights.items()},
        "space_quota": {one.name: one for one in quota_items},
    }
    return Topology(**kinds)


@given(topologies())
def test_whatever_is_written_reads_back(topology: Topology) -> None:
    with TemporaryDirectory() as name:
        write_topology(topology, Path(name) / "out")
        again = read_topology(Path(name) / "out", {})
    assert again == topology
    assert again.digest() == topology.digest()
    assert difference(settled(topology, topology), settled(again, topology), True) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("transit_bytes = 1000", "transit_bytes = 6000", r"se\.1: .*6000 is more than space_bytes 5000"),
        ("delete_rate = 60", "delete_rate = 0", r"se\.1\.delete_rate"),
        ("space_bytes = 5000", "space_bytes = -1", r"se\.1\.space_bytes"),
        ("space_bytes = 5000", f"space_bytes = {2**63}", r"se\.1\.space_bytes"),
        ("window_max = 20", "window_max = 0", r"link\.1\.window_max"),
        ("window_max = 20", "window_max = 1.5", r"link\.1\.window_max"),
        ("rate_cap = 1.5e6", "rate_cap = 0", r"link\.1\.rate_cap"),
        ("rate_cap = 1.5e6", "rate_cap = inf", r"link\.1\.rate_cap"),
        ("local = true", 'local = "sometimes"', r"link\.1\.local"),
        ('group = "higgs"', 'group = "higs"', r"group_weight\.1\.group: .*mean higgs"),
        ("weight = 3", "weight = 0", r"group_weight\.1\.weight"),
        ('group = "top"', 'group = "bottom"', r"space_quota\.1\.group: there is no group 'bottom'"),
        (
            'site = "T2_FR_Birch"\ngroup',
            'site = "T2_FR_Brich"\ngroup',
            r"space_quota\.1\.site: .*T2_FR_Birch",
        ),
        ("bytes = 700", "bytes = -7", r"space_quota\.1\.bytes"),
        ("bytes = 700", 'bytes = "7 TB"', r"space_quota\.1\.bytes"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        edited(tmp_path, old, new)
    line = f"{caught.value.message}; {caught.value.hint}"
    assert re.search(told, line), line


def test_a_quota_comes_once(tmp_path: Path) -> None:
    more = '[[space_quota]]\nsite = "T2_FR_Birch"\ngroup = "top"\nbytes = 1\n\n[[space_quota]]'
    with pytest.raises(UsageError, match=r"'T2_FR_Birch:top' is there already"):
        edited(tmp_path, "[[space_quota]]", more)


# --- what is applied ---------------------------------------------------------------------------------


def test_all_of_it_is_applied_and_exported(database: Database, topology: Topology, tmp_path: Path) -> None:
    with database.snapshot() as conn:
        planned = plan(conn, topology, False)
    assert put(database, topology) == planned
    with database.snapshot() as conn:
        rooms = {one.name: space.read(conn)[one.id].limit for one in sites.storage_elements(conn)}
        rates = {one.name: one.delete_rate for one in sites.storage_elements(conn)}
        (way,) = [one for one in sites.links(conn) if one.local]
        export(conn, tmp_path / "out")
        again = read_topology(tmp_path / "out", {})
        assert again == stored(conn)
        assert plan(conn, again, True) == []
    assert rooms == {"Alder": 5000, "Birch": None}
    assert rates == {"Alder": 60, "Birch": None}
    assert (way.window_max, way.rate_cap) == (20, 1.5e6)
    assert limits(database) == {
        "transit:Alder": (1000, 0),
        "transit:Birch": (0, 0),
        "space:T2_FR_Birch:top": (700, 0),
    }
    assert put(database, again, prune=True) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("space_bytes = 5000\n", "", Change("se", "Alder", "change", "space_bytes: 5000 -> none")),
        ("delete_rate = 60", "delete_rate = 7", Change("se", "Alder", "change", "delete_rate: 60 -> 7")),
        (
            "window_max = 20\nrate_cap = 1.5e6\nlocal = true\n",
            "",
            Change(
                "link",
                "Alder -> Birch",
                "change",
                "local: true -> false; rate_cap: 1500000 -> none; window_max: 20 -> none",
            ),
        ),
        ("weight = 3", "weight = 0.5", Change("group_weight", "higgs", "change", "weight: 3 -> 0.5")),
        (
            "bytes = 700",
            "bytes = 800",
            Change("space_quota", "T2_FR_Birch:top", "change", "bytes: 700 -> 800"),
        ),
    ],
)
def test_a_change_is_told_made_and_audited(
    database: Database, topology: Topology, tmp_path: Path, old: str, new: str, told: Change
) -> None:
    put(database, topology)
    other = edited(tmp_path, old, new)
    with database.snapshot() as conn:
        assert plan(conn, other, True) == [told]
    assert put(database, other, prune=True) == [told]
    with database.snapshot() as conn:
        assert stored(conn) == settled(other, stored(conn))
        noted = conn.execute(select(audit_log).order_by(audit_log.c.seq.desc()).limit(1)).one()
    assert (noted.verb, noted.subject) == ("apply: change", f"{told.kind} {told.name}")
    assert noted.detail == {"change": told.detail}


def test_a_lower_quota_forgets_nothing_that_is_used(
    database: Database, topology: Topology, tmp_path: Path
) -> None:
    put(database, topology)
    used = update(quota).where(quota.c.owner == "space:T2_FR_Birch:top").values(used_value=650)
    database.transaction(lambda conn: conn.execute(used))
    put(database, edited(tmp_path, "bytes = 700", "bytes = 600"))
    assert limits(database)["space:T2_FR_Birch:top"] == (600, 650)
    with database.snapshot() as conn:
        (one,) = quotas.of_space(conn)
    assert (one.site, one.group, one.limit, one.used) == ("T2_FR_Birch", "top", 600, 650)
    database.transaction(lambda conn: conn.execute(used.values(used_value=0)))


def test_what_the_files_do_not_name_goes_only_when_asked(
    database: Database, topology: Topology, tmp_path: Path
) -> None:
    put(database, topology)
    text = GRID.partition("[[group_weight]]")[0]
    less = read_topology(write(tmp_path, text), {})
    assert put(database, less) == []
    gone = [(one.action, one.kind, one.name) for one in put(database, less, prune=True)]
    assert gone == [("remove", "space_quota", "T2_FR_Birch:top"), ("remove", "group_weight", "higgs")]
    assert set(limits(database)) == {"transit:Alder", "transit:Birch"}
    with database.snapshot() as conn:
        assert conn.execute(select(group_weight)).all() == []


def test_what_was_measured_on_a_link_goes_with_it(
    database: Database, topology: Topology, tmp_path: Path
) -> None:
    put(database, topology)
    with database.snapshot() as conn:
        ids = {one.local: one.id for one in sites.links(conn)}
    error = {
        "error_class": "TIMEOUT",
        "n": 1,
        "first_at": NOW,
        "last_at": NOW,
        "sample": "x",
        "file_id": None,
    }
    use = {"acct_group": "higgs", "used": 1.0, "at": NOW}
    for table, row in ((transfer_error, error), (link_use, use)):
        rows = [{"link_id": key, **row} for key in ids.values()]
        database.transaction(lambda conn, table=table, rows=rows: insert_rows(conn, table, rows))  # type: ignore[misc]
    less = edited(tmp_path, '[[link]]\nsrc = "Birch"\ndst = "Alder"\n', "")
    assert [one.name for one in put(database, less, prune=True)] == ["Birch -> Alder"]
    with database.snapshot() as conn:
        for table in (transfer_error, link_use):
            assert list(conn.execute(select(table.c.link_id)).scalars()) == [ids[True]]
