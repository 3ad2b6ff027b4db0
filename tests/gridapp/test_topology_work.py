"""Agents, site sets, policies, limits and the tree of shares: read from files, applied, exported, pruned."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select, update

from catalogs.tables import site
from gridapp import installation, session
from gridapp.apply import apply, export, plan, stored
from gridapp.cli.main import main
from gridapp.topology.diff import Change
from gridapp.topology.items import AgentItem, LimitItem, PolicyItem, ShareItem, SiteSetItem
from gridapp.topology.reader import GRID_FILE, Topology, read_topology
from gridapp.topology.writer import write_topology
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.errors import GridError, NotFound, UsageError
from gridcore.tables import audit_log
from prodsys.queue import work_limits
from prodsys.requests import assignments, policies
from prodsys.settling import retry_rules
from prodsys.settling.retries import ErrorClass
from prodsys.shares import shares
from prodsys.states import RequestState
from prodsys.tables import (
    agent_endpoint,
    breaker,
    class_site,
    class_use,
    job_class,
    request,
    request_agent,
    share_node,
    site_outcome,
    site_share,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
COLLABORATION = Path(__file__).parents[2] / "etc" / "collaboration"
GRID = """
[[site]]
name = "T1_DE_Alder"

[[site]]
name = "T2_FR_Birch"

[[site_set]]
name = "near"
sites = ["T1_DE_Alder", "T2_FR_Birch"]

[[endpoint]]
name = "alder"
site = "T1_DE_Alder"
slots = 4
offer = { disk_mb = 20_000, tags = ["root-6.32"], gpus = 1, outbound = false }

[[endpoint]]
name = "birch"
site = "T2_FR_Birch"
slots = 4

[[agent]]
name = "north"
endpoints = ["alder"]

[[agent]]
name = "south"
endpoints = ["birch"]

[[share]]
group = "cms"
target = 70
half_life_s = 3600

[[share]]
group = "cms/higgs"
target = 3
floor = 0.25
cap = 0.75
child_target = 2.5
weights = { T2_FR_Birch = 4.0, T1_DE_Alder = 1 }

[[share]]
group = "cms/top"
target = 1

[[limit]]
name = "few"
site = "T1_DE_Alder"
share = "cms/higgs"
type = "analysis"
max_jobs = 3
max_cores = 12

[[limit]]
name = "ann"
share = "cms/top/ann"
max_jobs = 0

[[policy]]
name = "higgs"
rank = 10
groups = ["cms/higgs"]
requesters = ["ann"]
names = ["mc-*", "test-?"]
min_priority = 1
max_priority = 9
agents = ["north"]
sites = ["T2_FR_Birch"]
site_sets = ["near"]

[[policy]]
name = "rest"
rank = 20

