"""Share nodes in the database: made by apply and by first use, weighted by sites, decayed by their root."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text

from catalogs import sites
from gridcore.db import Database, insert_rows
from gridcore.errors import NotFound, UsageError
from prodsys.shares import shares
from prodsys.shares.fairshare import ShareNode, check_tree
from prodsys.tables import share_node, site_share, task

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def tree(database: Database, at: datetime = NOW, site_id: int | None = None) -> dict[str, ShareNode]:
    with database.snapshot() as conn:
        return {node.path: node for node in shares.tree(conn, at, site_id)}


def put(conn: Connection, key: int, path: str, target: float = 1.0, **more: Any) -> bool:
    parent = path.rpartition("/")[0] or None
    return shares.put(conn, key, path, parent, target, NOW, **more)


def collaboration(conn: Connection) -> None:
    """cms: higgs (prod, skims) and top (prod); atlas."""
    names = ("cms", "cms/higgs", "cms/higgs/prod", "cms/higgs/skims", "cms/top", "cms/top/prod", "atlas")
    for key, path in enumerate(names, 1):
        put(conn, key, path, float(key))


def use(conn: Connection, path: str, used: float) -> None:
    conn.execute(text("UPDATE share_node SET used = :used WHERE path = :path"), {"used": used, "path": path})


def new_task(key: int, leaf_id: int) -> dict[str, Any]:
    """The row of a task, which makes its leaf a user's."""
    named = {"client_id": f"c{key}", "name": f"task{key}", "task_type": "analysis", "requester": "ann"}
    counted = {"state": "ACTIVE", "spec": {}, "acct_group": "g", "priority": 0, "unit_kind": "events"}
    return {"id": key, "leaf_id": leaf_id, **named, **counted, "created_at": NOW, "updated_at": NOW}


def test_put_makes_and_changes_nodes(database: Database) -> None:
    database.transaction(collaboration)
    found = tree(database)
    assert found["cms/higgs/prod"].parent == found["cms/higgs"].id
    assert found["cms"].parent is None
    settings = {"floor": 0.25, "cap": 0.5, "child_target": 3.0}
    assert database.transaction(lambda conn: put(conn, 50, "cms/higgs", 9.0, **settings))
    assert not database.transaction(lambda conn: put(conn, 51, "cms/higgs", 9.0, **settings))
    one = tree(database)["cms/higgs"]
    assert (one.id, one.target, one.floor, one.cap, one.child_target) == (2, 9.0, 0.25, 0.5, 3.0)
    assert database.transaction(lambda conn: put(conn, 52, "cms/higgs", 9.0, cap=0.5))
    assert tree(database)["cms/higgs"].floor is None
    check_tree(tree(database).values())


def test_a_node_needs_its_parent(database: Database) -> None:
    with pytest.raises(UsageError, match="no share 'lhcb'"):
        database.transaction(lambda conn: put(conn, 1, "lhcb/charm"))
    assert tree(database) == {}


def test_change_keeps_what_is_not_named(database: Database) -> None:
    database.transaction(lambda conn: put(conn, 1, "cms", 2.0, cap=0.5))
    assert database.transaction(lambda conn: shares.change(conn, "cms", {"floor": 0.1}, NOW))
    assert database.transaction(lambda conn: shares.change(conn, "cms", {"cap": None}, NOW))
    assert not database.transaction(lambda conn: shares.change(conn, "cms", {"cap": None}, NOW))
    one = tree(database)["cms"]
    assert (one.target, one.floor, one.cap) == (2.0, 0.1, None)
    with pytest.raises(NotFound, match="no share top"):
        database.transaction(lambda conn: shares.change(conn, "top", {"cap": None}, NOW))


def test_users_get_what_their_group_gives_new_ones(database: Database) -> None:
    def unit(conn: Connection) -> tuple[int, ...]:
        put(conn, 1, "higgs", 5.0, child_target=7.0)
        put(conn, 2, "top", 5.0)
        asked = (("higgs", "ann"), ("top", "ann"), ("higgs", "ann"))
        return tuple(shares.leaf(conn, key, group, user, NOW) for key, (group, user) in enumerate(asked, 10))

    assert database.transaction(unit) == (10, 11, 10)
    found = tree(database)
    assert (found["higgs/ann"].target, found["higgs/ann"].parent) == (7.0, 1)
    assert found["top/ann"].target == shares.LEAF_TARGET


def test_a_group_is_named_by_its_path_or_the_end_of_it(database: Database) -> None:
    def unit(conn: Connection) -> None:
        collaboration(conn)
        for key, group in enumerate(("higgs", "cms/top", "skims", "higgs/prod", "cms"), 20):
            shares.leaf(conn, key, group, "ann", NOW)
        assert shares.unknown_groups(conn, ["higgs", "cms", "top/prod", "charm", "iggs"]) == ["charm", "iggs"]
        for act in (shares.leaf, lambda conn, key, group, *_: shares.unknown_groups(conn, [group])):
            with pytest.raises(UsageError, match="may be any of cms/higgs/prod, cms/top/prod"):
                act(conn, 30, "prod", "ann", NOW)

    database.transaction(unit)
    leaves = {path for path, node in tree(database).items() if node.id >= 20}
    assert leaves == {
        *("cms/higgs/ann", "cms/top/ann", "cms/higgs/skims/ann", "cms/higgs/prod/ann", "cms/ann")
    }


