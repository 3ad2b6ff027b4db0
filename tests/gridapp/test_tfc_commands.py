"""`tierflow tfc`: names there and back, what is wrong with rules, and what new ones would change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result

from catalogs import bookkeeping, registration, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from gridapp import session
from gridapp.cli.main import main
from gridcore.clock import SystemClock
from gridcore.db.keys import Keys

OAK = "T0_CH_Oak_Disk"
LFNS = [f"/store/mc/s/{number}/f.root" for number in range(3)]
JSON = [
    {
        "site": site,
        "volume": "v",
        "protocols": [
            {"protocol": "local", "prefix": "${TIERFLOW_DIR}/new+$1"},
            {"protocol": "srm", "rules": [{"lfn": "(.*)", "pfn": "srm://h?SFN=$1", "chain": "local"}]},
        ],
    }
    for site in ("T0_CH_Oak", "T1_DE_Alder")
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded grid with three files at Oak."""
    directory = embedded_grid.make(tmp_path_factory.mktemp("grid") / "grid")
    installation = session.connect(directory, None)
    now, database, keys = SystemClock().now(), installation.database, Keys(installation.database)
    policy = BlockPolicy(2, 10**12, 10**6)
    files = [NewFile(lfn=lfn, bytes=10, adler32=1, events=1) for lfn in LFNS]
    dataset = keys.one("dataset")

    def register(conn: Any) -> None:
        se = sites.by_name(sites.storage_elements(conn))[OAK].id
        bookkeeping.create_dataset(conn, dataset, "/A/B/RAW", policy, now)
        registration.register(conn, reserved, dataset, se, files, now)

    reserved = registration.reserve(keys, len(files))
    database.transaction(register)
    installation.close()
    return directory


@pytest.fixture
def storage_json(tmp_path: Path) -> Path:
    path = tmp_path / "storage.json"
    path.write_text(json.dumps(JSON))
    return path


def run(grid: Path, *args: object, **more: Any) -> Result:
    return CliRunner().invoke(main, ["--dir", str(grid), "tfc", *map(str, args)], **more)


def answer(grid: Path, *args: object, **more: Any) -> Any:
    result = run(grid, *args, **more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_names_go_there_and_back(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(f"{LFNS[1]}\r\n\n{LFNS[2]}")
    there = answer(grid, "lfn2pfn", OAK, LFNS[0], "--list", tmp_path / "names")
    assert [one["lfn"] for one in there] == LFNS
    assert there[0]["pfn"].endswith(f"/storage/{OAK}{LFNS[0]}")
    assert {one["protocol"] for one in there} == {"local"}
    names = "\n".join(one["pfn"] for one in there)
    back = answer(grid, "pfn2lfn", OAK, "--list", "-", input=names)
    assert [one["lfn"] for one in back] == LFNS


def test_a_name_that_has_none_does_not_stop_the_others(grid: Path) -> None:
    result = run(grid, "lfn2pfn", OAK, "/elsewhere/a", LFNS[0])
    assert result.exit_code == 1
    bad, good = json.loads(result.stdout)
    assert bad["lfn"] == "/elsewhere/a"
    assert bad["pfn"] is None
    assert "path-match" in bad["error"]
    assert good["error"] is None
    assert "1 of 2" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["lfn2pfn", "T0_CH_Oak_Dusk", "/store/a"], 3, "T0_CH_Oak_Disk"),
        (["lfn2pfn", OAK], 2, "no names"),
        (["lfn2pfn", "none.json", "/store/a"], 2, "no such file"),
        (["preview", "Nobody", "none.json"], 3, "no storage element"),
        (["preview", OAK, "none.xml"], 2, "no such file"),
        (["lfn2pfn", OAK, "/store/a", "--dialect", "dbs"], 2, "dbs"),
    ],
)
def test_what_is_not_there_is_named(grid: Path, args: list[str], code: int, told: str) -> None:
    result = run(grid, *args)
    assert result.exit_code == code
    assert told in result.stderr


@pytest.mark.parametrize("line", [b"/store/" + b"a" * 10_001, b"\xff\xfe/store"])
def test_a_hostile_list_is_refused(grid: Path, tmp_path: Path, line: bytes) -> None:
    (tmp_path / "names").write_bytes(line)
    result = run(grid, "lfn2pfn", OAK, "--list", tmp_path / "names")
    assert result.exit_code == 2
    assert "hint: " in result.stderr


def test_files_are_read_with_their_variables_and_dialect(grid: Path, storage_json: Path) -> None:
    chosen = ["--site", "T0_CH_Oak", "--protocol", "srm"]
    (found,) = answer(grid, "lfn2pfn", storage_json, "/store/a", *chosen)
    assert found["pfn"] == f"srm://h?SFN={grid}/new+$1/store/a"
    (back,) = answer(grid, "pfn2lfn", storage_json, found["pfn"], *chosen)
    assert back["lfn"] == "/store/a"
    (found,) = answer(grid, "lfn2pfn", storage_json, "/store/a", *chosen, "--dialect", "cmssw")
    assert found["pfn"] == f"srm://h?SFN={grid}/new+store/a/store/a"
    result = run(grid, "lfn2pfn", storage_json, "/store/a", "--site", "T0_CH_Oak")
    assert (result.exit_code, "local, srm" in result.stderr) == (2, True)
    assert "2 entries" in run(grid, "lint", storage_json).stderr


def test_lint_tries_the_directories_of_the_catalogue(grid: Path, tmp_path: Path) -> None:
    assert answer(grid, "lint", OAK) == []
    rules = tmp_path / "storage.xml"
    rules.write_text(
        '<storage-mapping><lfn-to-pfn protocol="local" path-match="^/store/mc/s/0/(.*)" result="/d/$1"/>'
        '<pfn-to-lfn protocol="local" path-match="^/d/(.*)" result="/store/mc/s/0/$1"/></storage-mapping>'
    )
    (found,) = answer(grid, "lint", rules, "--catalogue")
    assert f"{LFNS[1]!r} has no PFN" in found["what"]
    assert found["what"].endswith("and 1 more LFNs")
    assert answer(grid, "lint", rules, LFNS[0]) == []


def test_diff_tells_what_two_catalogues_name_differently(grid: Path, storage_json: Path) -> None:
    assert answer(grid, "diff", OAK, OAK) == []
    found = answer(grid, "diff", OAK, storage_json, "--site", "T0_CH_Oak", "--protocol", "local")
    assert [one["lfn"] for one in found] == LFNS
    assert found[0]["new"] == f"{grid}/new+$1{LFNS[0]}"
    assert answer(grid, "diff", OAK, "T1_DE_Alder_Disk", "/store/x")[0]["lfn"] == "/store/x"


def test_preview_tells_what_would_no_longer_be_found(grid: Path, storage_json: Path, tmp_path: Path) -> None:
    found = answer(grid, "preview", OAK, storage_json)
    assert found["held"] == found["moved"] == {"blocks": 2, "files": 3, "bytes": 30}
    assert found["lost"] == {"blocks": 0, "files": 0, "bytes": 0}
    assert found["samples"][0]["new"].startswith(f"{grid}/new+$1/store/mc/s/")
    (tmp_path / "empty.xml").write_text("<storage-mapping/>")
    found = answer(grid, "preview", OAK, tmp_path / "empty.xml")
    assert found["lost"]["files"] == 3
    assert found["samples"][0]["new"] is None
    assert answer(grid, "preview", "T1_DE_Alder_Disk", storage_json)["held"]["files"] == 0
