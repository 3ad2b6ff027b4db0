"""Replicas deleted by hand, for every face: asked for, approved, denied, taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, Integer, bindparam, or_, select

from agents.runtime.agent import Context
from catalogs import discovery, sites
from catalogs.sites import StorageElement
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica
from datamgmt import reasons
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.deletions.hindrances import PLAIN, Terms, Why
from datamgmt.previews import preview
from datamgmt.previews.preview import Subject as Named
from datamgmt.tables import deletion as deletions
from datamgmt.wanted.allocation import ReplicaKey
from gridapp import naming
from gridapp.insights import previews, topology
from gridapp.insights.values import plain, some
from gridcore import audit, identity
from gridcore.db.statements import chunks
from gridcore.errors import Conflict, InvalidTransition, NotFound
from gridcore.identity import Action, Principal, Subject

_S = DeletionState
#: The states of a deletion that a word has nothing to add to, or was heard for.
_SAID = {
    "approve": {_S.ASKED, _S.APPROVED, _S.REFUSED, _S.DELETING, _S.DELETED},
    "deny": {_S.DENIED},
    "undo": {_S.UNDONE},
}
#: Replicas of one transaction.
SLICE = 1000
#: Characters of a comment and of an ask id.
COMMENT_MAX, ASK_ID_MAX = 500, 36

_ON_BLOCK = bindparam("on_block", type_=Integer)
HERE = (
    select(block.c.id, block.c.files, block.c.bytes)
    .join_from(block, block_replica, block_replica.c.block_id == block.c.id)
    .where(block.c.dataset_id == bindparam("on_dataset"), or_(_ON_BLOCK == 0, block.c.id == _ON_BLOCK))
    .where(block_replica.c.se_id == bindparam("on_se"), block_replica.c.state == ReplicaState.COMPLETE)
    .order_by(block.c.id)
)
STATE = select(deletions.c.state, deletions.c.due_at).where(deletions.c.id == bindparam("on_deletion"))
_FIRST = deletions.alias("first_of_ask")
TOGETHER = (
    select(
        deletions.c.id, deletions.c.se_id, deletions.c.requester, deletions.c.acct_group, deletions.c.state
    )
    .join_from(
        _FIRST,
        deletions,
        (deletions.c.ask_id == _FIRST.c.ask_id) & (deletions.c.se_id == _FIRST.c.se_id),
    )
    .where(_FIRST.c.id == bindparam("on_deletion"))
    .order_by(deletions.c.id)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What shall go where, and who says so."""

    subject: str
    named: Named
    se: StorageElement
    site: str
    by: Asker


class Comment(NamedTuple):
    """What an asker adds: words, and an id by which a repeat is known."""

    text: str | None = None
    ask_id: str | None = None


NO_COMMENT = Comment()


def delete(
    context: Context,
    subject: str,
    se: str,
    actor: Principal,
    *,
    terms: Terms = PLAIN,
    comment: Comment = NO_COMMENT,
) -> dict[str, Any]:
    """Have a dataset's or a block's replicas at an SE deleted.

    {"deletion", "subject", "se", "state", "replicas", "files", "bytes", "due_at", "refused": [sentences]};
    `deletion` stands for all that is asked for here, and whoever may decide at the SE has decided. Raises
    NotFound, Denied, Conflict where every replica must stay.
    """
    comment = Comment(
        naming.words(comment.text, "comment", COMMENT_MAX), naming.words(comment.ask_id, "ask id", ASK_ID_MAX)
    )
    wanted = _wanted(context, subject, se, actor)
    with context.database.snapshot() as conn:
        rows = {row.id: row for row in conn.execute(HERE, _binds(wanted))}
    if not rows:
        raise NotFound(f"{subject} has no complete replica at {se}", hint=f"tierflow dataset where {subject}")
    done, refused = _ask(context, wanted, list(rows), terms, comment)
    if not done:
        raise _all_refused(context, wanted, refused)
    asked, first = [rows[block_id] for block_id, _ in done], min(done.values())
    with context.database.snapshot() as conn:
        told = conn.execute(STATE, {"on_deletion": first}).one()
    return {
        "deletion": first,
        "subject": subject,
        "se": se,
        "state": told.state.value,
        "replicas": len(asked),
        "files": sum(row.files for row in asked),
        "bytes": sum(row.bytes for row in asked),
        "due_at": plain(told.due_at),
        "refused": _sentences(context, refused),
    }


