"""Every reason of the data half: built by its agents on the smallest grid, told with turn and cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from grids.data_grid import DATASET, POLICY, DataGrid, Worker
from sqlalchemy import select, update

from catalogs import bookkeeping, exceptions, registration, sites, validity
from catalogs.exceptions import FileFault
from catalogs.filebatch import NewFile
from catalogs.states import InvalidCode, Switch
from catalogs.tables import block, block_replica, data_file
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.links import linkends, linkstates, linkwords
from datamgmt.links.health import Outcome, Phase
from datamgmt.links.linkends import Ended
from datamgmt.reasons import Reason
from datamgmt.subscriptions import store
from datamgmt.tables import block_dest, transfer
from datamgmt.wanted import destinations
from gridapp.insights.why import why
from gridcore.db import Database, insert_rows
from gridcore.errors import NotFound
from gridcore.tables import quota

LINKS = 100


@dataclass
class Story:
    """A grid of three storage elements, and the worker that runs its agents."""

    grid: DataGrid
    workers: list[Worker] = field(default_factory=list)

    @property
    def worker(self) -> Worker:
        """The first one."""
        return self.workers[0] if self.workers else self.hire()

    def hire(self, *kinds: str) -> Worker:
        self.workers.append(self.grid.worker(*(["one", kinds] if kinds else [])))
        self.workers[-1].take()
        return self.workers[-1]

    def cycles(self, *kinds: str) -> None:
        for kind in kinds:
            self.worker.cycle(kind)

    def planned(self, *pairs: str, dst: str = "B", files: int = 3) -> int:
        """A dataset at A that is wanted elsewhere, routed and queued; the subscription."""
        self.grid.link(*pairs)
        self.grid.produce(files)
        key = self.grid.subscribe(dst)
        self.hire()
        self.cycles("block_manager", "router")
        return key

    def held(self) -> tuple[int, int]:
        """(block, SE) of the first replica."""
        rows = select(block_replica.c.block_id, block_replica.c.se_id).order_by(block_replica.c.se_id)
        return tuple(self.grid.rows(rows)[0])  # type: ignore[return-value]

    def delete(self, at: str, *, decides: bool = True, undelete_s: float = 60.0) -> str:
        """A deletion of the block's replica there, as `why` is asked about it."""
        (block_id, _), key = self.held(), self.grid.keys.one("deletion")
        window = timedelta(seconds=undelete_s)
        by = Asker("anna", "physics", decides)
        where = block_id, self.grid.ids[at]
        self.grid.do(lambda conn, now: deletion.ask_all(conn, [key], [where], by, now, undelete=window))
        return f"del:{key}"

    def carry_out(self) -> None:
        """The time of all deletions comes."""
        self.grid.clock.advance(3600)
        later = timedelta(minutes=10)
        self.grid.do(lambda conn, now: deletion.carry_out(conn, now, 100, later))

    def copied(self) -> None:
        """A copy at B that no subscription asks for any more."""
        key = self.planned("AB")
        self.worker.run()
        self.grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))


def sub(key: int) -> str:
    return f"sub:{key}"


# --- deliveries --------------------------------------------------------------------------------------


def allocated(story: Story) -> str:
    story.grid.link("AB")
    story.grid.produce(1)
    key = story.grid.subscribe("B")
    story.cycles("block_manager")
    return sub(key)


def routed(story: Story) -> str:
    return sub(story.planned("AB"))


def queued(story: Story) -> str:
    return sub(story.planned("AB"))


def agent_absent(story: Story) -> str:
    story.grid.link("AB")
    story.grid.produce(3)
    key = story.grid.subscribe("B")
    story.hire("block_manager", "router")
    story.cycles("block_manager", "router")
    return sub(key)


def in_flight(story: Story) -> str:
    key = story.planned("AB")
    agent: Any = story.worker.agents["transfer_agent"]
    agent._write = lambda *_: None
    story.cycles("transfer_agent")
    return sub(key)


def failing(story: Story) -> int:
    story.grid.tool._fail = 1.0
    key = story.planned("AB", files=1)
    story.cycles("transfer_agent")
    return key


def retry_later(story: Story) -> str:
    return sub(failing(story))


def source_missing(story: Story) -> int:
    key = story.planned("AB", files=1)
    story.grid.tool.files.clear()
    story.cycles("transfer_agent")
    return key


def exhausted(story: Story) -> str:
    return sub(source_missing(story))


