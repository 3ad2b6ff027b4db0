"""A catalogue for searches: rows in a database, and the same as facts for `gridcore.selectors.matches`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, event

from catalogs import tables
from gridcore.db import insert_rows
from gridcore.ids import split_lfn
from gridcore.selectors import Fact

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
#: {SE: its site}
PLACES = {
    "Alder_Disk": "T1_DE_Alder",
    "Alder_Tape": "T1_DE_Alder",
    "Birch_Disk": "T2_FI_Birch",
    "Cedar_Disk": "T2_UK_Cedar",
}
SES = {name: number for number, name in enumerate(PLACES, 1)}
SITES = {name: number for number, name in enumerate(dict.fromkeys(PLACES.values()), 1)}
#: Emptied in this order.
TABLES = (
    *(tables.file_run, tables.data_file, tables.dir_, tables.block_run, tables.holding),
    *(tables.block_replica, tables.block, tables.dataset_meta, tables.dataset_parent, tables.dataset),
    *(tables.se, tables.site),
)


@dataclass(frozen=True, slots=True)
class Block:
    """{LFN: [(run, first, last)]} and {SE: custodial} of its COMPLETE replicas."""

    files: Mapping[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    at: Mapping[str, bool] = field(default_factory=dict)
    closed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset; `split` says that the parts of its name are columns, as new code has it."""

    name: str
    access: str = "VALID"
    state: str = "OPEN"
    group: str | None = None
    bytes: int = 0
    events: int = 0
    age_s: int = 60
    split: bool = True
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


DATASETS = (
    Dataset(
        name="/MinBias/v1/RAW",
        access="INVALID",
        state="CLOSED",
        bytes=5_000_000,
        events=200,
        age_s=40 * 86400,
        metadata={"energy": 7.7, "collision": "AuAu", "trigger": "mb"},
        blocks=(
            Block(
                {"/store/raw/a/x.root": [(7, 1, 5), (7, 9, 9)], "/store/raw/a/y.dat": [(7, 12, 14)]},
                {"Alder_Tape": True, "Birch_Disk": False},
            ),
            Block({"/store/raw/a/b/x.root": [(8, 1, 3)]}, {"Alder_Tape": True}),
        ),
    ),
    Dataset(
        name="/MinBias/v1/DST",
        group="heavy",
        events=100,
        metadata={"energy": 7.7, "collision": "AuAu"},
        parents=("/MinBias/v1/RAW",),
        blocks=(
            Block({"/store/dst/a/x.root": [(7, 4, 4)]}, {"Alder_Disk": False, "Cedar_Disk": False}),
            Block({"/store/dst/a/z.root": [(9, 2, 8)]}, {"Alder_Tape": False}),
        ),
    ),
    Dataset(
        name="/MinBias/v1/AODSIM",
        parents=("/MinBias/v1/DST",),
        metadata={"energy": "high"},
        blocks=(
            Block({"/store/aod/x_1.root": [(7, 1, 20)]}, {"Birch_Disk": True}),
            Block({"/store/aod/x%1.root": []}, {"Birch_Disk": False}, closed=False),
        ),
    ),
    Dataset(name="/MinBias/v2/DST", access="DEPRECATED", parents=("/MinBias/v1/RAW", "/Min_Bias/v1/RAW")),
    Dataset(name="/Min_Bias/v1/RAW", split=False, age_s=3600, metadata={"energy": 200.0, "collision": "pp"}),
    Dataset(name="/Minibias/v1/RAW", access="PRODUCTION", blocks=(Block(closed=False),)),
    Dataset(
        name="/Hijing/A-1.2/DST",
        group="heavy",
        metadata={"energy": 8.0, "collision": "PbPb", "note": "50%"},
        blocks=(Block({}, {"Cedar_Disk": True}),),
    ),
    Dataset(name="/Hijing/a-1.2/DST", group="Heavy", bytes=10**15, age_s=0),
)


def fill(conn: Connection) -> None:
    """Everything, in rows; counters as registration keeps them."""
    named = {one.name: number for number, one in enumerate(DATASETS, 1)}
    for name, number in SITES.items():
        insert_rows(conn, tables.site, [{"id": number, "name": name, "tier": 1, "state": "ENABLED"}])
    disk = {"kind": "disk", "protocol": "direct", "tfc": {}, "state": "ENABLED"}
    for se, number in SES.items():
        insert_rows(conn, tables.se, [{"id": number, "name": se, "site_id": SITES[PLACES[se]], **disk}])
    insert_rows(conn, tables.dataset, [_row(one, named[one.name]) for one in DATASETS])
    for one in DATASETS:
        key = named[one.name]
        edges = [{"dataset_id": key, "parent_id": named[parent]} for parent in one.parents]
        insert_rows(conn, tables.dataset_parent, edges)
        told = [{"dataset_id": key, "name": name, **_fact(of)._asdict()} for name, of in one.metadata.items()]
        insert_rows(conn, tables.dataset_meta, told)
        for number, of in enumerate(one.blocks):
            _fill_block(conn, one, key, key * 10 + number, of)
        insert_rows(conn, tables.holding, [{"dataset_id": key, **row} for row in _holdings(one)])


def _row(one: Dataset, key: int) -> dict[str, Any]:
    _, primary, processed, tier = one.name.split("/") if one.split else (None,) * 4
    policy = {"block_files": 10, "block_bytes": 10**9, "block_age_s": 3600.0}
    return {
        "id": key,
        "name": one.name,
        "state": one.state,
        "access_type": one.access,
        **policy,
        "prim": primary,
        "proc": processed,
        "data_tier": tier,
        "acct_group": one.group,
        "files": sum(len(of.files) for of in one.blocks),
        "bytes": one.bytes,
        "events": one.events,
        "closed_blocks": sum(of.closed for of in one.blocks),
        "created_at": NOW - timedelta(seconds=one.age_s),
    }


