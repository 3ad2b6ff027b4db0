"""Endpoint rows with their leases, and retry rules over their defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalogs.sites import Site, put_site
from catalogs.states import Switch
from gridcore.db import Database, leases
from gridcore.errors import NotFound
from prodsys.queue import endpoints
from prodsys.queue.endpoints import Endpoint
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass

CLUSTER = Endpoint(
    id=5,
    name="cluster",
    site_id=1,
    lease_id=7,
    kind="local",
    slots=4,
    offer={"cores_max": 2},
    config={"a": [1]},
)


@pytest.fixture
def grid(database: Database) -> Database:
    database.transaction(lambda conn: put_site(conn, Site(id=1, name="T2_DE_Ash", tier=2)))
    assert database.transaction(lambda conn: endpoints.put(conn, CLUSTER))
    return database


def test_an_endpoint_comes_with_a_free_lease(grid: Database) -> None:
    with grid.snapshot() as conn:
        assert endpoints.by_name(conn, "cluster") == CLUSTER
        (row,) = leases.read(conn, ["endpoint/cluster"])
    assert (row.id, row.owner) == (7, None)


def test_putting_it_again_changes_what_differs_and_keeps_its_keys(grid: Database) -> None:
    new = replace(CLUSTER, id=50, lease_id=70)
    assert not grid.transaction(lambda conn: endpoints.put(conn, new))
    new = replace(new, slots=8, offer={}, state=Switch.DISABLED)
    assert grid.transaction(lambda conn: endpoints.put(conn, new))
    with grid.snapshot() as conn:
        assert endpoints.endpoints(conn) == [replace(new, id=5, lease_id=7)]


def test_occupancy_names_the_owner(grid: Database) -> None:
    owner = leases.Owner("prodagent@here:1", "here", "boot", 1, 1)
    with grid.snapshot() as conn:
        rows = leases.read(conn, [CLUSTER.lease_name])
    grid.transaction(lambda conn: leases.take(conn, rows, owner, 300, []))
    with grid.snapshot() as conn:
        (row,) = endpoints.occupancy(conn)
    assert (row.name, row.site, row.slots, row.open, row.owner) == ("cluster", "T2_DE_Ash", 4, 0, owner.name)


def test_an_unused_endpoint_is_removed_with_its_lease(grid: Database) -> None:
    grid.transaction(lambda conn: endpoints.remove(conn, "cluster"))
    with grid.snapshot() as conn:
        assert endpoints.endpoints(conn) == []
        assert leases.read(conn, ["endpoint/cluster"]) == []
        with pytest.raises(NotFound, match="no endpoint 'cluster'"):
            endpoints.by_name(conn, "cluster")


def test_a_retry_rule_overrides_its_default(database: Database) -> None:
    rule = replace(DEFAULT_RULES[ErrorClass.SITE], max_retries=0, final="HELD")
    assert database.transaction(lambda conn: retry_rules.put(conn, rule))
    assert not database.transaction(lambda conn: retry_rules.put(conn, rule))
    rule = replace(rule, delay_s=1.5)
    assert database.transaction(lambda conn: retry_rules.put(conn, rule))
    with database.snapshot() as conn:
        assert retry_rules.rules(conn) == {**DEFAULT_RULES, ErrorClass.SITE: rule}
        assert retry_rules.overrides(conn) == {ErrorClass.SITE: rule}
    assert database.transaction(lambda conn: retry_rules.remove(conn, ErrorClass.SITE))
    with database.snapshot() as conn:
        assert retry_rules.rules(conn) == DEFAULT_RULES