[[retry]]
error_class = "memory"
bigger = "none"
"""


def read(directory: Path) -> Topology:
    return read_topology(directory, {"TIERFLOW_DIR": "/grid"})


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    (tmp_path / GRID_FILE).write_text(GRID)
    return read(tmp_path)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Topology]:
    """The grid with texts replaced by others, each (old, new)."""

    def edit(*pairs: tuple[str, str]) -> Topology:
        text = GRID
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / GRID_FILE).write_text(text)
        return read(tmp_path)

    return edit


def put(database: Database, topology: Topology, *, prune: bool = False) -> list[Change]:
    return apply(database, Keys(database), topology, "ann", prune, NOW)


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(one.action, one.kind, one.name) for one in changes]


def without(topology: Topology, **gone: str) -> Topology:
    """The topology without one item of each of these kinds, unchecked."""
    kinds: dict[str, Any] = dict(topology.kinds())
    for kind, name in gone.items():
        kinds[kind] = {key: one for key, one in kinds[kind].items() if key != name}
    return Topology(**kinds)


def rows(database: Database, table: Any) -> int:
    with database.snapshot() as conn:
        return int(conn.execute(select(func.count()).select_from(table)).scalar_one())


def refused(database: Database, topology: Topology, pattern: str, prune: bool = True) -> None:
    """Applying it is refused in one line with a cure, and nothing is half done."""
    with database.snapshot() as conn:
        before, audited = stored(conn), conn.execute(select(audit_log)).all()
    with pytest.raises(GridError, match=pattern) as caught:
        put(database, topology, prune=prune)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    with database.snapshot() as conn:
        assert stored(conn) == before
        assert conn.execute(select(audit_log)).all() == audited


# --- what is read ------------------------------------------------------------------------------------


def test_the_tables_are_read(topology: Topology) -> None:
    assert topology.agent["north"] == AgentItem(name="north", endpoints=frozenset({"alder"}))
    assert topology.site_set["near"] == SiteSetItem(
        name="near", sites=frozenset({"T1_DE_Alder", "T2_FR_Birch"})
    )
    assert topology.limit["few"] == LimitItem(
        name="few", site="T1_DE_Alder", share="cms/higgs", type="analysis", max_jobs=3, max_cores=12
    )
    assert topology.share["cms/higgs"] == ShareItem(
        name="cms/higgs", target=3, floor=0.25, cap=0.75, child_target=2.5, weights={"T2_FR_Birch": 4.0}
    )
    assert topology.share["cms"].half_life_s == 3600
    assert topology.policy["rest"] == PolicyItem(name="rest", rank=20)
    offer = {"disk_mb": 20_000, "tags": ["root-6.32"], "gpus": 1, "outbound": False}
    assert topology.endpoint["alder"].offer == offer
    assert topology.endpoint["birch"].offer == {}
    assert topology.retry["memory"].rule.bigger is None


def test_what_is_written_reads_back(topology: Topology, tmp_path: Path) -> None:
    write_topology(topology, tmp_path / "copy")
    again = read(tmp_path / "copy")
    assert again == topology
    assert again.digest() == topology.digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # the tree of shares
        ("target = 3", "target = -3", r"share cms/higgs has the target -3"),
        ("target = 70", "target = 0", r"the targets of cms are all 0"),
        ("target = 70", "target = inf", r"share\.1\.target"),
        ("floor = 0.25", "floor = -0.25", r"share\.2\.floor"),
        ("floor = 0.25", "floor = 0.8", r"share\.2: the floor 0\.8 is above the cap"),
        ("cap = 0.75", "cap = 1.5", r"share\.2\.cap"),
        ('"cms/top"\ntarget = 1', '"cms/top"\ntarget = 1\nfloor = 0.9', r"floors of .* sum to 1\.15"),
        ("child_target = 2.5", "child_target = -1", r"share\.2\.child_target"),
        ("child_target = 2.5", "half_life_s = 60", r"share\.2: half_life_s .*give it to cms"),
        ("half_life_s = 3600", "half_life_s = 0", r"share\.1\.half_life_s"),
        ("T2_FR_Birch = 4.0", "T2_FR_Birhc = 4.0", r"share\.2\.weights: .*mean T2_FR_Birch"),
        ("T2_FR_Birch = 4.0", "T2_FR_Birch = -4.0", r"share\.2\.weights"),
        (
            'group = "cms"',
            'group = "atlas"',
            r"share\.2\.group: cms/higgs is below cms, which is no",
        ),
        ('group = "cms/top"', 'group = "cms/higgs/cms/top"', r"share\.3\.group: .*below cms/higgs/cms"),
        ('group = "cms/top"', 'group = "cms/../cms"', r"share\.3\.group: '\.\.' is no group"),
        ('group = "cms/top"', 'group = "cms/"', r"share\.3\.group: '' is no group"),
        ('group = "cms/top"', 'group = "cms/higgs"', r"share\.3: 'cms/higgs' is there already"),
        ('group = "cms/top"', f'group = "cms/{"t" * 60}"', r"share\.3\.group"),
        # agents and site sets
        ('endpoints = ["birch"]', 'endpoints = ["brich"]', r"agent\.2\.endpoints: .*mean birch"),
        ('["birch"]', '["birch", "alder"]', r"agent\.2\.endpoints: alder is the agent north's already"),
        ('endpoints = ["birch"]', "endpoints = []", r"agent\.2\.endpoints"),
        ('name = "south"', 'name = "north"', r"agent\.2: 'north' is there already"),
        ('sites = ["T1_DE_Alder", ', 'sites = ["T1_DE_Adler", ', r"site_set\.1\.sites: .*mean T1_DE_Alder"),
        ('sites = ["T1_DE_Alder", "T2_FR_Birch"]', "sites = []", r"site_set\.1\.sites"),
        # policies
        ('agents = ["north"]', 'agents = ["nroth"]', r"policy\.1\.agents: .*'nroth'.*mean north"),
        ('site_sets = ["near"]', 'site_sets = ["far"]', r"policy\.1\.site_sets: .*known are near"),
        ('sites = ["T2_FR_Birch"]', 'sites = ["T2_FR_Elm"]', r"policy\.1\.sites: there is no site"),
        ('groups = ["cms/higgs"]', 'groups = ["cms/hggs"]', r"policy\.1\.groups: .*mean cms/higgs"),
        ('groups = ["cms/higgs"]', "groups = []", r"policy\.1\.groups"),
        ("min_priority = 1", "min_priority = 10", r"policy\.1: no priority is at least 10 and at most 9"),
        ("rank = 20", "", r"policy\.2\.rank: is missing"),
        ("rank = 20", "rank = 20\nsite_sest = []", r"policy\.2\.site_sest: unknown key"),
        ('"mc-*"', '"mc /"', r"policy\.1\.names\.1: 'mc /' is no pattern"),
        # limits
        ("max_jobs = 3", "max_jobs = -3", r"limit\.1\.max_jobs = -3"),
        ("max_cores = 12", "max_cores = -1", r"limit\.1\.max_cores = -1"),
        ("max_jobs = 0", "", r"limit\.2: the limit limits nothing"),
        ('share = "cms/top/ann"', "", r"limit\.2: the limit is of nothing"),
        ('share = "cms/higgs"', 'share = "atlas/higgs"', r"limit\.1\.share: there is no group 'atlas/higgs'"),
        ('share = "cms/higgs"', 'share = "cmz"', r"limit\.1\.share: .*mean cms"),
        ('site = "T1_DE_Alder"\nshare', 'site = "T1_DE_Elder"\nshare', r"limit\.1\.site: .*T1_DE_Alder"),
        # offers and retries
        ("gpus = 1", "gpus = -1", r"endpoint\.1\.offer\.gpus"),
        ("disk_mb = 20_000", "disk_mb = 0", r"endpoint\.1\.offer\.disk_mb"),
        ('bigger = "none"', 'bigger = "cores"', r"retry\.1\.bigger"),
        ('bigger = "none"', "factor = 0.5", r"retry\.1\.factor"),
    ],
)
def test_bad_input_is_one_line_with_a_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GRID
    (tmp_path / GRID_FILE).write_text(GRID.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    line = f"{caught.value.message}; {caught.value.hint}"
    assert re.search(message, line), line
    assert str(tmp_path) in line
    assert "\n" not in line
    assert caught.value.hint or re.search("should|not a valid", line)


names = st.none() | st.frozensets(st.text("abc-*", min_size=1, max_size=3), min_size=1)
some = st.frozensets(st.text("abc", min_size=1, max_size=3))


@given(groups=names, patterns=names, least=st.none() | st.integers(), agents=some, sites=some)
def test_a_policy_is_its_rule(
    groups: frozenset[str] | None,
    patterns: frozenset[str] | None,
    least: int | None,
    agents: frozenset[str],
    sites: frozenset[str],
) -> None:
    item = PolicyItem(
        name="p", rank=1, groups=groups, names=patterns, min_priority=least, agents=agents, sites=sites
    )
    rule = json.loads(json.dumps(item.rule()))
    assert PolicyItem.of("p", 1, rule) == item
    facts = policies.rule_of("p", 1, rule)
    assert (facts.groups, facts.min_priority, frozenset(facts.agents)) == (groups, least, agents)


# --- what is applied ---------------------------------------------------------------------------------


def test_everything_is_applied_once_and_exported(
    database: Database, topology: Topology, tmp_path: Path
) -> None:
    changes = put(database, topology)
    assert len(changes) == sum(len(items) for items in topology.kinds().values())
    with database.snapshot() as conn:
        export(conn, tmp_path / "out")
        assert stored(conn) == read(tmp_path / "out")
        assert plan(conn, read(tmp_path / "out"), True) == []
    assert put(database, topology, prune=True) == []
    assert rows(database, audit_log) == len(changes)


def test_the_rows_say_what_the_files_say(database: Database, topology: Topology) -> None:
    put(database, topology)
    with database.snapshot() as conn:
        ids = {row.name: row.id for row in conn.execute(select(site))}
        assert [(one.name, one.rank) for one in assignments.policies(conn)] == [("higgs", 10), ("rest", 20)]
        higgs, rest = (one.rule for one in assignments.policies(conn))
        (near,) = assignments.site_sets(conn)
        limits = {one.name: one for one in work_limits.limits(conn)}
        nodes = {one.path: one for one in shares.tree(conn, NOW, ids["T2_FR_Birch"])}
        rule = retry_rules.rules(conn)[ErrorClass.MEMORY]
    assert higgs == {
        "groups": ["higgs"],
        "requesters": ["ann"],
        "names": ["mc-*", "test-?"],
        "min_priority": 1,
        "max_priority": 9,
        "agents": ["north"],
        "sites": ["T2_FR_Birch"],
        "site_sets": ["near"],
    }
    empty: dict[str, Any] = dict.fromkeys(higgs)
    assert rest == {**empty, "agents": [], "sites": [], "site_sets": []}
    assert near.sites == set(ids.values())
    assert limits["few"].site_id == ids["T1_DE_Alder"]
    assert (limits["ann"].share_path, limits["ann"].max_jobs, limits["ann"].site_id) == (
        "cms/top/ann",
        0,
        None,
    )
    higgs_node = nodes["cms/higgs"]
    assert (higgs_node.parent, higgs_node.weight) == (nodes["cms"].id, 4.0)
    assert (higgs_node.floor, higgs_node.cap, higgs_node.child_target) == (0.25, 0.75, 2.5)
    assert (nodes["cms"].half_life_s, nodes["cms/top"].weight) == (3600, 1.0)
    assert rule.bigger is None


def test_changes_are_told_and_made(database: Database, edited: Callable[..., Topology]) -> None:
    put(database, edited())
    new = edited(
        ("max_jobs = 3", "max_jobs = 5"),
        ("rank = 20", 'rank = 5\nagents = ["south"]'),
        ('sites = ["T1_DE_Alder", "T2_FR_Birch"]', 'sites = ["T2_FR_Birch"]'),
        ("floor = 0.25\ncap = 0.75\n", ""),
        ("T2_FR_Birch = 4.0, T1_DE_Alder = 1", "T1_DE_Alder = 0.5"),
    )
    changes = {f"{one.kind} {one.name}": one.detail for one in put(database, new)}
    assert changes == {
        "site_set near": "sites: T1_DE_Alder, T2_FR_Birch -> T2_FR_Birch",
        "share cms/higgs": "cap: 0.75 -> none; floor: 0.25 -> none; "
        "weights: T2_FR_Birch = 4 -> T1_DE_Alder = 0.5",
        "limit few": "max_jobs: 3 -> 5",
        "policy rest": "agents: none -> south; rank: 20 -> 5",
    }
    with database.snapshot() as conn:
        assert stored(conn).kinds() == {**new.kinds(), **_settled(stored(conn))}


def _settled(found: Topology) -> dict[str, Any]:
    """The kinds whose switches files leave open."""
    return {kind: found.kinds()[kind] for kind in ("site", "endpoint")}


def test_endpoints_change_their_agent(database: Database, edited: Callable[..., Topology]) -> None:
    put(database, edited())
    swap = edited(
        ('endpoints = ["alder"]', 'endpoints = ["x"]'),
        ('endpoints = ["birch"]', 'endpoints = ["alder"]'),
        ('endpoints = ["x"]', 'endpoints = ["birch"]'),
    )
    assert told(put(database, swap)) == [("change", "agent", "north"), ("change", "agent", "south")]
    with database.snapshot() as conn:
        assert stored(conn).agent == swap.agent


def test_an_agent_the_files_do_not_name_keeps_its_endpoints(
    database: Database, edited: Callable[..., Topology]
) -> None:
    put(database, edited())
    new = edited(('name = "south"\nendpoints = ["birch"]', 'name = "west"\nendpoints = ["birch"]'))
    refused(database, new, "together: birch is the agent south's already, west cannot have it", prune=False)
    assert told(put(database, new, prune=True)) == [("add", "agent", "west"), ("remove", "agent", "south")]
    with database.snapshot() as conn:
        assert stored(conn).agent == new.agent


def test_shares_must_suit_those_the_files_do_not_name(
    database: Database, topology: Topology, edited: Callable[..., Topology]
) -> None:
    put(database, topology)
    more = edited(
        ('"cms/top"\ntarget = 1', '"cms/exotica"\ntarget = 1\nfloor = 0.7'),
        ('share = "cms/top/ann"', 'share = "cms/exotica/ann"'),
        ("floor = 0.25", "floor = 0.3"),
    )
    assert ("add", "share", "cms/exotica") in told(put(database, more))
    again = edited(("floor = 0.25", "floor = 0.4"))
    with database.snapshot() as conn, pytest.raises(UsageError, match=r"floors of .* sum to 1\.1"):
        plan(conn, again, False)
    refused(database, again, r"together: the floors of .* sum to 1\.1", prune=False)


def test_the_share_of_a_user_is_none_of_the_topology(database: Database, topology: Topology) -> None:
    put(database, topology)
    database.transaction(lambda conn: shares.leaf(conn, 1000, "cms/higgs", "ann", NOW))
    with database.snapshot() as conn:
        assert stored(conn).share == topology.share
        assert plan(conn, topology, True) == []
        found = {one.path: one.target for one in shares.tree(conn, NOW)}
    assert found["cms/higgs/ann"] == 2.5


def test_groups_made_before_shares_were_finer_are_the_same(database: Database, topology: Topology) -> None:
    """An older release left the target of children open."""
    put(database, topology)
    plain = update(share_node).where(share_node.c.path == "cms").values(child_target=None)
    database.transaction(lambda conn: conn.execute(plain))
    with database.snapshot() as conn:
        assert stored(conn).share == topology.share


# --- what is pruned ----------------------------------------------------------------------------------


def test_all_of_it_can_be_pruned(database: Database, topology: Topology) -> None:
    changes = put(database, topology)
    empty = Topology(**{kind: {} for kind in topology.kinds()})
    gone = told(put(database, empty, prune=True))
    assert sorted(name for _, _, name in gone) == sorted(one.name for one in changes)
    assert gone.index(("remove", "share", "cms/higgs")) < gone.index(("remove", "share", "cms"))
    with database.snapshot() as conn:
        assert stored(conn) == empty
    for table in (agent_endpoint, site_share, share_node):
        assert rows(database, table) == 0


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ({"agent": "north"}, "agent north cannot be removed: it is named by the policy higgs"),
        ({"site_set": "near"}, "site_set near cannot be removed: it is named by the policy higgs"),
        (
            {"share": "cms/higgs", "policy": "higgs"},
            "share cms/higgs cannot be removed: .* by the limit few",
        ),
        (
            {"share": "cms/higgs", "limit": "few"},
            "share cms/higgs cannot be removed: .* by the policy higgs",
        ),
        ({"share": "cms/top"}, "share cms/top cannot be removed: .* by the limit ann"),
        (
            {"site": "T2_FR_Birch", "endpoint": "birch", "agent": "south"},
            "site T2_FR_Birch cannot be removed: .* by the policy higgs",
        ),
        (
            {"site": "T1_DE_Alder", "endpoint": "alder"},
            "site T1_DE_Alder cannot be removed: .* by the limit few",
        ),
        (
            {"site": "T1_DE_Alder", "endpoint": "alder", "limit": "few"},
            "site T1_DE_Alder cannot be removed: .* 1 site_set_member",
        ),
    ],
)
def test_what_others_name_is_not_pruned(
    database: Database, topology: Topology, gone: dict[str, str], message: str
) -> None:
    put(database, topology)
    refused(database, without(topology, **gone), message)


def _assign(database: Database, state: RequestState) -> None:
    """A request at the agent north."""

    def unit(conn: Connection) -> None:
        (north, _) = assignments.agents(conn)
        row = {"id": 1, "client_id": "c", "digest": "d", "name": "r", "spec": {}, "state": state}
        who = {"requester": "ann", "acct_group": "cms", "priority": 0, "created_at": NOW, "updated_at": NOW}
        insert_rows(conn, request, [{**row, **who}])
        insert_rows(conn, request_agent, [{"request_id": 1, "agent_id": north.id}])

    database.transaction(unit)


def test_an_endpoint_leaves_its_agent_when_it_goes(database: Database, topology: Topology) -> None:
    put(database, topology)
    less = without(topology, endpoint="birch")
    assert told(put(database, less, prune=True)) == [("remove", "endpoint", "birch")]
    with database.snapshot() as conn:
        assert [len(one.endpoints) for one in assignments.agents(conn)] == [1, 0]


def test_an_agent_with_work_is_not_pruned(database: Database, topology: Topology) -> None:
    put(database, topology)
    _assign(database, RequestState.RUNNING)
    less = without(topology, agent="north", policy="higgs")
    refused(database, less, "agent north cannot be removed: 1 unfinished request is assigned to it")


def test_an_agent_whose_requests_have_ended_is_pruned(database: Database, topology: Topology) -> None:
    put(database, topology)
    _assign(database, RequestState.ABORTED)
    less = without(topology, agent="north", policy="higgs")
    assert told(put(database, less, prune=True)) == [
        ("remove", "policy", "higgs"),
        ("remove", "agent", "north"),
    ]
    assert (rows(database, request_agent), rows(database, agent_endpoint)) == (0, 1)


def _measure(conn: Connection, jobs: int) -> None:
    """What a site has once it has worked, with active jobs of a class."""
    birch = conn.execute(select(site.c.id).where(site.c.name == "T2_FR_Birch")).scalar_one()
    top = conn.execute(select(share_node.c.id).where(share_node.c.path == "cms/top")).scalar_one()
    names = {"fingerprint": "f", "leaf_id": top, "task_type": "analysis", "requirements": {}, "cores": 1}
    insert_rows(conn, job_class, [{"id": 1, **names}])
    insert_rows(conn, class_use, [{"class_id": 1, "site_id": birch, "jobs": jobs, "cores": jobs}])
    verdict = {"class_id": 1, "site_id": birch, "eligible": True, "decided_at": NOW}
    insert_rows(conn, class_site, [verdict])
    outcome = {"site_id": birch, "bin": NOW, "error_class": "ok", "jobs": 3, "core_s": 3.0}
    insert_rows(conn, site_outcome, [outcome])
    opened = {"site_id": birch, "error_class": "site", "state": "OPEN", "trips": 1, "changed_at": NOW}
    insert_rows(conn, breaker, [opened])


BIRCH = {"site": "T2_FR_Birch", "endpoint": "birch", "agent": "south", "policy": "higgs", "site_set": "near"}


def test_what_was_derived_of_a_site_goes_with_it(database: Database, topology: Topology) -> None:
    put(database, topology)
    database.transaction(lambda conn: _measure(conn, 0))
    assert ("remove", "site", "T2_FR_Birch") in told(put(database, without(topology, **BIRCH), prune=True))
    for table in (class_use, class_site, site_outcome, breaker, site_share):
        assert rows(database, table) == 0


def test_a_site_where_jobs_are_active_stays(database: Database, topology: Topology) -> None:
    put(database, topology)
    database.transaction(lambda conn: _measure(conn, 2))
    refused(database, without(topology, **BIRCH), "site T2_FR_Birch cannot be removed: .* 1 class_use")
    assert rows(database, breaker) == rows(database, site_outcome) == rows(database, class_site) == 1
    idle = update(class_use).values(jobs=0, cores=0)
    database.transaction(lambda conn: conn.execute(idle))


def test_what_is_not_there_cannot_be_removed(database: Database) -> None:
    removals = (assignments.remove_agent, assignments.remove_site_set, assignments.remove_policy)
    for remove in (*removals, work_limits.remove):
        with pytest.raises(NotFound, match="'none'"):
            database.transaction(partial(remove, name="none"))


# --- the sample --------------------------------------------------------------------------------------


def test_the_collaboration_is_applied_and_exported(database: Database, tmp_path: Path) -> None:
    sample = read(COLLABORATION)
    tiers = [sum(name.startswith(tier) for name in sample.site) for tier in ("T0", "T1", "T2")]
    assert tiers == [1, 3, 8]
    assert {one for agent in sample.agent.values() for one in agent.endpoints} == set(sample.endpoint)
    with database.snapshot() as conn:
        planned = plan(conn, sample, False)
    assert rows(database, site) == 0
    assert put(database, sample) == planned
    with database.snapshot() as conn:
        export(conn, tmp_path / "out")
        assert plan(conn, read(tmp_path / "out"), True) == []
    assert put(database, sample, prune=True) == []


def test_the_commands_apply_the_collaboration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERFLOW_DIR", raising=False)
    home = tmp_path / "grid"
    installation.create(session.settings(home, None)).close()

    def run(*args: object) -> str:
        result = CliRunner().invoke(main, ["--dir", str(home), *map(str, args)])
        assert result.exit_code == 0, result.output
        return result.stdout

    planned = run("apply", COLLABORATION, "--dry-run", "--json")
    assert '"south"' in planned
    assert run("apply", COLLABORATION, "--json") == planned