def tfc_no_pfn(story: Story) -> str:
    key = story.planned("AB", files=1)
    rule = {"protocol": "direct", "path-match": "/store/elsewhere/(.*)", "result": "/grid/B/$1"}
    text = sites.tfc_text({"lfn-to-pfn": [rule], "pfn-to-lfn": []})
    _change_se(story, tfc=text)
    story.cycles("transfer_agent")
    return sub(key)


def hop_excluded(story: Story) -> str:
    what = tfc_no_pfn(story)
    story.cycles("router")
    return what


def destination_silent(story: Story) -> str:
    key = story.planned("AB", files=1)
    story.grid.tool.silent.add(f"{story.grid.root}/B")
    story.cycles("transfer_agent")
    return sub(key)


def source_silent(story: Story) -> str:
    key = story.planned("AB", files=1)
    story.grid.tool.silent.add(f"{story.grid.root}/A")
    story.cycles("transfer_agent")
    return sub(key)


def link_parked(story: Story) -> str:
    key = story.planned("AB", files=6)
    story.grid.tool.silent.add(f"{story.grid.root}/B")
    for _ in range(20):
        story.cycles("transfer_agent", "router")
        with story.grid.database.snapshot() as conn:
            answer = why(conn, "link:T2_A>T2_B", story.grid.clock.now())
        if answer["state"] == "PARKED":
            break
        story.grid.clock.advance(1)
    assert key
    return "link:T2_A>T2_B"


def link_forced(story: Story) -> str:
    story.grid.link("AB")
    story.grid.do(lambda conn, now: linkwords.force(conn, LINKS + 2, Phase.PARKED, "olga", None, now))
    return "link:T2_A>T2_B"


def no_live_link(story: Story) -> str:
    story.grid.link("AB")
    story.grid.do(lambda conn, _: sites.set_link_state(conn, LINKS + 2, Switch.DISABLED, "fibre cut"))
    return sub(story.planned())


def link_disabled(story: Story) -> str:
    no_live_link(story)
    return "link:T2_A>T2_B"


def no_path(story: Story) -> str:
    return sub(story.planned("CB"))


def no_source(story: Story) -> str:
    story.grid.produce(2)
    block_id, se_id = story.held()
    files = [row[0] for row in story.grid.rows(select(data_file.c.id))]
    bad = dict.fromkeys(files[:1], FileFault.MISSING)
    story.grid.do(lambda conn, now: exceptions.add(conn, block_id, se_id, bad, now))
    story.grid.link("AB")
    key = story.grid.subscribe("B")
    story.hire("block_manager", "router")
    story.cycles("block_manager", "router")
    return sub(key)


def all_lost(story: Story) -> str:
    files = story.grid.produce(2)
    lost = InvalidCode.LOST
    story.grid.do(lambda conn, now: validity.invalidate(conn, files, lost, "olga", now))
    story.grid.link("AB")
    key = story.grid.subscribe("B")
    story.hire()
    story.cycles("block_manager", "router")
    return sub(key)


def two_blocks(story: Story) -> str:
    story.grid.link("AB")
    for first in (0, 3):
        story.grid.produce(3, first=first)
    key = story.grid.subscribe("B")
    story.hire()
    story.cycles("block_manager", "router")
    return sub(key)


def probed(story: Story) -> str:
    """Link A -> B has failed too often, and its cool-off is over."""
    story.grid.link("AB")
    failed = [Ended(LINKS + 2, Outcome(ok=False), "connection reset")] * 3
    policy = linkstates.policies(story.grid.settings).link
    story.grid.do(lambda conn, now: linkends.record(conn, failed, now, policy))
    story.grid.clock.advance(policy.cool_off.total_seconds())
    return two_blocks(story)


def window_full(story: Story) -> str:
    narrow = story.grid.settings.transfer.model_copy(update={"window_bytes": 1})
    story.grid.settings = story.grid.settings.model_copy(update={"transfer": narrow})
    return two_blocks(story)


def router_suspended(story: Story) -> str:
    what = hop_excluded(story)
    since = story.grid.clock.now() - timedelta(days=30)
    tried = {"attempts": 50, "failing_since": since, "valid_until": destinations.AT_ONCE}
    story.grid.do(lambda conn, _: conn.execute(update(block_dest).values(tried)))
    assert story.grid.word("B")[0] == Reason.HOP_EXCLUDED
    story.cycles("router")
    assert story.grid.word("B")[0] == Reason.HOP_EXCLUDED, "it has tried fifty times, and no more"
    tried["attempts"] = 51
    story.grid.do(lambda conn, _: conn.execute(update(block_dest).values(tried)))
    story.cycles("router")
    return what