def test_a_users_leaf_is_no_group(database: Database) -> None:
    """A user called like the end of a path: nothing may be put below work that waits."""

    def unit(conn: Connection) -> None:
        put(conn, 1, "production")
        insert_rows(conn, task, [new_task(1, shares.leaf(conn, 2, "production", "anna", NOW))])
        assert shares.unknown_groups(conn, ["anna"]) == ["anna"]
        with pytest.raises(UsageError, match="'anna' has no share") as refused:
            shares.leaf(conn, 3, "anna", "bob", NOW)
        assert refused.value.hint == "groups with one: production"

    database.transaction(unit)


def test_work_never_waits_on_a_share_with_others_below(database: Database) -> None:
    """It would not be served: neither may a user be called like a group, nor a group be put below a user."""

    def unit(conn: Connection) -> None:
        collaboration(conn)
        with pytest.raises(UsageError, match="cms/higgs is a group"):
            shares.leaf(conn, 20, "cms", "higgs", NOW)
        put(conn, 21, "atlas/jets", child_target=1.0)
        with pytest.raises(UsageError, match="atlas/jets is a group"):
            shares.leaf(conn, 22, "atlas", "jets", NOW)
        insert_rows(conn, task, [new_task(1, shares.leaf(conn, 23, "atlas", "ann", NOW))])
        assert shares.leaf(conn, 24, "atlas", "ann", NOW) == 23
        assert shares.unknown_groups(conn, ["atlas/ann"]) == ["atlas/ann"]
        with pytest.raises(UsageError, match="the share atlas/ann is a user's"):
            put(conn, 25, "atlas/ann/deep")

    database.transaction(unit)
    assert {node.id for node in tree(database).values() if node.id >= 20} == {21, 23}


def test_a_site_weighs_some_nodes(database: Database) -> None:
    def unit(conn: Connection) -> None:
        collaboration(conn)
        for key in (1, 2):
            sites.put_site(conn, sites.Site(id=key, name=f"T2_DE_Oak{key}", tier=2))
        assert shares.set_weights(conn, {(1, 1): 3.0, (2, 7): 0.0, (2, 1): 1.0}) == 2
        assert shares.set_weights(conn, {(1, 1): 3.0}) == 0

    database.transaction(unit)
    assert [tree(database, site_id=one)["cms"].weight for one in (None, 1, 2)] == [1.0, 3.0, 1.0]
    assert tree(database, site_id=2)["atlas"].weight == 0.0
    assert len(tree(database, site_id=1)) == len(tree(database))
    assert database.transaction(lambda conn: shares.set_weights(conn, {(1, 1): 1.0, (2, 7): 0.5})) == 2
    with database.snapshot() as conn:
        assert shares.weights(conn) == {(2, 7): 0.5}
        assert len(conn.execute(select(site_share)).all()) == 1


def test_use_decays_by_the_half_life_of_the_root(database: Database) -> None:
    def unit(conn: Connection) -> None:
        put(conn, 1, "fast", half_life_s=3600.0)
        put(conn, 2, "slow")
        for key, path in ((3, "fast/a"), (4, "fast/a/b"), (5, "slow/a")):
            put(conn, key, path)
            use(conn, path, 800.0)

    database.transaction(unit)
    later = tree(database, NOW + 24 * HOUR)
    assert later["slow/a"].used == pytest.approx(400)
    assert later["fast/a/b"].used == pytest.approx(800 / 2**24)
    assert database.transaction(lambda conn: shares.settle(conn, NOW + HOUR)) == 5
    with database.snapshot() as conn:
        used = dict(conn.execute(select(share_node.c.path, share_node.c.used)).all())
    assert used["fast/a/b"] == pytest.approx(400)
    assert used["slow/a"] == pytest.approx(800 * 2 ** (-1 / 24))
    # Written or not, it is the same.
    assert tree(database, NOW + 24 * HOUR)["slow/a"].used == pytest.approx(400)
    assert tree(database, NOW)["slow/a"].used == pytest.approx(used["slow/a"])


def test_a_new_half_life_counts_from_now_on(database: Database) -> None:
    def unit(conn: Connection) -> None:
        put(conn, 1, "cms")
        put(conn, 2, "cms/ann")
        use(conn, "cms/ann", 800.0)

    database.transaction(unit)
    at = NOW + 24 * HOUR
    database.transaction(lambda conn: shares.change(conn, "cms", {"half_life_s": 3600.0}, at))
    assert tree(database, at)["cms/ann"].used == pytest.approx(400)
    assert tree(database, at + HOUR)["cms/ann"].used == pytest.approx(200)


def test_the_tree_takes_one_statement(database: Database) -> None:
    """Every claim reads it."""
    database.transaction(collaboration)
    seen: list[str] = []
    with database.snapshot() as conn:
        event.listen(conn, "before_cursor_execute", lambda *args: seen.append(args[2]))
        assert len(shares.tree(conn, NOW, 1)) == 7
    assert len(seen) == 1
