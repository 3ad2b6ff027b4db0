"""Applying a directory: all of it or nothing, twice is once, and what is exported applies to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from catalogs import sites
from catalogs.states import Switch, WishKind, WishState
from catalogs.tables import link, se, site, wish
from gridapp.apply import apply, export, plan, stored
from gridapp.topology.diff import Change
from gridapp.topology.reader import GRID_FILE, Topology, read_topology
from gridcore import accounts
from gridcore.db import Database, insert_rows, quotas
from gridcore.db.keys import Keys
from gridcore.errors import Conflict
from gridcore.identity import Action, local_principal, may
from gridcore.tables import audit_log, lease, quota, revision
from prodsys.queue import endpoints
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass
from prodsys.shares import shares
from prodsys.tables import queue, share_node

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EMBEDDED = Path(__file__).parents[2] / "etc" / "embedded"
HOME = {"TIERFLOW_DIR": "/grid"}


@pytest.fixture
def topology() -> Topology:
    return read_topology(EMBEDDED, HOME)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, str], Topology]:
    """The embedded grid with one text replaced by another."""

    def edit(old: str, new: str) -> Topology:
        text = (EMBEDDED / GRID_FILE).read_text()
        assert old in text
        (tmp_path / "tfc").mkdir(exist_ok=True)
        for path in (EMBEDDED / "tfc").iterdir():
            (tmp_path / "tfc" / path.name).write_bytes(path.read_bytes())
        (tmp_path / GRID_FILE).write_text(text.replace(old, new, 1))
        return read_topology(tmp_path, HOME)

    return edit


def put(database: Database, topology: Topology, *, prune: bool = False) -> list[Change]:
    return apply(database, Keys(database), topology, "ann", prune, NOW)


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(one.action, one.kind, one.name) for one in changes]


def counted(database: Database) -> dict[str, int]:
    tables = (site, se, link, quota, lease, audit_log, revision, share_node)
    with database.snapshot() as conn:
        return {table.name: len(conn.execute(select(table)).all()) for table in tables}


def test_the_embedded_grid_is_applied_once(database: Database, topology: Topology) -> None:
    with database.snapshot() as conn:
        planned = plan(conn, topology, False)
    assert counted(database) == dict.fromkeys(counted(database), 0)
    assert put(database, topology) == planned
    assert len(planned) == 6 + 2 + 6 + 12 + 6 + 2 + 1
    before = counted(database)
    assert before["audit_log"] == len(planned)
    assert before["revision"] == 1
    assert put(database, topology) == []
    assert put(database, topology, prune=True) == []
    assert counted(database) == before


def test_what_was_applied_serves_everybody(database: Database, topology: Topology) -> None:
    put(database, topology)
    with database.snapshot() as conn:
        ash = sites.by_name(sites.storage_elements(conn))["T2_DE_Ash_Disk"]
        assert sites.pfn_of(ash, "/store/mc/x.root")[0] == "/grid/storage/T2_DE_Ash_Disk/data/mc/x.root"
        assert may(local_principal("root", accounts.accounts(conn)), Action.GRID_CONFIGURE)
        assert quotas.room(conn, ["transit:T0_CH_Oak_Disk"]) == {
            "transit:T0_CH_Oak_Disk": (100_000_000_000, 100_000_000_000)
        }
        rows = endpoints.occupancy(conn)
        assert [(one.name, one.site, one.slots) for one in rows][-1] == (
            "T2_FR_Birch_local",
            "T2_FR_Birch",
            1,
        )
        assert {node.path: node.target for node in shares.tree(conn, NOW)} == {
            "production": 70,
            "analysis": 30,
        }
        assert conn.execute(select(revision.c.digest, revision.c.actor)).one() == (topology.digest(), "ann")


@pytest.mark.slow
def test_what_is_exported_changes_nothing_and_makes_the_same_grid(
    sqlite_db: Database, postgres_db: Database, topology: Topology, tmp_path: Path
) -> None:
    put(sqlite_db, topology)
    with sqlite_db.snapshot() as conn:
        paths = export(conn, tmp_path / "out")
        again = read_topology(tmp_path / "out", {})
        assert plan(conn, again, True) == []
        assert again == stored(conn)
    assert len(paths) == 7
    put(postgres_db, again)
    with postgres_db.snapshot() as conn:
        assert stored(conn) == again


def test_changes_are_made_and_told(database: Database, edited: Callable[[str, str], Topology]) -> None:
    put(database, read_topology(EMBEDDED, HOME))
    with database.snapshot() as conn:
        before = endpoints.by_name(conn, "T0_CH_Oak_local")
    (change,) = put(database, edited("slots = 1", "slots = 3"))
    assert change == Change("endpoint", "T0_CH_Oak_local", "change", "slots: 1 -> 3")
    with database.snapshot() as conn:
        after = endpoints.by_name(conn, "T0_CH_Oak_local")
    assert (after.id, after.lease_id, after.slots) == (before.id, before.lease_id, 3)


def test_transit_space_and_retry_rules_follow_the_files(
    database: Database, edited: Callable[[str, str], Topology]
) -> None:
    put(database, edited("transit_bytes = 100_000_000_000", "transit_bytes = 50"))
    assert database.transaction(lambda conn: quotas.take(conn, "transit:T0_CH_Oak_Disk", 50))
    (change,) = put(database, edited("transit_bytes = 100_000_000_000", "transit_bytes = 70"))
    assert change.detail == "transit_bytes: 50 -> 70"
    with database.snapshot() as conn:
        assert quotas.room(conn, ["transit:T0_CH_Oak_Disk"]) == {"transit:T0_CH_Oak_Disk": (20, 70)}
    assert database.transaction(lambda conn: quotas.give_back(conn, "transit:T0_CH_Oak_Disk", 50))
    rule = '[[retry]]\nerror_class = "lost"\nmax_retries = 1\n\n[[share]]'
    with_rule = edited("[[share]]", rule)
    assert told(put(database, with_rule))[-1] == ("add", "retry", "lost")
    with database.snapshot() as conn:
        assert retry_rules.rules(conn)[ErrorClass.LOST].max_retries == 1
    (_, change) = put(database, edited("transit_bytes = 100_000_000_000", "transit_bytes = 70"), prune=True)
    assert told([change]) == [("remove", "retry", "lost")]
    with database.snapshot() as conn:
        assert retry_rules.rules(conn) == DEFAULT_RULES


def test_an_account_follows_the_files(database: Database, edited: Callable[[str, str], Topology]) -> None:
    put(database, read_topology(EMBEDDED, HOME))
    new = edited('login = "*"\ngroups = ["production", "analysis"]', 'login = "root"\ngroups = ["analysis"]')
    assert told(put(database, new)) == [("change", "account", "ops")]
    with database.snapshot() as conn:
        (found,) = accounts.accounts(conn)
    assert found == new.account["ops"].account()
    assert (found.login, found.principal.groups) == ("root", {"analysis"})


def test_an_operators_switch_survives_files_that_do_not_mention_it(
    database: Database, topology: Topology, edited: Callable[[str, str], Topology]
) -> None:
    put(database, topology)
    name = "T0_CH_Oak_Disk -> T1_DE_Alder_Disk"
    with database.snapshot() as conn:
        ends = {one.id: one.name for one in sites.storage_elements(conn)}
        (cut,) = [
            one for one in sites.links(conn) if f"{ends[one.src_se_id]} -> {ends[one.dst_se_id]}" == name
        ]
    database.transaction(lambda conn: sites.set_link_state(conn, cut.id, Switch.DISABLED, "cable cut"))
    assert put(database, topology) == []
    changes = put(database, edited('tool = "local"', 'tool = "local"\nstate = "ENABLED"'))
    assert changes == [Change("link", name, "change", "note: cable cut -> none; state: DISABLED -> ENABLED")]


def test_nothing_is_removed_unless_asked_for(
    database: Database, edited: Callable[[str, str], Topology]
) -> None:
    more = edited("[[site]]", '[[site]]\nname = "T2_US_Walnut"\n\n[[site]]')
    put(database, more)
    less = read_topology(EMBEDDED, HOME)
    assert put(database, less) == []
    assert told(put(database, less, prune=True)) == [("remove", "site", "T2_US_Walnut")]
    with database.snapshot() as conn:
        assert "T2_US_Walnut" not in stored(conn).site


def test_an_empty_topology_prunes_everything_unused(database: Database, topology: Topology) -> None:
    put(database, topology)
    empty = Topology(**{kind: {} for kind in topology.kinds()})
    assert len(put(database, empty, prune=True)) == 35
    left = counted(database)
    assert {name: n for name, n in left.items() if n} == {"audit_log": 70, "revision": 2}


def _want(conn: Connection, se_id: int) -> None:
    """Somebody wants a dataset at the SE."""
    row = {"id": 1, "kind": WishKind.PLACE, "subject_kind": "dataset", "subject": "/a/b/C", "se_id": se_id}
    times = {"created_at": NOW, "updated_at": NOW}
    insert_rows(conn, wish, [{**row, "owner": "ann", "state": WishState.OPEN, **times}])


def test_what_is_in_use_is_not_pruned_and_nothing_else_is_done(
    database: Database, topology: Topology, edited: Callable[[str, str], Topology]
) -> None:
    put(database, topology)
    with database.snapshot() as conn:
        ash = sites.by_name(sites.storage_elements(conn))["T2_DE_Ash_Disk"]
    database.transaction(lambda conn: _want(conn, ash.id))
    before = counted(database)
    less = edited("slots = 1", "slots = 9")
    rest = {name: one for name, one in less.se.items() if name != ash.name}
    links = {name: one for name, one in less.link.items() if ash.name not in name}
    kinds = {**less.kinds(), "se": rest, "link": links}
    with pytest.raises(Conflict, match=f"se {ash.name} cannot be removed: .* 1 wish"):
        put(database, Topology(**kinds), prune=True)  # type: ignore[arg-type]
    assert counted(database) == before
    with database.snapshot() as conn:
        assert plan(conn, topology, True) == []


def test_a_share_somebody_uses_is_not_pruned(database: Database, topology: Topology) -> None:
    put(database, topology)
    database.transaction(lambda conn: shares.leaf(conn, 1000, "analysis", "ann", NOW))
    assert put(database, topology, prune=True) == []
    kinds = {**topology.kinds(), "share": {"production": topology.share["production"]}}
    with pytest.raises(Conflict, match="share analysis cannot be removed: 1 users") as caught:
        put(database, Topology(**kinds), prune=True)  # type: ignore[arg-type]
    assert "target 0" in str(caught.value.hint)


def test_two_who_apply_at_once_make_one_grid(database: Database, topology: Topology) -> None:
    """They take turns at the queue's row."""
    database.transaction(lambda conn: _queue(conn))
    barrier = threading.Barrier(4)

    def one(number: int) -> int:
        keys = Keys(database)
        barrier.wait(60)
        return len(apply(database, keys, topology, f"op{number}", False, NOW + timedelta(seconds=number)))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [0, 0, 0, 35]
    assert counted(database)["revision"] == 1


def _queue(conn: Connection) -> None:
    if not conn.execute(select(queue)).all():
        insert_rows(conn, queue, [{"id": 1, "name": "jobs"}])
