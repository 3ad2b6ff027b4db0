"""Data moved from one storage element to another by hand, for every face."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import discovery
from catalogs.bookkeeping import BlockRow, DatasetRow
from catalogs.sites import StorageElement
from catalogs.states import DatasetState
from datamgmt.subscriptions import moving
from datamgmt.subscriptions.moving import Held
from gridapp import naming, subscribing
from gridapp.insights.values import some
from gridapp.subscribing import PLAIN, Terms
from gridcore import identity
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject


def move(
    context: Context,
    subject: str,
    source: str,
    target: str,
    actor: Principal,
    terms: Terms = PLAIN,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Have a dataset, or one block of it, at `target` and then no longer at `source`: the answer of
    `subscribing.subscribe` with {"from", "stays": [sentences]}. Copies elsewhere stay.

    Raises NotFound where the source has nothing of it, Conflict where all of that stays, UsageError for a
    source that lets nothing go, Denied.
    """
    with context.database.snapshot() as conn:
        whole, block = _subject(conn, subject)
        start = naming.element(conn, source)
        naming.element(conn, target)
        site = naming.site_of(conn, start)
        _check_ends(conn, subject, start, target)
        held = moving.held_at(conn, whole.id, block.id if block else 0, start.id)
    _check_held(subject, source, held)
    paying = terms.group or min(actor.groups, default=actor.name)
    identity.require(actor, Action.DELETE, Subject(owner=actor.name, group=paying, site=site))
    asked = replace(terms, move=True, source=start)
    made = subscribing.subscribe(context, subject, target, actor, asked, dry_run=dry_run)
    return {**made, "from": source, "stays": _stays(whole, block, held, asked, source)}


def _subject(conn: Connection, subject: str) -> tuple[DatasetRow, BlockRow | None]:
    name, sign, _ = subject.partition("#")
    whole = naming.dataset(conn, name)
    return whole, discovery.block_show(conn, subject).block if sign else None


def _check_ends(conn: Connection, subject: str, start: StorageElement, target: str) -> None:
    if start.name == target:
        raise UsageError(f"{subject} cannot be moved from {target} to itself", hint="name another one")
    why = moving.staying(conn).get(start.id)
    if why is not None:
        raise UsageError(
            f"a move lets nothing go at {start.name}: {why}",
            hint=f"tierflow subscribe {subject} {target}, then: tierflow delete {subject} {start.name}",
        )


def _check_held(subject: str, source: str, held: Held) -> None:
    if not held.blocks:
        raise NotFound(
            f"{subject} has no complete replica at {source}", hint=f"see: tierflow dataset where {subject}"
        )
    if held.subscription_id is not None:
        raise Conflict(
            f"{subject} stays at {source}: subscription {held.subscription_id} asks for it there",
            hint=f"tierflow subscription remove {held.subscription_id}",
        )
    if held.custodial == held.blocks:
        raise Conflict(
            f"{subject} stays at {source}: each replica there is custodial",
            hint=f"tierflow delete {subject} {source} --custodial-too",
        )


def _stays(whole: DatasetRow, block: BlockRow | None, held: Held, terms: Terms, source: str) -> list[str]:
    """What does not go, and what goes later than one might think."""
    found = []
    if held.custodial:
        found.append(f"{some(held.custodial, 'custodial replica')} stays at {source}")
    if block is None and not terms.static and whole.state is not DatasetState.CLOSED:
        found.append(f"nothing goes from {source} before the dataset is closed, as it may grow")
    return found