def slow_path(story: Story) -> str:
    grid = story.grid
    new = [NewFile(lfn=grid.lfn(0), bytes=10**15, adler32=1)]
    reserved = registration.reserve(grid.keys, 1)
    key = grid.keys.one("dataset")

    def unit(conn: Any, now: Any) -> None:
        policy = replace(POLICY, files=1, bytes=10**15)
        grid.dataset_id = bookkeeping.create_dataset(conn, key, DATASET, policy, now)
        registration.register(conn, reserved, grid.dataset_id, 1, new, now)

    grid.do(unit)
    grid.link("AB", distance=10)
    wanted = grid.subscribe("B")
    story.hire()
    story.cycles("block_manager", "router")
    return sub(wanted)


def no_transit_space(story: Story) -> str:
    limit = {"id": 1, "owner": "transit:T2_B", "limit_value": 1, "used_value": 0}
    story.grid.do(lambda conn, _: insert_rows(conn, quota, [limit]))
    return sub(story.planned("AB", "BC", dst="C"))


def quota_full(story: Story) -> str:
    limit = {"id": 1, "owner": "space:T2_XX_B:physics", "limit_value": 1, "used_value": 0}
    story.grid.do(lambda conn, _: insert_rows(conn, quota, [limit]))
    return sub(story.planned("AB"))


def se_full(story: Story) -> str:
    _change_se(story, space_bytes=1)
    return sub(story.planned("AB"))


def suspended(story: Story) -> str:
    key = story.planned("AB")
    story.grid.do(lambda conn, now: store.suspend(conn, key, "anna", now))
    return sub(key)


def se_disabled(story: Story) -> str:
    key = story.planned("AB")
    _change_se(story, state=Switch.DISABLED)
    return sub(key)


def no_closed_block(story: Story) -> str:
    story.grid.link("AB")
    story.grid.produce(1, close=False)
    key = story.grid.subscribe("B")
    story.cycles("block_manager")
    return sub(key)


def block_open(story: Story) -> str:
    story.grid.produce(1, close=False)
    return f"block:{story.grid.rows(select(block.c.name))[0][0]}"


def delivered(story: Story) -> str:
    key = story.planned("AB")
    story.worker.run()
    return sub(key)


def unsubscribed(story: Story) -> str:
    key = story.planned("AB")
    story.grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    return sub(key)


def _change_se(story: Story, **values: Any) -> None:
    def unit(conn: Any, now: Any) -> None:
        del now
        found = next(one for one in sites.storage_elements(conn) if one.name == "T2_B")
        sites.put_se(conn, replace(found, **values))

    story.grid.do(unit)


# --- deletions ---------------------------------------------------------------------------------------


def asked(story: Story) -> str:
    story.copied()
    return story.delete("B", decides=False)


def denied(story: Story) -> str:
    story.copied()
    what = story.delete("B", decides=False)
    key = int(what.removeprefix("del:"))
    story.grid.do(lambda conn, now: deletion.deny(conn, [key], "bert", now, "we read it"))
    return what


def undelete_window(story: Story) -> str:
    story.copied()
    return story.delete("B")


def subscribed(story: Story) -> str:
    story.copied()
    what = story.delete("B")
    story.grid.subscribe("B")
    story.carry_out()
    return what


def last_replica(story: Story) -> str:
    story.copied()
    what = story.delete("B")
    other = update(block_replica).where(block_replica.c.se_id == 1)
    going = other.values(delete_at=story.grid.clock.now())
    story.grid.do(lambda conn, _: conn.execute(going))
    story.carry_out()
    story.grid.do(lambda conn, _: conn.execute(other.values(delete_at=None)))
    return what


def last_custodial(story: Story) -> str:
    story.copied()
    what = story.delete("B")
    flag = update(block_replica).where(block_replica.c.se_id == 2).values(custodial=1)
    story.grid.do(lambda conn, _: conn.execute(flag))
    story.carry_out()
    return what


def source_in_use(story: Story) -> str:
    story.copied()
    story.grid.link("BC")
    what = story.delete("B")
    story.grid.subscribe("C")
    story.cycles("block_manager", "router")
    story.carry_out()
    return what


def storage_error(story: Story) -> str:
    story.copied()
    what = story.delete("B")
    story.carry_out()
    story.grid.tool.silent.add(f"{story.grid.root}/B")
    story.cycles("deleter")
    return what


