"""Importing files that lie on storage: all is checked first, and the same import again does the rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from agents.runtime.agent import Context
from catalogs import bookkeeping, discovery, listing, location, registration, sites
from catalogs.tables import data_file, dataset
from datamgmt.tools.fake import FakeTool
from gridapp import importing
from gridapp.importing import Import, Listed
from gridapp.walking import Walked
from gridcore.bus import MemoryBus
from gridcore.clock import FakeClock
from gridcore.db import Database, dbnow, insert_rows
from gridcore.db.keys import Keys
from gridcore.errors import Conflict, Denied, NotFound, UsageError
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.settings import load
from gridcore.tables import heartbeat

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RAW, DST, AOD, NTUP = (f"/MinBias/v1/{tier}" for tier in ("RAW", "DST", "AOD", "NTUP"))
OPS = Principal("ops", roles={EVERYWHERE: frozenset([Role.OPERATOR])})
ANN = Principal("ann", frozenset(["heavy"]), {"heavy": frozenset([Role.USER])})
RULES = {
    "lfn-to-pfn": [{"protocol": "direct", "path-match": "/+store/(.*)", "result": "/data/$1"}],
    "pfn-to-lfn": [{"protocol": "direct", "path-match": "/data/(.*)", "result": "/store/$1"}],
}


class Desk:
    """A catalogue with one storage element, and somebody who imports."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.keys = Keys(database)
        self.root = root
        self.tool = FakeTool()
        self.told: list[str] = []
        self.context = Context(
            database=database,
            keys=self.keys,
            settings=load(environ={}),
            bus=MemoryBus(),
            clock=FakeClock(NOW),
            instance="0123456789abcdef",
        )
        site = sites.Site(id=1, name="T1_DE_Alder", tier=1)
        self.element = sites.StorageElement(
            id=1, name="Alder", site_id=1, kind="disk", protocol="direct", tfc=sites.tfc_text(RULES)
        )
        database.transaction(lambda conn: (sites.put_site(conn, site), sites.put_se(conn, self.element)))

    def list_of(self, *rows: dict[str, Any]) -> Listed:
        path = self.root / "list.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Listed(path)

    def run(
        self, source: Any, dataset: str | None = RAW, *, actor: Principal = OPS, dry_run: bool = False
    ) -> dict[str, Any]:
        wanted = Import(source=source, se="Alder", dataset=dataset, actor=actor, dry_run=dry_run)
        return importing.run(self.context, wanted, self.told.append)

    def read(self, act: Any, *args: Any) -> Any:
        with self.database.snapshot() as conn:
            return act(conn, *args)

    def files(self) -> int:
        return int(
            self.read(lambda conn: conn.execute(select(func.count()).select_from(data_file)).scalar_one())
        )

    def datasets(self) -> list[str]:
        return list(
            self.read(
                lambda conn: conn.execute(select(dataset.c.name).order_by(dataset.c.id)).scalars().all()
            )
        )

    def walk(self, prefix: str = "/store/new") -> Walked:
        return Walked(self.tool, self.element, prefix)


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path)


def file(number: int, **said: Any) -> dict[str, Any]:
    return {"lfn": f"/store/raw/f{number}.root", "bytes": 10 + number, "adler32": f"{number:08x}", **said}


def test_a_list_is_registered_once(desk: Desk) -> None:
    rows = [file(n, events=5, runs={"7": [[n, n]]}) for n in range(5)]
    planned = desk.run(desk.list_of(*rows), dry_run=True)
    assert (desk.files(), desk.datasets()) == (0, [])
    done = desk.run(desk.list_of(*rows))
    assert planned == done
    assert done == {
        "se": "Alder",
        "datasets": [RAW],
        "files": 5,
        "bytes": 60,
        "new": 5,
        "known": 0,
        "left_out": 0,
    }
    at = desk.read(location.where_file, "/store/raw/f3.root")
    assert (at.bytes, at.adler32, at.events, [copy.se for copy in at.copies]) == (13, 3, 5, ["Alder"])
    again = desk.run(desk.list_of(*rows, file(5)))
    assert (again["new"], again["known"], desk.files()) == (1, 5, 6)
    assert desk.run(desk.list_of(*rows))["new"] == 0


