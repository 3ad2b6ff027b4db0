"""Datasets and blocks changed by hand, for every face: what is stated of them, opened and closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import bookkeeping, discovery, facts, histories
from catalogs.bookkeeping import BlockPolicy, DatasetRow
from catalogs.facts import Amendment
from catalogs.states import Access, BlockState
from gridapp import naming
from gridapp.insights.values import plain
from gridcore import audit, identity
from gridcore.errors import UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.ids import check_dataset

REASON_MAX = 200


def create_dataset(
    context: Context, name: str, actor: Principal, new: Amendment, policy: BlockPolicy
) -> dict[str, Any]:
    """Make an open dataset without files and state something of it: {"dataset", "state", "new", "changed"}.

    One that is there keeps its policy. Raises UsageError for an odd name, Denied.
    """
    check_dataset(name)
    with context.database.snapshot() as conn:
        old = bookkeeping.dataset_by_name(conn, name)
    identity.require(actor, Action.DATASET_IMPORT, Subject(group=(old.group or "") if old else ""))
    if old is None:
        now, key = context.clock.now(), context.keys.one("dataset")

        def unit(conn: Connection) -> None:
            if bookkeeping.create_dataset(conn, key, name, policy, now) == key:
                histories.tell_dataset(conn, key, "created", actor.name, now, {})
                audit.record(conn, actor.name, "dataset create", f"dataset {name}", now, {})

        context.database.transaction(unit)
    said = _amend(context, name, new, "set", actor) if new.columns or new.metadata else {"changed": {}}
    with context.database.snapshot() as conn:
        state = naming.dataset(conn, name).state
    return {"dataset": name, "state": state.value, "new": old is None, "changed": said["changed"]}


def set_facts(context: Context, name: str, new: Amendment, actor: Principal) -> dict[str, Any]:
    """State something of a dataset: {"dataset", "changed": {what: [before, after]}}.

    Raises NotFound, Denied, UsageError where nothing is said.
    """
    if not (new.columns or new.metadata):
        raise UsageError("what is to be said of it?", hint="such as: collision=AuAu energy=7.7 --group heavy")
    return _amend(context, name, new, "set", actor)


def set_access(context: Context, name: str, access: Access, actor: Principal) -> dict[str, Any]:
    """Say what a dataset is good for: {"dataset", "changed"}. Raises NotFound, Denied."""
    return _amend(context, name, facts.amendment(access=access), "access", actor)


def _amend(context: Context, name: str, new: Amendment, change: str, actor: Principal) -> dict[str, Any]:
    found = _mine(context, name, actor)
    now = context.clock.now()

    def unit(conn: Connection) -> dict[str, Any]:
        done = plain(facts.amend(conn, found.id, new, change, actor.name, now))
        if done:
            audit.record(conn, actor.name, f"dataset {change}", f"dataset {name}", now, done)
        return dict(done)

    return {"dataset": name, "changed": context.database.transaction(unit)}


def close_dataset(context: Context, name: str, actor: Principal, reason: str | None = None) -> dict[str, Any]:
    """Have a dataset take no further file: {"dataset", "state", "changed"}. Raises NotFound, Denied."""
    return _switch(context, name, "close", bookkeeping.close_dataset, actor, reason)


def reopen_dataset(
    context: Context, name: str, actor: Principal, reason: str | None = None
) -> dict[str, Any]:
    """Have a dataset take files again, into new blocks: {"dataset", "state", "changed"}.

    Raises NotFound, Denied.
    """
    return _switch(context, name, "reopen", bookkeeping.reopen_dataset, actor, reason)


def _switch(
    context: Context,
    name: str,
    verb: str,
    act: Callable[[Connection, int, str, datetime, str | None], bool],
    actor: Principal,
    reason: str | None,
) -> dict[str, Any]:
    found, why, now = _mine(context, name, actor), reason_of(reason), context.clock.now()

    def unit(conn: Connection) -> bool:
        changed = act(conn, found.id, actor.name, now, why)
        if changed:
            audit.record(conn, actor.name, f"dataset {verb}", f"dataset {name}", now, detail_of(why))
        return changed

    changed = context.database.transaction(unit)
    with context.database.snapshot() as conn:
        state = naming.dataset(conn, name).state
    return {"dataset": name, "state": state.value, "changed": changed}


def close_block(context: Context, name: str, actor: Principal, reason: str | None = None) -> dict[str, Any]:
    """Have a block take no further file, so that it may be copied: {"block", "state", "files", "changed"}.

    A closed block never opens again. Raises NotFound, Denied.
    """
    with context.database.snapshot() as conn:
        seen = discovery.block_show(conn, name).block
        owner = bookkeeping.dataset_by_id(conn, seen.dataset_id)
    identity.require(actor, Action.DATASET_CHANGE, Subject(group=owner.group or ""))
    why, now = reason_of(reason), context.clock.now()

    def unit(conn: Connection) -> bool:
        changed = bool(bookkeeping.close_blocks(conn, [seen.id], "by hand", now))
        if changed:
            told = {"block": name, **detail_of(why)}
            histories.tell_dataset(conn, owner.id, "block closed", actor.name, now, told)
            audit.record(conn, actor.name, "block close", f"block {name}", now, detail_of(why))
        return changed

    changed = context.database.transaction(unit)
    return {"block": name, "state": BlockState.CLOSED.value, "files": seen.files, "changed": changed}


def _mine(context: Context, name: str, actor: Principal) -> DatasetRow:
    """The dataset, which the actor may change. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        found = naming.dataset(conn, name)
    identity.require(actor, Action.DATASET_CHANGE, Subject(group=found.group or ""))
    return found


def reason_of(text: str | None) -> str | None:
    """The reason given, if it can be kept; None for none. Raises UsageError."""
    return naming.words(text, "reason", REASON_MAX)


def detail_of(reason: str | None) -> Mapping[str, Any]:
    """The reason as a history has it."""
    return {"reason": reason} if reason else {}
