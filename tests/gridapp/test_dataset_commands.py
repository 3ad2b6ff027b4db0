"""Datasets and blocks told of, opened and closed from the command line and by the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import embedded_grid
import pytest
from catalog_rows import DATASET, SE, Shelf, lfn
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from gridapp.api.app import create_app
from gridapp.cli.main import main
from gridcore.db import Database
from gridcore.settings import load


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


@pytest.fixture
def shelf(place: Path) -> Iterator[Shelf]:
    with Shelf.at(place) as made:
        yield made


def run(place: Path, *args: object, code: int = 0) -> Any:
    result: Result = CliRunner().invoke(main, [*map(str, args), "--dir", str(place)])
    assert result.exit_code == code, result.stderr or result.output
    return result.stderr if code else json.loads(result.stdout)


def client(database: Database) -> TestClient:
    app = create_app(SimpleNamespace(settings=load(environ={}), database=database))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_what_is_said_of_a_dataset(place: Path, shelf: Shelf) -> None:
    shelf.register(3)
    done = run(place, "dataset", "set", DATASET, "collision=AuAu", "energy=7.7", "--description", "Gold")
    assert done["changed"]["energy"] == [None, 7.7]
    run(place, "dataset", "access", DATASET, "deprecated")
    shown = run(place, "dataset", "show", DATASET)
    assert (shown["tier"], shown["access"], shown["description"]) == ("RAW", "DEPRECATED", "Gold")
    assert shown["metadata"] == {"collision": "AuAu", "energy": 7.7}
    assert [one["files"] for one in shown["holdings"]] == [3]
    (listed,) = run(place, "dataset", "list", "/MinBias/*")
    assert (listed["access"], listed["tier"]) == ("DEPRECATED", "RAW")
    run(place, "dataset", "set", DATASET, "energy=")
    told = run(place, "dataset", "history", DATASET)
    assert [one["change"] for one in told] == ["set", "access", "set"]
    assert told[0]["detail"] == {"energy": [7.7, None]}
    assert told[1]["detail"] == {"access": ["VALID", "DEPRECATED"]}
    assert client(shelf.database).get(f"/api/v1/history/datasets{DATASET}").json() == told
    assert shelf.audited() == ["dataset set", "dataset access", "dataset set"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("set", DATASET), 2, "what is to be said"),
        (("set", DATASET, "energy"), 2, "says nothing"),
        (("set", DATASET, "a=1", "a=2"), 2, "given twice"),
        (("set", DATASET, "files=3"), 2, "no name for metadata"),
        (("set", DATASET, "--description", "x" * 1001), 2, "description of 1001"),
        (("set", DATASET, "--group", "a b"), 2, "no group name"),
        (("set", "/No/Such/RAW", "a=1"), 3, "no dataset /No/Such/RAW"),
        (("access", DATASET, "GOOD"), 2, "GOOD"),
        (("close", "/No/Such/RAW"), 3, "no dataset"),
        (("close", DATASET, "--reason", "a\nb"), 2, "cannot be read"),
        (("history", "/No/Such/RAW"), 3, "no dataset"),
    ],
)
def test_what_cannot_be_said(place: Path, shelf: Shelf, args: tuple[str, ...], code: int, says: str) -> None:
    assert says in run(place, "dataset", *args, code=code)
    assert shelf.audited() == []


def test_a_dataset_is_closed_and_reopened_by_hand(place: Path, shelf: Shelf) -> None:
    shelf.register(3)
    closed = run(place, "dataset", "close", DATASET, "--reason", "the run is over")
    assert closed == {"dataset": DATASET, "state": "CLOSED", "changed": True}
    assert not run(place, "dataset", "close", DATASET)["changed"]
    assert run(place, "dataset", "reopen", DATASET)["state"] == "OPEN"
    told = run(place, "dataset", "history", DATASET)
    assert [(one["change"], one["detail"]) for one in told] == [
        ("reopened", None),
        ("closed", {"reason": "the run is over"}),
    ]
    assert shelf.audited() == ["dataset close", "dataset reopen"]


def test_a_block_is_closed_by_hand(place: Path, shelf: Shelf) -> None:
    shelf.register(3)
    (seen,) = run(place, "block", "list", DATASET)
    assert (seen["state"], seen["files"], list(seen["replicas"].values())) == ("OPEN", 3, ["COMPLETE"])
    closed = run(place, "block", "close", seen["name"], "--reason", "wanted now")
    assert (closed["state"], closed["changed"]) == ("CLOSED", True)
    assert not run(place, "block", "close", seen["name"])["changed"]
    shown = run(place, "block", "show", seen["name"])
    assert [(one["state"], one["code"]) for one in shown["history"]] == [
        ("OPEN", "first file"),
        ("CLOSED", "by hand"),
    ]
    (told,) = run(place, "dataset", "history", DATASET)
    assert told["detail"] == {"block": seen["name"], "reason": "wanted now"}
    assert shelf.audited() == ["block close"]
    assert "no block /No/Such/RAW#1" in run(place, "block", "show", "/No/Such/RAW#1", code=3)
    answers = client(shelf.database)
    assert answers.get("/api/v1/blocks/" + seen["name"].replace("#", "%23")).json() == shown
    assert answers.get("/api/v1/blocks", params={"dataset": DATASET}).json()[0]["name"] == seen["name"]


def test_who_may_not_is_told_so(place: Path, shelf: Shelf) -> None:
    shelf.register(1)
    shelf.take_roles()
    for args in (("dataset", "set", DATASET, "a=1"), ("dataset", "close", DATASET)):
        assert "may not change this dataset" in run(place, *args, code=4)
    (seen,) = run(place, "block", "list", DATASET)
    assert "may not change this dataset" in run(place, "block", "close", seen["name"], code=4)


# --- files -------------------------------------------------------------------------------------------------


def test_files_are_invalidated_and_revalidated(place: Path, shelf: Shelf) -> None:
    shelf.register(3)
    listed = place / "names.txt"
    listed.write_text(f"{lfn(0)}\n\n{lfn(1)}\n")
    done = run(place, "file", "invalidate", "--from", listed, "--reason", "bad magnet")
    assert done == {"files": 2, "changed": 2}
    shown = run(place, "file", "show", lfn(0))
    assert (shown["invalid"], shown["adler32"], shown["events"]) == ("INVALID", "00000000", 100)
    assert shown["history"][0]["detail"] == {"code": "INVALID", "reason": "bad magnet"}
    assert run(place, "dataset", "show", DATASET)["invalid"] == 2
    assert run(place, "file", "revalidate", lfn(0), lfn(2)) == {"files": 2, "changed": 1}
    assert run(place, "file", "show", lfn(0))["invalid"] is None
    assert client(shelf.database).get(f"/api/v1/files{lfn(1)}").json() == run(place, "file", "show", lfn(1))
    assert shelf.audited() == ["file invalidate", "file revalidate"]


def test_a_copy_that_is_bad_or_lost(place: Path, shelf: Shelf) -> None:
    shelf.register(2)
    done = run(place, "file", "bad", lfn(0), "--se", SE, "--reason", "cannot be read")
    assert done == {"lfn": lfn(0), "se": SE, "changed": True, "good_copies": 0, "invalid": None}
    (copy,) = run(place, "file", "show", lfn(0))["at"]
    assert (copy["fault"], copy["good"]) == ("bad", False)
    done = run(place, "file", "lost", lfn(1), "--se", SE)
    assert (done["good_copies"], done["invalid"]) == (0, "LOST")
    assert not run(place, "file", "lost", lfn(1), "--se", SE)["changed"]
    told = run(place, "file", "show", lfn(1))["history"]
    assert [(one["change"], one["se"]) for one in told] == [("invalidated", None), ("missing", SE)]
    assert shelf.audited() == ["file bad", "file missing"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("show", "/store/none"), 3, "no file /store/none"),
        (("show", "/store/../x"), 3, "no file"),
        (("invalidate",), 2, "which files?"),
        (("invalidate", "/store/x" * 1300), 2, "too long"),
        (("invalidate", lfn(0), "/store/none"), 3, "no file /store/none"),
        (("invalidate", "/store//x"), 2, "no LFN"),
        (("bad", lfn(0), "--se", "T1_FR_Beech_Disk"), 1, "no complete copy"),
        (("bad", lfn(0), "--se", "Nowhere"), 3, "no storage element Nowhere"),
        (("lost", lfn(9), "--se", SE), 3, "is registered"),
    ],
)
def test_files_that_cannot_be(place: Path, shelf: Shelf, args: tuple[str, ...], code: int, says: str) -> None:
    shelf.register(1)
    assert says in run(place, "file", *args, code=code)
    assert run(place, "file", "show", lfn(0))["invalid"] is None
    assert run(place, "file", "show", lfn(0))["history"] == []
    assert shelf.audited() == []


def test_a_site_admin_may_say_what_is_bad_there_but_not_what_is_wrong(place: Path, shelf: Shelf) -> None:
    shelf.register(1)
    shelf.take_roles("T1_DE_Alder")
    assert run(place, "file", "bad", lfn(0), "--se", SE)["changed"]
    assert "may not change this dataset" in run(place, "file", "invalidate", lfn(0), code=4)
    assert "may not change this dataset" in run(
        place, "file", "bad", lfn(0), "--se", "T1_FR_Beech_Disk", code=4
    )


# --- imports -----------------------------------------------------------------------------------------------


def test_a_list_and_a_directory_are_imported(place: Path, shelf: Shelf) -> None:
    listed = place / "list.csv"
    listed.write_text("lfn,bytes,adler32\n" + "".join(f"{lfn(n)},10,{n:08x}\n" for n in range(3)))
    args = ("dataset", "import", listed, "--se", SE, "--dataset", "/New/v1/RAW")
    assert run(place, *args, "--dry-run")["new"] == 3
    assert [one["name"] for one in run(place, "dataset", "list", "/New/*")] == []
    assert (run(place, *args)["new"], run(place, *args)["known"]) == (3, 3)
    root = Path(shelf.se().root or "") / "vo" / "walked" / place.parent.name
    root.mkdir(parents=True)
    (root / "a.root").write_bytes(b"Wikipedia")
    below = f"/store/walked/{place.parent.name}"
    for prefix in (below, str(root)):
        done = run(place, "dataset", "import", prefix, "--se", SE, "--dataset", "/New/v1/DST")
        assert (done["files"], done["bytes"]) == (1, 9)
    assert run(place, "file", "show", f"{below}/a.root")["adler32"] == "11e60398"
    assert shelf.audited() == ["dataset import"] * 2


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("lfn,bytes,adler32\n/store/x,-1,00000001\n", 2, "line 2: its bytes are '-1'"),
        ('{"lfn": "/store/x", "bytes": 1, "checksum": "md5:00"}', 2, "line 1: its checksum"),
        ("", 2, "there is no file in"),
        (None, 2, "there is no file"),
    ],
)
def test_imports_that_are_refused(place: Path, shelf: Shelf, text: str | None, code: int, says: str) -> None:
    listed = place / "list.txt"
    if text is not None:
        listed.write_text(text)
    name = "list.txt" if text is None else listed
    assert says in run(place, "dataset", "import", name, "--se", SE, "--dataset", "/New/v1/RAW", code=code)
    assert run(place, "dataset", "list", "/New/*") == []


def test_a_dataset_is_made_once(place: Path, shelf: Shelf) -> None:
    name = "/MinBias/Spring26-v2/RAW"
    order = ("dataset", "create", name, "collision=AuAu", "--group", "heavy", "--block-files", 7)
    assert run(place, *order)["new"] is True
    again = run(place, *order)
    assert (again["state"], again["new"], again["changed"]) == ("OPEN", False, {})
    shown = run(place, "dataset", "show", name)
    assert (shown["metadata"], shown["group"], shown["files"]) == ({"collision": "AuAu"}, "heavy", 0)
    made = shelf.read(
        lambda conn: conn.exec_driver_sql("SELECT block_files FROM dataset WHERE prim = 'MinBias'")
    )
    assert [row[0] for row in made] == [100, 7]
    assert [one["change"] for one in run(place, "dataset", "history", name)] == ["set", "created"]
    run(place, "dataset", "create", "/no", code=2)
    shelf.take_roles()
    run(place, "dataset", "create", "/MinBias/Spring26-v3/RAW", code=4)


def test_a_dataset_of_many_blocks_shows_the_first(place: Path, shelf: Shelf) -> None:
    name = "/Many/v1/RAW"
    run(place, "dataset", "create", name, "--block-files", 1)
    listed = place / "list.csv"
    listed.write_text("lfn,bytes,adler32\n" + "".join(f"/store/m/{n}.root,1,{n:08x}\n" for n in range(5)))
    run(place, "dataset", "import", listed, "--se", SE, "--dataset", name)
    args = ["dataset", "show", name, "--blocks", "2", "--dir", str(place)]
    result = CliRunner().invoke(main, args)
    assert len(json.loads(result.stdout)["block_list"]) == 2
    assert f"the first 2 of 5 blocks; all: tierflow block list {name} --limit 5" in result.stderr
    (told,) = [one for one in run(place, "dataset", "history", name) if one["change"] == "import begun"]
    assert (told["detail"]["files"], told["detail"]["known"]) == (5, 0)


def test_what_is_in_a_dataset(place: Path, shelf: Shelf) -> None:
    shelf.register(12)
    first = run(place, "dataset", "files", DATASET, "--limit", 5)
    assert [one["lfn"] for one in first] == [lfn(number) for number in range(5)]
    rest = run(place, "dataset", "files", DATASET, "--after", first[-1]["lfn"])
    assert [one["lfn"] for one in rest] == [lfn(number) for number in range(5, 12)]
    run(place, "dataset", "files", DATASET, "--after", "/store/none", code=3)
    found = run(place, "dataset", "pfns", DATASET, "--se", SE)
    expected = [
        one["pfn"] for one in run(place, "tfc", "lfn2pfn", SE, *(lfn(number) for number in range(12)))
    ]
    assert [one["pfn"] for one in found] == expected
    assert len(run(place, "dataset", "pfns", DATASET, "--se", SE, "--limit", 5)) == 5
    assert run(place, "dataset", "pfns", DATASET, "--se", "T2_DE_Ash_Disk") == []
    assert run(place, "dataset", "parents", DATASET) == run(place, "dataset", "children", DATASET) == []
