"""Storage elements read in other dialects, or described by a storage.json: read, applied and exported."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalogs import sites
from catalogs.tfc.rules import Dialect
from gridapp.apply import apply, export
from gridapp.topology.reader import Topology, read_topology
from gridapp.topology.rows import stored
from gridcore.db import Database
from gridcore.db.keys import Keys
from gridcore.errors import GridError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GRID = """
[[site]]
name = "T1_DE_Alder"

[[se]]
name = "Alder_Disk"
site = "T1_DE_Alder"
storage = "storage.json"
protocol = "srm"
volume = "dCache"

[[se]]
name = "Alder_Tape"
site = "T1_DE_Alder"
storage = "storage.json"
protocol = "local"
dialect = "cmssw"

[[share]]
group = "production"
target = 70
"""
ENTRIES = [
    {
        "site": "T1_DE_Alder",
        "volume": "dCache",
        "rse": "other",
        "protocols": [
            {"protocol": "srm", "rules": [{"lfn": "(.*)", "pfn": "srm://h?SFN=$1", "chain": "file"}]},
            {"protocol": "file", "rules": [{"lfn": "/+store/(.*)", "pfn": "${TIERFLOW_DIR}/$1"}]},
        ],
    },
    {
        "site": "T1_DE_Alder",
        "volume": "MSS",
        "rse": "Alder_Tape",
        "protocols": [{"protocol": "local", "prefix": "${TIERFLOW_DIR}/tape"}],
    },
]
LFN = "/store/mc/a.root"
#: Of a directory that means something in patterns and results.
HOME = "/home/a+b/$1 (x)"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "storage.json").write_text(json.dumps(ENTRIES))
    return tmp_path


def read(directory: Path) -> Topology:
    return read_topology(directory, {"TIERFLOW_DIR": HOME})


def test_volumes_and_dialects_reach_the_database_and_come_back(
    database: Database, directory: Path, tmp_path: Path
) -> None:
    apply(database, Keys(database), read(directory), "ann", False, NOW)
    with database.snapshot() as conn:
        found = sites.by_name(sites.storage_elements(conn))
        exported = export(conn, tmp_path / "out")
        assert read(tmp_path / "out") == stored(conn)
    assert {path.name for path in exported} == {"grid.toml", "Alder_Disk.xml", "Alder_Tape.xml"}
    disk, tape = found["Alder_Disk"], found["Alder_Tape"]
    assert (disk.dialect, tape.dialect) == (None, "cmssw")
    assert tape.catalog.dialect is Dialect.CMSSW
    pfn = disk.catalog.pfn(LFN, "srm").pfn
    assert pfn == f"srm://h?SFN={HOME}/mc/a.root"
    assert disk.catalog.lfn(pfn, "srm") == LFN
    assert sites.pfn_of(tape, LFN)[0] == f"{HOME.replace('$1', LFN[1:])}/tape{LFN}"


def test_a_change_of_the_dialect_is_a_change(sqlite_db: Database, directory: Path) -> None:
    apply(sqlite_db, Keys(sqlite_db), read(directory), "ann", False, NOW)
    (directory / "grid.toml").write_text(GRID.replace('"cmssw"', '"phedex"'))
    (change,) = apply(sqlite_db, Keys(sqlite_db), read(directory), "ann", False, NOW)
    assert (change.kind, change.name, change.action) == ("se", "Alder_Tape", "change")
    with sqlite_db.snapshot() as conn:
        tape = sites.by_name(sites.storage_elements(conn))["Alder_Tape"]
    assert tape.dialect is None
    assert sites.pfn_of(tape, LFN)[0] == f"{HOME}/tape{LFN}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('volume = "dCache"', "", "2 entries for site 'T1_DE_Alder'"),
        ('volume = "dCache"', 'volume = "disk"', "no entries for site 'T1_DE_Alder' and volume 'disk'"),
        ('volume = "dCache"', 'volume = "dCache"\ndialect = "dbs"', "se.1.dialect"),
        ('protocol = "srm"', 'protocol = "davs"', "se.1.protocol: there is no lfn-to-pfn rule"),
        ('"storage.json"\nprotocol = "srm"', '"storage.xml"\nprotocol = "srm"', "se.1.volume: a storage.xml"),
    ],
)
def test_bad_storage_is_one_line(directory: Path, old: str, new: str, told: str) -> None:
    assert old in GRID
    (directory / "grid.toml").write_text(GRID.replace(old, new, 1))
    (directory / "storage.xml").write_text("<storage-mapping/>")
    with pytest.raises(GridError) as caught:
        read(directory)
    assert told in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "[NaN]", "x" * 1_000_001])
def test_a_hostile_storage_json_is_one_line(directory: Path, text: str) -> None:
    (directory / "storage.json").write_text(text)
    with pytest.raises(GridError) as caught:
        read(directory)
    assert "storage.json" in caught.value.message
    assert "\n" not in caught.value.message