def test_portions_are_transactions_and_the_rest_comes_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [file(n) for n in range(5)]
    gathered = listing.gathered
    monkeypatch.setattr(listing, "gathered", lambda lines: gathered(lines, 2))
    real, calls = registration.register, []

    def fail_third(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("pulled the plug")
        return real(*args)

    monkeypatch.setattr(registration, "register", fail_third)
    with pytest.raises(OSError, match="plug"):
        desk.run(desk.list_of(*rows))
    assert desk.files() == 4
    done = desk.run(desk.list_of(*rows))
    assert (done["new"], done["known"], desk.files()) == (1, 4, 5)
    assert len(calls) == 4  # what was there was not written again


def test_every_fault_is_told_with_its_line_and_nothing_is_written(desk: Desk) -> None:
    rows = [file(0), file(1, adler32="md5"), file(2, bytes=-1), file(3)]
    with pytest.raises(UsageError, match="line 2: its checksum is 'md5'") as caught:
        desk.run(desk.list_of(*rows))
    assert "line 3: its bytes are -1" in (caught.value.hint or "")
    assert "nothing was written" in (caught.value.hint or "")
    assert (desk.files(), desk.datasets()) == (0, [])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([file(0), file(1), file(0, bytes=99)], "line 3: /store/raw/f0.root is given at line 1"),
        ([file(0), file(9, bytes=1)], "line 2: /store/raw/f9.root is already registered with 19 bytes"),
        (
            [file(0, dataset=DST), file(9, dataset=DST)],
            "line 2: /store/raw/f9.root is already a file of dataset",
        ),
        (
            [file(0, parents=["/store/raw/f1.root"]), file(1)],
            "line 1: its parent /store/raw/f1.root is neither",
        ),
        ([file(0, dataset=DST), file(0, dataset=AOD)], "line 2: /store/raw/f0.root was given before"),
        ([file(0), {**file(1), "lfn": "/store/raw/../f"}], "line 2: '/store/raw/../f' is no LFN"),
        ([], "there is no file in"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(desk: Desk, rows: list[dict[str, Any]], says: str) -> None:
    desk.run(desk.list_of(file(9)))
    with pytest.raises(UsageError) as caught:
        desk.run(desk.list_of(*rows))
    assert says in caught.value.message
    assert desk.files() == 1


@pytest.mark.slow
def test_the_planner_is_told_of_a_large_import(
    postgres_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(postgres_db, tmp_path)
    monkeypatch.setattr(importing, "MANY", 5)
    desk.run(desk.list_of(*(file(n) for n in range(5))))
    told = text("SELECT count(*) FROM pg_stats WHERE tablename = 'data_file' AND attname = 'block_id'")
    assert desk.read(lambda conn: conn.execute(told).scalar_one()) == 1


def test_each_fault_has_a_line_of_its_own(desk: Desk) -> None:
    with pytest.raises(UsageError) as caught:
        desk.run(desk.list_of(file(0, bytes=-1), file(1, adler32=None), file(2)))
    assert caught.value.message.startswith("line 1: its bytes are -1")
    assert caught.value.hint == (
        "line 2: it has no checksum: adler32, or checksum as adler32:...\nnothing was written"
    )


def test_a_name_without_pfn_is_refused(desk: Desk) -> None:
    rules = {
        **RULES,
        "lfn-to-pfn": [{"protocol": "direct", "path-match": "/+store/raw/(.*)", "result": "/d/$1"}],
    }
    desk.element = sites.StorageElement(
        id=1, name="Alder", site_id=1, kind="disk", protocol="direct", tfc=sites.tfc_text(rules)
    )
    desk.database.transaction(lambda conn: sites.put_se(conn, desk.element))
    with pytest.raises(UsageError, match=r"line 2: .*/store/other/x' has no PFN"):
        desk.run(desk.list_of(file(0), {**file(1), "lfn": "/store/other/x"}))
    assert desk.files() == 0


def test_a_dataset_must_be_named_be_open_and_be_ones_own(desk: Desk) -> None:
    with pytest.raises(UsageError, match="it names no dataset"):
        desk.run(desk.list_of(file(0)), None)
    with pytest.raises(UsageError, match="no dataset name"):
        desk.run(desk.list_of(file(0)), "RAW")
    with pytest.raises(Denied, match="may not import a dataset"):
        desk.run(desk.list_of(file(0)), actor=ANN)
    wanted = Import(source=desk.list_of(file(0)), se="Birch", dataset=RAW, actor=OPS)
    with pytest.raises(NotFound, match="no storage element"):
        importing.run(desk.context, wanted, desk.told.append)
    with pytest.raises(UsageError, match="cannot be read"):
        desk.run(Listed(desk.root / "none"))
    assert desk.datasets() == []
    desk.run(desk.list_of(file(0)))
    key = desk.read(discovery.dataset_named, RAW).id
    desk.database.transaction(lambda conn: bookkeeping.close_dataset(conn, key, "ann", NOW))
    assert desk.run(desk.list_of(file(0)))["known"] == 1
    with pytest.raises(Conflict, match="is closed and gets no further file"):
        desk.run(desk.list_of(file(0), file(1)))
    assert desk.files() == 1


# --- parents -----------------------------------------------------------------------------------------------


def test_parents_may_be_registered_or_listed_before(desk: Desk) -> None:
    desk.run(desk.list_of(file(0)))
    rows = [
        file(1, dataset=RAW),
        file(2, dataset=DST, parents=["/store/raw/f0.root", "/store/raw/f1.root"]),
        file(3, dataset=DST, parents=["/store/raw/f2.root"]),
    ]
    done = desk.run(desk.list_of(*rows))
    assert done["datasets"] == [DST, RAW]
    assert desk.read(discovery.file_show, "/store/raw/f2.root").parents == (
        "/store/raw/f0.root",
        "/store/raw/f1.root",
    )
    assert desk.read(discovery.dataset_show, DST).parents == (RAW,)
    assert desk.read(discovery.dataset_show, RAW).children == (DST,)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_datasets_made_from_each_other_are_refused(desk: Desk, length: int) -> None:
    """Whatever part of the circle is there already."""
    circle = (RAW, DST, AOD, NTUP)[:length]
    for there in range(length - 1):
        first = [file(10 * there + n, dataset=circle[n]) for n in range(length)]
        closing = [
            file(100 * (there + 1) + n, dataset=circle[n], parents=[first[(n + 1) % length]["lfn"]])
            for n in range(length)
        ]
        desk.run(desk.list_of(*first, *closing[:there]))
        before = desk.files()
        with pytest.raises(Conflict, match="made from itself"):
            desk.run(desk.list_of(*closing[there:]))
        assert desk.files() == before


# --- walking -----------------------------------------------------------------------------------------------


def test_what_lies_there_is_walked_and_read_once(desk: Desk) -> None:
    for number in range(3):
        desk.tool.put(f"/data/new/d{number}/x.root", 100, number)
    desk.tool.put("/data/old/y.root", 100, 7)
    done = desk.run(desk.walk())
    assert (done["files"], done["new"], done["bytes"]) == (3, 3, 300)
    assert desk.read(location.where_file, "/store/new/d2/x.root").adler32 == 2
    desk.tool.put("/data/new/d9/x.root", 50, 9)
    read: list[str] = []
    real = desk.tool.checksum
    desk.tool.checksum = lambda pfn: read.append(pfn) or real(pfn)  # type: ignore[method-assign,func-returns-value]
    assert desk.run(desk.walk("/data/new"))["new"] == 1
    assert read == ["/data/new/d9/x.root"]


def test_what_is_written_meanwhile_is_left_out(desk: Desk) -> None:
    desk.tool.put("/data/new/a.root", 100, 1)
    desk.tool.put("/data/new/b.root", 100, 2)
    real = desk.tool.checksum

    def grow(pfn: str) -> int:
        found = real(pfn)
        if pfn.endswith("a.root"):
            desk.tool.put(pfn, 200, 3)
        return found

    desk.tool.checksum = grow  # type: ignore[method-assign]
    done = desk.run(desk.walk())
    assert (done["new"], done["left_out"], desk.files()) == (1, 1, 1)
    desk.tool.checksum = real  # type: ignore[method-assign]
    assert desk.run(desk.walk())["new"] == 1
    desk.tool.put("/data/new/a.root", 300, 4)
    with pytest.raises(UsageError, match="already registered with 200 bytes"):
        desk.run(desk.walk())


@pytest.mark.parametrize("pfn", ["/data/new/.hidden", "/data/new/a b", "/data/new/x..root"])
def test_names_that_are_none_are_told(desk: Desk, pfn: str) -> None:
    desk.tool.put("/data/new/a.root", 100, 1)
    desk.tool.put(pfn, 100, 1)
    with pytest.raises(UsageError, match=r"is no LFN|leads through"):
        desk.run(desk.walk())
    assert (desk.files(), desk.datasets()) == (0, [])


def test_files_keep_their_dataset(desk: Desk) -> None:
    """One that is registered in another dataset stays there."""
    desk.run(desk.list_of({"lfn": "/store/new/a.root", "bytes": 100, "adler32": "00000001"}), DST)
    desk.tool.put("/data/new/a.root", 100, 1)
    with pytest.raises(UsageError, match=f"already a file of dataset {DST}"):
        desk.run(desk.walk())


# --- beside agents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "rests"), [("running", True), ("stopped", False), (None, False)])
def test_it_rests_while_agents_work_on_the_same_file(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, rests: bool
) -> None:
    desk = Desk(sqlite_db, tmp_path)
    naps: list[float] = []
    monkeypatch.setattr(importing.time, "sleep", naps.append)
    if state is not None:
        now = desk.read(dbnow)
        beat = {"agent": "router", "owner": "router@oak:1.1", "host": "oak", "pid": 1, "state": state}
        times = {"started_at": now, "beat_at": now, "progress_at": now}
        row = {**beat, **times, "cycles": 1, "counts": {}, "note": None}
        sqlite_db.transaction(lambda conn: insert_rows(conn, heartbeat, [row]))
    desk.run(desk.list_of(file(0), file(1)))
    assert bool(naps) == rests