def look(
    context: Context, subject: str, se: str, actor: Principal, *, terms: Terms = PLAIN
) -> dict[str, Any]:
    """What `delete` would do, as `insights.previews` shows it. Raises NotFound, Denied."""
    wanted = _wanted(context, subject, se, actor)
    with context.database.snapshot() as conn:
        found = preview.removal(conn, wanted.named, [wanted.se.id], custodial_too=terms.custodial_too)
        return {"subject": subject, "se": se, **previews.preview(found, topology.se_names(conn))}


def _wanted(context: Context, subject: str, se: str, actor: Principal) -> Wanted:
    with context.database.snapshot() as conn:
        named, target = _named(conn, subject), naming.element(conn, se)
        site = naming.site_of(conn, target)
    group = min(actor.groups, default=actor.name)
    about = Subject(owner=actor.name, group=group, site=site)
    identity.require(actor, Action.DELETE, about)
    decides = identity.may(actor, Action.DELETION_DECIDE, about)
    return Wanted(
        subject=subject, named=named, se=target, site=site, by=Asker(actor.name, group, decides=decides)
    )


def _named(conn: Connection, subject: str) -> Named:
    """The dataset, or with `#` the block, of a name. Raises NotFound."""
    name, mark, _ = subject.partition("#")
    found = naming.dataset(conn, name)
    if not mark:
        return Named(found.id)
    return Named(found.id, discovery.block_show(conn, subject).block.id)


def _binds(wanted: Wanted) -> dict[str, int]:
    named = wanted.named
    return {"on_dataset": named.dataset_id, "on_block": named.block_id, "on_se": wanted.se.id}


def _ask(
    context: Context, wanted: Wanted, blocks: Sequence[int], terms: Terms, comment: Comment
) -> tuple[dict[ReplicaKey, int], dict[ReplicaKey, Why]]:
    """Slice by slice; cut off, the same again does the rest."""
    ids: dict[ReplicaKey, int] = {}
    refused: dict[ReplicaKey, Why] = {}
    now, ask_id = context.clock.now(), comment.ask_id or str(uuid4())
    undelete = timedelta(seconds=context.settings.deletion.undelete_s)
    for part in chunks([(block_id, wanted.se.id) for block_id in blocks], SLICE):
        keys = context.keys.take("deletion", len(part))

        def unit(conn: Connection, part: Sequence[ReplicaKey] = part, keys: Any = keys) -> deletion.Asked:
            asked = deletion.ask_all(
                conn,
                keys,
                part,
                wanted.by,
                now,
                undelete=undelete,
                terms=terms,
                ask_id=ask_id,
                comments=comment.text,
            )
            if asked.changed:
                about = {"replicas": len(asked.changed), "ask": ask_id, "comment": comment.text}
                where = f"{wanted.subject} at {wanted.se.name}"
                audit.record(conn, wanted.by.name, "delete", where, now, about)
            return asked

        asked = context.database.transaction(unit)
        ids |= {place: key for place, key in asked.ids.items() if place not in asked.refused}
        refused |= asked.refused
    return ids, refused


def _all_refused(context: Context, wanted: Wanted, refused: dict[ReplicaKey, Why]) -> Conflict:
    sentences = _sentences(context, refused)
    code, params = next(iter(refused.values()))
    facts = {**params, "block": wanted.subject, "se": wanted.se.name}
    return Conflict(f"nothing of it may go: {'; '.join(sentences)}", hint=reasons.cure(code, facts))


