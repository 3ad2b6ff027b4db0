"""Ends of copies: what links learn from them, in rows of link_state and link_bin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from datamgmt.links.health import LinkPolicy, LinkState, Outcome, Phase, observe
from datamgmt.links.linkstates import STATES, bin_of
from datamgmt.tables import link_bin, link_state
from gridcore.db import bulk, reads
from gridcore.db.bulk import Change, New, Same, Values
from gridcore.db.idlists import within
from gridcore.db.labels import plain
from gridcore.db.reads import Read
from gridcore.db.statements import insert_new

_ERROR_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended copy over a link, or good ones after each other; `error` is None for these."""

    link_id: int
    outcome: Outcome
    error: str | None = None


_COUNTED = ("files_ok", "files_bad", "bytes_ok")
BINS = select(link_bin.c.link_id).where(
    within(link_bin.c.link_id), link_bin.c.bin_start == bindparam("in_bin", type_=link_bin.c.bin_start.type)
)


def record(
    conn: Connection, ended: Iterable[Ended], now: datetime, policy: LinkPolicy
) -> dict[int, LinkState]:
    """Learn from copies that ended; what is known of their links now. One agent serves all links into a
    storage element, so that nobody else writes these rows meanwhile."""
    by_link: dict[int, list[Ended]] = defaultdict(list)
    for one in ended:
        by_link[one.link_id].append(one)
    if not by_link:
        return {}
    keys, start = sorted(by_link), bin_of(now)
    states, bins = reads.rows(conn, [Read(STATES, {"ids": keys}), Read(BINS, {"ids": keys, "in_bin": start})])
    known = {row[0]: row[1:] for row in states}
    for link_id in keys:
        if link_id not in known:
            insert_new(conn, link_state, {"link_id": link_id, "state": {}, "updated_at": now})
    learnt = [_learn(link_id, by_link[link_id], known.get(link_id), now, policy) for link_id in keys]
    counted = {link_id for (link_id,) in bins}
    old = [one for one in learnt if one.link_id in counted]
    new = [one for one in learnt if one.link_id not in counted]
    bulk.write(
        conn,
        [
            *_changes(learnt, now),
            Change(link_bin, {"link_id": _of(old, "link_id"), "bin_start": Same(start)}, add=_sums(old)),
            New(link_bin, {"link_id": _of(new, "link_id"), "bin_start": Same(start), **_sums(new)}),
        ],
    )
    return {one.link_id: one.state for one in learnt}


class _Learnt(NamedTuple):
    """What a link has shown, and what that adds to its sums."""

    link_id: int
    state: LinkState
    error: str | None
    files_ok: int
    files_bad: int
    bytes_ok: int
    busy_s: float


def _learn(
    link_id: int, ends: Sequence[Ended], known: Sequence[Any] | None, now: datetime, policy: LinkPolicy
) -> _Learnt:
    state = LinkState()
    if known:
        document, places, opened_at, forced, forced_until, window_max, _ = known
        state = LinkState.from_json(document or {})  # which has what the columns have not
        state = state if places is None else replace(state, opened_at=opened_at)
        state = replace(state, forced=Phase(forced) if forced else None, forced_until=forced_until)
        policy = replace(policy, window_max=window_max) if window_max else policy
    for one in ends:
        state = observe(state, one.outcome, now, policy)
    good = [one.outcome for one in ends if one.outcome.ok]
    bad = [one for one in ends if not one.outcome.ok]
    errors = [one.error for one in bad if one.error]
    return _Learnt(
        link_id=link_id,
        state=state,
        error=plain(errors[-1], _ERROR_MAX) if errors else None,
        files_ok=sum(one.files for one in good),
        files_bad=len(bad),
        bytes_ok=sum(one.bytes for one in good),
        busy_s=sum(one.outcome.seconds for one in ends),
    )


def _changes(learnt: Sequence[_Learnt], now: datetime) -> list[Change]:
    """The states of links; the last error stays where nothing new has failed."""
    changes = []
    for failed in (False, True):
        mine = [one for one in learnt if (one.error is not None) is failed]
        states = [one.state for one in mine]
        put: dict[str, Values] = {
            "state": [one.to_json() for one in states],
            "rationale": [one.rationale[:300] for one in states],
            "parked_until": [one.parked_until for one in states],
            "window_files": [one.window for one in states],
            "rate": [one.rate for one in states],
            "failures": [one.failures for one in states],
            "opened_at": [one.opened_at for one in states],
            "updated_at": Same(now),
        }
        if failed:
            put["last_error"] = _of(mine, "error")
        sums = _sums(mine)
        del sums["busy_s"]
        changes.append(Change(link_state, {"link_id": _of(mine, "link_id")}, add=sums, put=put))
    return changes


def _sums(learnt: Sequence[_Learnt]) -> dict[str, Values]:
    return {name: _of(learnt, name) for name in (*_COUNTED, "busy_s")}


def _of(learnt: Sequence[_Learnt], name: str) -> list[Any]:
    return [getattr(one, name) for one in learnt]
