"""Space and quotas as commands tell them: exact with what is in flight, and limits set by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from grids.data_grid import DataGrid
from sqlalchemy import select, update

from catalogs.tables import block_replica, se
from gridapp import quotas, session
from gridapp.api.app import create_app
from gridapp.cli.main import main
from gridapp.cli.sites import Size
from gridapp.insights import spaces
from gridapp.topology.items import AccountItem
from gridcore import accounts
from gridcore.db import Database
from gridcore.errors import NotFound
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.settings import load
from gridcore.tables import account_role, audit_log, quota

SITE, GROUP = "T2_DE_Ash", "analysis"


def ask(database: Database, question: Any, *args: Any) -> Any:
    """The answer, which must be what JSON can hold."""
    with database.snapshot() as conn:
        answer = question(conn, *args)
    assert json.loads(json.dumps(answer)) == answer
    return answer


# --- space -------------------------------------------------------------------------------------------


def test_space_is_exact_while_copies_fly_and_pass(database: Database) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "BC")
    limits = {1: 10_000, 2: 100, 3: None}
    for key, limit in limits.items():
        sized = update(se).where(se.c.id == key).values(space_bytes=limit)
        database.transaction(lambda conn, sized=sized: conn.execute(sized))  # type: ignore[misc]
    row = {"id": 90, "owner": "transit:T2_B", "limit_value": 10**6, "used_value": 0}
    database.transaction(lambda conn: conn.execute(quota.insert(), [row]))
    grid.produce(3)
    size = sum(one["complete"] for one in ask(database, spaces.spaces))
    assert size > 0
    grid.subscribe("C")
    worker = grid.worker()
    worker.take()
    for kind in ("block_manager", "router"):
        worker.cycle(kind)
    at = {one["se"]: one for one in ask(database, spaces.spaces)}
    assert (at["T2_A"]["complete"], at["T2_A"]["free"]) == (size, 10_000 - size)
    assert (at["T2_B"]["arriving"], at["T2_B"]["transit"], at["T2_B"]["transit_bytes"]) == (size, size, 10**6)
    assert at["T2_B"]["free"] == 100 - size
    assert at["T2_B"]["percent"] == round(size, 1)
    assert (at["T2_C"]["free"], at["T2_C"]["percent"], at["T2_C"]["space_bytes"]) == (None, None, None)
    worker.run()
    worker.close()
    at = {one["se"]: one for one in ask(database, spaces.spaces)}
    assert [(one["complete"], one["arriving"]) for one in at.values()] == [(size, 0), (0, 0), (size, 0)]
    assert grid.rows(select(block_replica.c.se_id).order_by(block_replica.c.se_id)) == [(1,), (3,)]


def test_one_site_is_asked_for(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.produce(2)
    assert [one["se"] for one in ask(database, spaces.spaces, "T2_XX_B")] == ["T2_B"]
    one = ask(database, spaces.site, "T2_XX_A")
    assert (one["name"], one["quotas"], one["endpoints"]) == ("T2_XX_A", [], [])
    (store,) = one["storage"]
    assert (store["name"], store["files"], store["complete"]) == ("T2_A", 2, store["bytes"])
    for question in (spaces.spaces, spaces.site, spaces.group_quotas):
        with pytest.raises(NotFound) as caught:
            ask(database, question, "T2_XX_C")
        assert "T2_XX_A" in str(caught.value.hint)


# --- quotas ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


def run(home: Path, *args: object) -> Result:
    return CliRunner().invoke(main, ["--dir", str(home), *map(str, args)])


def answer(home: Path, *args: object) -> Any:
    result = run(home, *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def noted(home: Path) -> list[tuple[Any, ...]]:
    installation = session.connect(home, None)
    with installation.database.snapshot() as conn:
        columns = (audit_log.c.actor, audit_log.c.subject, audit_log.c.detail)
        found = conn.execute(select(*columns).where(audit_log.c.verb == "site quota set")).all()
    installation.close()
    return [tuple(row) for row in found]


def test_a_quota_is_set_listed_raised_and_taken_away(home: Path) -> None:
    assert answer(home, "site", "quota", "list") == []
    told = {"site": SITE, "group": GROUP, "was": None, "limit": 500 * 10**9, "used": 0, "changed": True}
    assert answer(home, "site", "quota", "set", SITE, GROUP, "500G", "--dry-run") == told
    assert answer(home, "site", "quota", "list") == []
    assert noted(home) == []
    assert answer(home, "site", "quota", "set", SITE, GROUP, "500G") == told
    again = answer(home, "site", "quota", "set", SITE, GROUP, "500_000_000_000")
    assert (again["was"], again["changed"]) == (500 * 10**9, False)
    row = {"site": SITE, "group": GROUP, "limit": 500 * 10**9, "used": 0, "free": 500 * 10**9, "percent": 0.0}
    assert answer(home, "site", "quota", "list", SITE) == [row]
    assert answer(home, "site", "quota", "list", "T0_CH_Oak") == []
    assert answer(home, "site", "show", SITE)["quotas"] == [row]
    gone = answer(home, "site", "quota", "set", SITE, GROUP, "none")
    assert (gone["was"], gone["limit"], gone["changed"]) == (500 * 10**9, None, True)
    assert answer(home, "site", "quota", "list") == []
    limits = itertools.pairwise((None, 500 * 10**9, 500 * 10**9, None))
    details = [{"was": was, "limit": limit} for was, limit in limits]
    assert noted(home) == [("ops", f"{SITE} {GROUP}", one) for one in details]


def test_a_first_quota_counts_what_is_there_already(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(3)
    grid.subscribe("B")
    worker = grid.worker()
    worker.run()
    worker.close()
    size = {one["se"]: one["complete"] for one in ask(database, spaces.spaces)}["T2_B"]
    admin = Principal("root", roles={EVERYWHERE: frozenset([Role.OPERATOR])})
    new = {"login": "", "groups": frozenset(["physics"]), "roles": frozenset()}
    anna = AccountItem(name="anna", **new).account()
    grid.do(lambda conn, now: accounts.put(conn, 1, anna))
    done = quotas.set_quota(grid.context(), "T2_XX_B", "physics", 10, admin)
    assert (done["was"], done["limit"], done["used"]) == (None, 10, size)
    (row,) = ask(database, spaces.group_quotas)
    assert (row["used"], row["free"]) == (size, 10 - size)


def test_a_quota_below_what_is_used_is_told(home: Path) -> None:
    answer(home, "site", "quota", "set", SITE, GROUP, "1T")
    installation = session.connect(home, None)
    used = update(quota).where(quota.c.owner == f"space:{SITE}:{GROUP}").values(used_value=700)
    installation.database.transaction(lambda conn: conn.execute(used))
    installation.close()
    result = run(home, "site", "quota", "list")
    assert json.loads(result.stdout)[0]["free"] == 10**12 - 700


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("T2_DE_Ahs", GROUP, "1"), 3, "did you mean T2_DE_Ash"),
        ((SITE, "analysys", "1"), 3, "did you mean analysis"),
        ((SITE, GROUP, "-1"), 2, "No such option"),
        ((SITE, GROUP, "a lot"), 2, "no size"),
        ((SITE, GROUP, "9000P"), 0, ""),
        ((SITE, GROUP, "10000P"), 2, "no size"),
        ((SITE, GROUP, "infT"), 2, "no size"),
        ((SITE, GROUP, "nan"), 2, "no size"),
    ],
)
def test_what_is_no_quota_is_refused(home: Path, words: tuple[str, ...], code: int, told: str) -> None:
    result = run(home, "site", "quota", "set", *words)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert len(noted(home)) == (code == 0)


def test_only_who_may_changes_a_site(home: Path) -> None:
    installation = session.connect(home, None)
    user = update(account_role).where(account_role.c.acct_role == "operator").values(acct_role="user")
    installation.database.transaction(lambda conn: conn.execute(user))
    installation.close()
    result = run(home, "site", "quota", "set", SITE, GROUP, "1T")
    assert result.exit_code == 4
    assert f"at {SITE}" in result.stderr
    assert noted(home) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("500k", 500_000), ("1.5TB", 1_500_000_000_000), ("2P", 2 * 10**15), ("7B", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


def test_space_on_the_command_line(home: Path) -> None:
    (one,) = answer(home, "site", "space", SITE)
    assert (one["se"], one["complete"], one["free"]) == ("T2_DE_Ash_Disk", 0, None)
    assert len(answer(home, "site", "space")) == 6
    assert run(home, "site", "space", "T2_DE_Ahs").exit_code == 3
    assert run(home, "site", "show", "nobody").exit_code == 3


# --- the API -----------------------------------------------------------------------------------------


def test_the_api_answers_the_same(sqlite_db: Database) -> None:
    DataGrid(sqlite_db, "AB").produce(2)
    app = create_app(SimpleNamespace(settings=load(environ={}), database=sqlite_db))
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    assert client.get("/api/v1/space").json() == ask(sqlite_db, spaces.spaces)
    assert client.get("/api/v1/space?site=T2_XX_B").json() == ask(sqlite_db, spaces.spaces, "T2_XX_B")
    assert client.get("/api/v1/sites/T2_XX_A").json() == ask(sqlite_db, spaces.site, "T2_XX_A")
    assert client.get("/api/v1/quotas").json() == []
    for path in ("space?site=none", "sites/none", "quotas?site=none"):
        assert client.get(f"/api/v1/{path}").status_code == 404