def _sentences(context: Context, refused: dict[Any, Why]) -> list[str]:
    """Why replicas stay, and how many."""
    with context.database.snapshot() as conn:
        names = topology.se_names(conn)
    told = Counter(reasons.render(code, params, names) for code, params in refused.values())
    return [f"{some(n, 'block')}: {sentence}" for sentence, n in told.items()]


# --- decisions -----------------------------------------------------------------------------------------


def approve(context: Context, deletion_id: int, actor: Principal) -> dict[str, Any]:
    """Let what was asked for go: {"deletion", "se", "state", "changed", "refused": [sentences]}.

    All that was asked for with this deletion at its SE is approved. Raises NotFound, Denied,
    InvalidTransition.
    """
    undelete = timedelta(seconds=context.settings.deletion.undelete_s)
    refused: dict[int, Why] = {}

    def act(conn: Connection, ids: Sequence[int], now: datetime) -> Sequence[int]:
        found = deletion.approve(conn, ids, actor.name, now, undelete=undelete)
        refused.update(found.refused)
        return found.done

    told = _decide(context, deletion_id, actor, "approve", Action.DELETION_DECIDE, act)
    return {**told, "refused": _sentences(context, refused)}


def deny(context: Context, deletion_id: int, actor: Principal, note: str | None = None) -> dict[str, Any]:
    """Say no to what was asked for: {"deletion", "se", "changed"}. Raises NotFound, Denied, UsageError."""
    note = naming.words(note, "comment", COMMENT_MAX)
    return _decide(
        context,
        deletion_id,
        actor,
        "deny",
        Action.DELETION_DECIDE,
        lambda conn, ids, now: deletion.deny(conn, ids, actor.name, now, note),
    )


def undo(context: Context, deletion_id: int, actor: Principal) -> dict[str, Any]:
    """Take back what has not begun; the replicas are as before: {"deletion", "se", "changed"}.

    Raises NotFound, Denied, InvalidTransition.
    """
    return _decide(
        context,
        deletion_id,
        actor,
        "undo",
        Action.DELETION_UNDO,
        lambda conn, ids, now: deletion.undo(conn, ids, actor.name, now),
    )


def _decide(
    context: Context,
    deletion_id: int,
    actor: Principal,
    verb: str,
    action: Action,
    act: Callable[[Connection, Sequence[int], datetime], Sequence[int]],
) -> dict[str, Any]:
    with context.database.snapshot() as conn:
        rows = conn.execute(TOGETHER, {"on_deletion": deletion_id}).all()
        if not rows:
            raise NotFound(f"there is no deletion {deletion_id}", hint="see: tierflow deletion list")
        se = next(one for one in sites.storage_elements(conn) if one.id == rows[0].se_id)
        site = naming.site_of(conn, se)
    about = Subject(owner=rows[0].requester, group=rows[0].acct_group, site=site)
    identity.require(actor, action, about)
    now, changed = context.clock.now(), 0
    for part in chunks([row.id for row in rows], SLICE):

        def unit(conn: Connection, part: Sequence[int] = part) -> int:
            done = act(conn, part, now)
            if done:
                where = f"deletion {deletion_id} at {se.name}"
                audit.record(conn, actor.name, f"deletion {verb}", where, now, {"replicas": len(done)})
            return len(done)

        changed += context.database.transaction(unit)
    if not changed:
        _refuse_unless_so(context, deletion_id, verb)
    return {"deletion": deletion_id, "se": se.name, "changed": changed}


def _refuse_unless_so(context: Context, deletion_id: int, verb: str) -> None:
    """The same word again changes nothing; one that comes too late is an error: InvalidTransition."""
    with context.database.snapshot() as conn:
        states = {row.state for row in conn.execute(TOGETHER, {"on_deletion": deletion_id})}
    if _SAID[verb].isdisjoint(states):
        raise InvalidTransition(
            f"deletion {deletion_id} is {', '.join(sorted(states))}: there is nothing to {verb}",
            hint=f"see: tierflow deletion show {deletion_id}",
        )
