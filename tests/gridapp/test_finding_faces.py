"""Finding and placing data: what the commands and the API say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from full_grid import EVENTS, SELECTED, full_grid

from gridapp.api.app import create_app
from gridapp.cli.main import main
from gridapp.insights import finding
from gridcore.db import Database
from gridcore.errors import NotFound, UsageError
from gridcore.settings import load


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with full_grid(tmp_path_factory.mktemp("grid")) as (made, _):
        yield made


@pytest.fixture(scope="module")
def client(database: Database) -> TestClient:
    app = create_app(SimpleNamespace(settings=load(environ={}), database=database))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def ask(database: Database, question: Any, *args: Any) -> Any:
    """The answer, which must be what JSON can hold."""
    with database.snapshot() as conn:
        answer = question(conn, *args)
    assert json.loads(json.dumps(answer)) == answer
    return answer


# --- insights ----------------------------------------------------------------------------------------------


def test_datasets_are_found_page_by_page(database: Database) -> None:
    both = sorted([EVENTS, SELECTED])
    found = ask(database, finding.find, "primary=MinBias*")
    assert ([one["name"] for one in found["datasets"]], found["after"]) == (both, None)
    first = ask(database, finding.find, "primary=MinBias*", "", 1)
    assert ([one["name"] for one in first["datasets"]], first["after"]) == (both[:1], both[0])
    rest = ask(database, finding.find, "primary=MinBias*", both[0], 1)
    assert ([one["name"] for one in rest["datasets"]], rest["after"]) == (both[1:], None)


def test_what_is_not_valid_is_counted(database: Database) -> None:
    access = "UPDATE dataset SET access_type = '{}' WHERE name = '{}'"
    database.transaction(lambda conn: conn.exec_driver_sql(access.format("INVALID", EVENTS)))
    try:
        found = ask(database, finding.find, "primary=MinBias*")
        assert ([one["name"] for one in found["datasets"]], found["left_out"]) == ([SELECTED], 1)
        found = ask(database, finding.find, "primary=MinBias* access=*")
        assert (len(found["datasets"]), found["left_out"]) == (2, 0)
    finally:
        database.transaction(lambda conn: conn.exec_driver_sql(access.format("VALID", EVENTS)))


def test_where_a_dataset_and_its_files_are(database: Database) -> None:
    found = ask(database, finding.where, EVENTS)
    assert found["files"] > 0
    assert found["at"]
    with database.snapshot() as conn:
        rows = conn.exec_driver_sql("SELECT path, name FROM dir d JOIN data_file f ON f.dir_id = d.id").all()
    lfn = "{}/{}".format(*rows[0])
    at = ask(database, finding.where, lfn)
    assert at["name"] == lfn
    assert "COMPLETE" in [one["state"] for one in at["at"]]


def test_what_is_unique_and_lost_agree(database: Database) -> None:
    places = {one["se"]: one["site"] for one in ask(database, finding.where, EVENTS)["at"]}
    for se, site in places.items():
        assert ask(database, finding.unique, se) == ask(database, finding.unique, site)
        lost = ask(database, finding.lose, site)
        assert lost["storage"] == [se]
        assert lost["lost"] == ask(database, finding.unique, site)
        assert lost["files"] == sum(one["files"] for one in lost["lost"]) <= lost["held"]["files"]


def test_names_nobody_knows(database: Database) -> None:
    with pytest.raises(NotFound, match="no dataset") as caught:
        ask(database, finding.where, EVENTS[:-1])
    assert EVENTS in (caught.value.hint or "")
    with pytest.raises(NotFound, match="no file"):
        ask(database, finding.where, "/store/none.root")
    with pytest.raises(NotFound, match="T1_DE_Aldr") as caught:
        ask(database, finding.lose, "T1_DE_Aldr")
    assert "T1_DE_Alder" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no field"):
        ask(database, finding.find, "teir=GEN")


# --- the API -----------------------------------------------------------------------------------------------


def test_the_api_answers_the_same(client: TestClient, database: Database) -> None:
    found = client.get("/api/v1/find/datasets", params={"query": "tier=GEN site=T*", "limit": 5})
    assert found.json() == ask(database, finding.find, "tier=GEN site=T*", "", 5)
    for written in (EVENTS, EVENTS[1:]):
        assert client.get(f"/api/v1/where/{written}").json() == ask(database, finding.where, EVENTS)
    assert client.get("/api/v1/sites/T1_DE_Alder/unique").json() == ask(
        database, finding.unique, "T1_DE_Alder"
    )
    assert client.get("/api/v1/sites/T1_DE_Alder/lose").json()["name"] == "T1_DE_Alder"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("find/datasets", 422), ("find/datasets?query=", 422), ("find/datasets?query=tier>RAW", 422)),
        *((f"find/datasets?query={'a' * 4001}", 414), ("find/datasets?query=file=*", 422)),
        *(("where/a/b/C", 404), ("where/store/x", 404), ("sites/nobody/unique", 404)),
    ],
)
def test_the_api_refuses_with_a_reason(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_commands_on_an_empty_catalogue(embedded: Path) -> None:
    for words in (["tier=RAW"], ["tier=RAW", "site=T1_*"], ["tier=RAW or (files>5k not run=7)"]):
        result = run("dataset", "find", *words, "--dir", embedded)
        assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert run("dataset", "find", "tier>RAW", "--dir", embedded).exit_code == 2
    assert run("dataset", "find", "--dir", embedded).exit_code == 2
    assert "upper and lower case count" in run("dataset", "find", "tier=raw", "--dir", embedded).stderr
    assert "dataset=/A/*" in run("dataset", "find", "/A/*", "--dir", embedded).stderr
    result = run("dataset", "where", "/A/b/RAW", "--dir", embedded)
    assert "there is no dataset /A/b/RAW" in result.stderr
    sites = json.loads(run("site", "list", "--dir", embedded).stdout)
    name = next(one["name"] for one in sites if one["storage"])
    assert json.loads(run("site", "unique", name, "--dir", embedded).stdout) == []
    assert json.loads(run("site", "lose", name, "--dir", embedded).stdout)["files"] == 0
    assert run("site", "lose", "nobody", "--dir", embedded).exit_code != 0
