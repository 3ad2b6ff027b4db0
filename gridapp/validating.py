"""Files said to be wrong, bad at a place, lost or well again, by hand, for every face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import bookkeeping, exceptions, histories, location, validity
from catalogs.bookkeeping import Named
from catalogs.exceptions import FileFault
from catalogs.location import FileAt
from catalogs.sites import StorageElement
from catalogs.states import InvalidCode
from gridapp import naming
from gridapp.keeping import detail_of, reason_of
from gridcore import audit, identity
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject

#: Names of one call, which is one transaction.
NAMES_MAX = 100_000


def invalidate(
    context: Context, lfns: Sequence[str], actor: Principal, reason: str | None = None
) -> dict[str, Any]:
    """Nobody shall read these files any more: {"files", "changed"}. Jobs that list them will be held.

    All or none. Raises UsageError, NotFound, Denied.
    """
    code = InvalidCode.INVALID
    return _change(
        context,
        "file invalidate",
        lfns,
        actor,
        reason,
        lambda conn, ids, now, why: validity.invalidate(conn, ids, code, actor.name, now, why),
    )


def revalidate(
    context: Context, lfns: Sequence[str], actor: Principal, reason: str | None = None
) -> dict[str, Any]:
    """These files are well again: {"files", "changed"}. Jobs held for them go on.

    All or none. Raises UsageError, NotFound, Denied.
    """
    return _change(
        context,
        "file revalidate",
        lfns,
        actor,
        reason,
        lambda conn, ids, now, why: validity.revalidate(conn, ids, actor.name, now, why),
    )


def _change(
    context: Context,
    verb: str,
    lfns: Sequence[str],
    actor: Principal,
    reason: str | None,
    act: Callable[[Connection, list[int], datetime, str | None], int],
) -> dict[str, Any]:
    """Act on the files, all or none, and note who did."""
    found, why, now = _mine(context, lfns, actor), reason_of(reason), context.clock.now()
    ids = [one.id for one in found.values()]

    def unit(conn: Connection) -> int:
        changed = act(conn, ids, now, why)
        _audit(conn, context, actor, verb, found, changed, why)
        return changed

    return {"files": len(found), "changed": context.database.transaction(unit)}


def _mine(context: Context, lfns: Sequence[str], actor: Principal) -> Mapping[str, Named]:
    """The files, all of which the actor may change."""
    if not 0 < len(lfns) <= NAMES_MAX:
        raise UsageError(f"{len(lfns)} names are given", hint=f"1 to {NAMES_MAX} in one call")
    with context.database.snapshot() as conn:
        found = bookkeeping.files_named(conn, lfns)
        if missing := next((lfn for lfn in lfns if lfn not in found), None):
            raise NotFound(f"no file {missing} is registered", hint="nothing was changed")
        owners = {one.dataset_id for one in found.values()}
        groups = {bookkeeping.dataset_by_id(conn, dataset_id).group for dataset_id in owners}
    for group in sorted(group or "" for group in groups):
        identity.require(actor, Action.DATASET_CHANGE, Subject(group=group))
    return found


def _audit(
    conn: Connection,
    context: Context,
    actor: Principal,
    verb: str,
    found: Mapping[str, Named],
    changed: int,
    reason: str | None,
) -> None:
    if changed:
        detail = {"files": len(found), "changed": changed, **detail_of(reason)}
        audit.record(conn, actor.name, verb, f"file {min(found)}", context.clock.now(), detail)


# --- one copy ------------------------------------------------------------------------------------------


def declare_bad(
    context: Context, lfn: str, se: str, actor: Principal, reason: str | None = None
) -> dict[str, Any]:
    """A file's copy at an SE is bad: {"lfn", "se", "changed", "good_copies", "invalid"}.

    It is repaired from a good copy. Raises NotFound, Denied, Conflict where there is no copy.
    """
    return _declare(context, lfn, se, FileFault.BAD, actor, reason)


def declare_lost(
    context: Context, lfn: str, se: str, actor: Principal, reason: str | None = None
) -> dict[str, Any]:
    """A file's copy at an SE is gone: as `declare_bad`; with its last good copy the file is LOST."""
    return _declare(context, lfn, se, FileFault.MISSING, actor, reason)


def _declare(
    context: Context, lfn: str, se: str, fault: FileFault, actor: Principal, reason: str | None
) -> dict[str, Any]:
    with context.database.snapshot() as conn:
        seen, there = location.where_file(conn, lfn), naming.element(conn, se)
        group = bookkeeping.dataset_by_id(conn, seen.dataset_id).group or ""
        _require(conn, actor, there, group)
    why, now = reason_of(reason), context.clock.now()
    told = {"fault": fault.value, **detail_of(why)}

    def unit(conn: Connection) -> dict[str, Any]:
        noted = exceptions.add(
            conn, seen.block_id, there.id, {seen.id: fault}, now, actor=actor.name, note=why
        )
        after = location.where_file(conn, lfn)
        _check_there(after, lfn, se)
        good = sum(copy.good for copy in after.copies)
        if noted:
            histories.tell_files(conn, [seen.id], fault.value, actor.name, now, told, there.id)
            audit.record(conn, actor.name, f"file {fault.value}", f"file {lfn} at {se}", now, told)
        if fault is FileFault.MISSING and not good:
            validity.invalidate(conn, [seen.id], InvalidCode.LOST, actor.name, now, why)
        return {"changed": bool(noted), "good_copies": good}

    done = context.database.transaction(unit)
    with context.database.snapshot() as conn:
        invalid = location.where_file(conn, lfn).invalid
    return {"lfn": lfn, "se": se, **done, "invalid": None if invalid is None else invalid.value}


def _require(conn: Connection, actor: Principal, there: StorageElement, group: str) -> None:
    """Who may change the dataset, or runs the site."""
    subject = Subject(group=group, site=naming.site_of(conn, there))
    if not identity.may(actor, Action.SITE_CONFIGURE, subject):
        identity.require(actor, Action.DATASET_CHANGE, subject)


def _check_there(found: FileAt, lfn: str, se: str) -> None:
    if not any(copy.se == se and copy.fault is not None for copy in found.copies):
        have = ", ".join(copy.se for copy in found.copies if copy.good) or "none"
        raise Conflict(f"{se} has no complete copy of {lfn}'s block", hint=f"good copies: {have}")