CASES: dict[str, tuple[Callable[[Story], str], Reason]] = {
    "allocated": (allocated, Reason.ALLOCATED),
    "routed": (routed, Reason.ROUTED),
    "queued": (queued, Reason.QUEUED),
    "agent absent": (agent_absent, Reason.AGENT_ABSENT),
    "in flight": (in_flight, Reason.IN_FLIGHT),
    "retry later": (retry_later, Reason.RETRY_LATER),
    "exhausted": (exhausted, Reason.EXHAUSTED),
    "hop excluded": (hop_excluded, Reason.HOP_EXCLUDED),
    "no PFN": (tfc_no_pfn, Reason.TFC_NO_PFN),
    "destination silent": (destination_silent, Reason.DESTINATION_SILENT),
    "source silent": (source_silent, Reason.SOURCE_SILENT),
    "link parked": (link_parked, Reason.LINK_PARKED),
    "link forced": (link_forced, Reason.LINK_FORCED),
    "link disabled": (link_disabled, Reason.NO_LIVE_LINK),
    "no live link": (no_live_link, Reason.NO_LIVE_LINK),
    "no path": (no_path, Reason.NO_PATH),
    "source excepted": (no_source, Reason.SOURCE_EXCEPTED),
    "no source": (all_lost, Reason.NO_SOURCE),
    "probe": (probed, Reason.PROBE),
    "probe under way": (probed, Reason.PROBE_UNDER_WAY),
    "window full": (window_full, Reason.WINDOW_FULL),
    "router suspended": (router_suspended, Reason.ROUTER_SUSPENDED),
    "slow path": (slow_path, Reason.SLOW_PATH),
    "no transit space": (no_transit_space, Reason.NO_TRANSIT_SPACE),
    "quota full": (quota_full, Reason.QUOTA_FULL),
    "SE full": (se_full, Reason.SE_FULL),
    "suspended": (suspended, Reason.SUSPENDED),
    "SE disabled": (se_disabled, Reason.SE_DISABLED),
    "no closed block": (no_closed_block, Reason.NO_CLOSED_BLOCK),
    "block open": (block_open, Reason.BLOCK_OPEN),
    "delivered": (delivered, Reason.DELIVERED),
    "unsubscribed": (unsubscribed, Reason.UNSUBSCRIBED),
    "asked": (asked, Reason.ASKED),
    "denied": (denied, Reason.DENIED),
    "undelete window": (undelete_window, Reason.UNDELETE_WINDOW),
    "subscribed": (subscribed, Reason.SUBSCRIBED),
    "last replica": (last_replica, Reason.LAST_REPLICA),
    "last custodial": (last_custodial, Reason.LAST_CUSTODIAL),
    "source in use": (source_in_use, Reason.SOURCE_IN_USE),
    "storage error": (storage_error, Reason.STORAGE_ERROR),
}
#: For the note: one of each kind.
TWELVE = (
    "queued",
    "agent absent",
    "retry later",
    "quota full",
    "no PFN",
    "link parked",
    "no live link",
    "no path",
    "no transit space",
    "suspended",
    "undelete window",
    "last replica",
)


@pytest.fixture
def story(database: Database) -> Iterator[Story]:
    made = Story(DataGrid(database, "ABC"))
    yield made
    for worker in made.workers:
        worker.close()


def ask(story: Story, what: str) -> dict[str, Any]:
    with story.grid.database.snapshot() as conn:
        return why(conn, what, story.grid.clock.now())


@pytest.mark.parametrize("name", CASES)
def test_each_reason_is_told(story: Story, name: str) -> None:
    build, code = CASES[name]
    answer = ask(story, build(story))
    said = {one["code"]: one for one in answer["evidence"]["reasons"]}
    assert code.value in said
    one = said[code.value]
    assert any(one["sentence"] in line for line in answer["because"])
    assert not set("{}[]?") & set(one["sentence"] + one["turn"] + (one["cure"] or ""))
    assert answer["next"].startswith("tierflow ")
    assert answer["turn"]