def _fill_block(conn: Connection, one: Dataset, dataset_id: int, key: int, of: Block) -> None:
    row = {"id": key, "dataset_id": dataset_id, "name": f"{one.name}#{key}", "origin_se_id": 1}
    state = {"state": "CLOSED" if of.closed else "OPEN", "created_at": NOW}
    insert_rows(conn, tables.block, [{**row, **state}])
    for se, custodial in of.at.items():
        replica = {"block_id": key, "se_id": SES[se], "state": "COMPLETE", "created_at": NOW}
        insert_rows(conn, tables.block_replica, [{**replica, "custodial": int(custodial)}])
    hull: dict[int, list[int]] = {}
    for number, (lfn, runs) in enumerate(of.files.items()):
        path, name = split_lfn(lfn)
        found = tables.dir_.select().where(tables.dir_.c.path == path)
        held = conn.execute(found).one_or_none()
        dir_id = held.id if held else key * 10 + number
        if held is None:
            insert_rows(conn, tables.dir_, [{"id": dir_id, "path": path}])
        file_id = key * 10 + number
        file = {"id": file_id, "block_id": key, "dir_id": dir_id, "name": name, "created_at": NOW}
        insert_rows(conn, tables.data_file, [{**file, "bytes": 1, "adler32": 1}])
        for run, first, last in runs:
            insert_rows(conn, tables.file_run, [{"file_id": file_id, **_lumis(run, first, last)}])
            hull.setdefault(run, []).extend((first, last))
    spans = [{"block_id": key, **_lumis(run, min(ends), max(ends))} for run, ends in hull.items()]
    insert_rows(conn, tables.block_run, spans)


def _lumis(run: int, first: int, last: int) -> dict[str, int]:
    return {"run": run, "first_lumi": first, "last_lumi": last}


def _holdings(one: Dataset) -> list[dict[str, int]]:
    """One where all has gone is kept at zero, as relative counters do."""
    rows = []
    for se, number in SES.items():
        here = [of for of in one.blocks if se in of.at]
        if here or se == "Cedar_Disk":
            rows.append({"se_id": number, "blocks": len(here), "closed": sum(of.closed for of in here)})
    return rows


def _fact(value: str | float) -> Fact:
    return Fact(None, value) if isinstance(value, str) else Fact(value, str(value))


def facts() -> dict[str, Mapping[str, Any]]:
    """What `matches` takes, by the datasets' names."""
    rows: dict[str, dict[str, Any]] = {one.name: _plain(one) for one in DATASETS}
    for one in DATASETS:
        parents = [rows[name] for name in one.parents]
        rows[one.name]["parent"] = parents
        for parent in parents:
            parent["child"].append(rows[one.name])
    for row in rows.values():
        row["ancestor"], row["descendant"] = _far(row, "parent"), _far(row, "child")
    return {name: Facts(row) for name, row in rows.items()}


class Facts(dict[str, Any]):
    """Metadata it does not have are None."""

    def __missing__(self, name: str) -> None:
        return None


def _far(row: Mapping[str, Any], walk: str) -> list[dict[str, Any]]:
    return [far for near in row[walk] for far in (near, *_far(near, walk))]


def _plain(one: Dataset) -> dict[str, Any]:
    closed = [of for of in one.blocks if of.closed]
    whole = {se for se in SES if closed and all(se in of.at for of in closed)}
    lumis = {lumi for of in one.blocks for runs in of.files.values() for lumi in runs}
    row = _row(one, 0)
    return Facts(
        {
            "dataset": one.name,
            "primary": row["prim"],
            "processed": row["proc"],
            "tier": row["data_tier"],
            "access": one.access,
            "state": one.state,
            "group": one.group,
            "files": row["files"],
            "bytes": one.bytes,
            "events": one.events,
            "blocks": len(one.blocks),
            "age": one.age_s,
            "created": row["created_at"],
            "site": {PLACES[se] for of in one.blocks for se in of.at},
            "se": {se for of in one.blocks for se in of.at},
            "complete": {PLACES[se] for se in whole},
            "custodial": {PLACES[se] for of in one.blocks for se, kept in of.at.items() if kept},
            "run": {run for run, _, _ in lumis},
            "lumi": lumis,
            "file": {lfn for of in one.blocks for lfn in of.files},
            "parent": [],
            "child": [],
            **{name: _fact(value) for name, value in one.metadata.items()},
        }
    )


# --- plans -----------------------------------------------------------------------------------------------


def scanned(conn: Connection, act: Callable[[], object]) -> set[str]:
    """The tables that the statements of a read go through from end to end, by rows or by an index."""
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, sql: str, binds: Any, context: Any, many: bool) -> None:
        seen.append((sql, binds))

    event.listen(conn, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(conn, "before_cursor_execute", note)
    return {name for sql, binds in seen for name in _scans(conn, sql, binds)}


def _scans(conn: Connection, sql: str, binds: Any) -> Iterator[str]:
    if conn.dialect.name == "sqlite":
        for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", binds):
            if match := re.match(r"SCAN (\w+)", row.detail):
                yield match[1]
        return
    found = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", binds).scalar_one()
    plan = json.loads(found) if isinstance(found, str) else found
    yield from _unbound(plan[0]["Plan"])


def _unbound(node: Mapping[str, Any]) -> Iterator[str]:
    """Scans of PostgreSQL's plan without a condition of their index; a bitmap's is told below it."""
    if "Relation Name" in node and "Bitmap" not in node["Node Type"] and "Index Cond" not in node:
        yield str(node["Relation Name"])
    for inner in node.get("Plans", ()):
        yield from _unbound(inner)