#: What is said, whose turn it is and the next command, word by word.
TOLD = {
    "no source": (
        "no storage element holds it complete, 2 files are lost",
        "whoever produces or restores it",
        "tierflow block show {block}",
    ),
    "probe": (
        "sent as a probe over parked link T2_A -> T2_B",
        "the transfer agent",
        "tierflow link show T2_A T2_B",
    ),
    "probe under way": (
        "link T2_A -> T2_B failed repeatedly; another block is sent over it as a probe first",
        "the router",
        "tierflow link show T2_A T2_B",
    ),
    "window full": (
        "42 B of priority 0 are under way to T2_B, and the most is 1 B",
        "the transfer agent",
        "tierflow transfer queue",
    ),
    "router suspended": (
        "given up until {until} after 51 tries since {since}; the last one: BAD_PFN",
        "the admins of the links",
        'tierflow why "link:T2_A>T2_B"',
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_reason_of_routing_names_turn_and_cure(sqlite_db: Database, name: str) -> None:
    made = Story(DataGrid(sqlite_db, "ABC"))
    build, code = CASES[name]
    answer = ask(made, build(made))
    for worker in made.workers:
        worker.close()
    (said,) = (one for one in answer["evidence"]["reasons"] if one["code"] == code)
    facts = {name: said["params"].get(name) for name in ("since", "until", "block")}
    moments = {name: f"{at[:10]} {at[11:16]} UTC" for name, at in facts.items() if at and name != "block"}
    assert (said["sentence"], said["turn"], said["cure"]) == tuple(
        one.format(**{**facts, **moments}) for one in TOLD[name]
    )
    if name == "router suspended":
        rest = datetime.fromisoformat(facts["until"]) - made.grid.clock.now()
        assert rest == timedelta(days=15) / 60  # the grid lives sixty times as fast


@pytest.mark.parametrize("name", TWELVE)
def test_twelve_reasons(sqlite_db: Database, name: str) -> None:
    """With -s it prints the answers for people to read."""
    made = Story(DataGrid(sqlite_db, "ABC"))
    answer = ask(made, CASES[name][0](made))
    for worker in made.workers:
        worker.close()
    print(f"\n{answer['what']}: {answer['state']}")
    for line in answer["because"]:
        print(f"  {line}")
    print(f"  turn: {answer['turn']}; next: {answer['next']}")
    assert answer["evidence"]["reasons"][0]["code"] == CASES[name][1]


def test_twelve_different_codes() -> None:
    assert len({CASES[name][1] for name in TWELVE}) == len(TWELVE) == 12
    assert len({code for _, code in CASES.values()}) >= 22


# --- files and links ---------------------------------------------------------------------------------


def test_a_file_tells_where_it_is_good_and_what_its_copies_wait_for(story: Story) -> None:
    failing(story)
    answer = ask(story, story.grid.lfn(0))
    assert (answer["kind"], answer["state"]) == ("file", "GOOD")
    assert answer["because"][0] == "it is good at T2_A"
    assert answer["because"][1] == "its block is copying at T2_B"
    assert answer["because"][2].startswith("try 1 of 5 failed (CONNECTION_LOST, whose is network")
    assert answer["evidence"]["transfers"][0]["dst"] == "T2_B"
    assert ask(story, f"file:{story.grid.lfn(0)}") == answer
    slow = update(transfer).values(error_class="TIMEOUT", attempts=3)
    story.grid.do(lambda conn, _: conn.execute(slow))
    answer = ask(story, story.grid.lfn(0))
    assert "the next try from T2_A may take 2 times as long as others" in answer["because"]
    with pytest.raises(NotFound):
        ask(story, "/store/no/where.root")


def test_a_file_without_a_good_copy_says_so(story: Story) -> None:
    no_source(story)
    lfn = story.grid.lfn(0)
    answer = ask(story, lfn)
    assert answer["state"] == "NOWHERE_GOOD"
    assert answer["because"][0] == "the only complete copies lack 1 files"
    assert "it is missing at T2_A" in answer["because"]


def test_a_block_names_where_it_is_wanted_and_where_it_is(story: Story) -> None:
    story.planned("AB", "AC")
    story.grid.subscribe("C")
    story.cycles("block_manager", "router")
    name = story.grid.rows(select(block.c.name))[0][0]
    answer = ask(story, name)
    assert ask(story, f"block:{name}") == answer
    assert any("wanted at T2_B: " in one and "files are queued" in one for one in answer["because"])
    assert any(one.startswith("wanted at T2_C: ") for one in answer["because"])
    assert answer["because"][-1] == "complete at T2_A"
    with pytest.raises(NotFound):
        ask(story, f"{name}x")


def test_a_link_tells_its_window_queue_and_errors(story: Story) -> None:
    failing(story)
    answer = ask(story, "link:T2_A>T2_B")
    assert answer["state"] == "OPEN"
    assert "1 file queued or under way" in answer["because"]
    assert any("connection lost" in one for one in answer["because"])
    assert ask(story, "link:T2_A -> T2_B") == answer
    for what in ("link:T2_B>T2_A", "link:T2_A>Nowhere"):
        with pytest.raises(NotFound):
            ask(story, what)


def test_nothing_is_known_of_a_deletion_nobody_asked_for(story: Story) -> None:
    with pytest.raises(NotFound):
        ask(story, "del:7")
