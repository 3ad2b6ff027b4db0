"""Why blocks, files, subscriptions and deletions are where they are: every wanted replica with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Select, bindparam, select

from catalogs import discovery, exceptions, histories, location
from catalogs.location import FileAt
from catalogs.states import BlockState, InvalidCode, ReplicaState
from catalogs.tables import block, data_file, dir_, se
from datamgmt.deletion_states import DeletionState
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import deletion, route_history, subscription, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState, deadline_factor
from gridapp.insights import deliveries, waits
from gridapp.insights.answers import Answer
from gridapp.insights.topology import se_names
from gridapp.insights.values import LIMIT, iso, record, some
from gridapp.insights.waits import Told, Wait, told
from gridcore.errors import NotFound

#: Wanted replicas, open blocks and decisions an answer quotes.
QUOTED = 20

_N = bindparam("n", type_=Integer)
DECISIONS = (
    select(*(route_history.c[name] for name in ("se_id", "at", "code", "path", "cost", "params")))
    .where(route_history.c.block_id == bindparam("on_block"))
    .order_by(route_history.c.seq.desc())
    .limit(_N)
)
OPEN_BLOCKS = (
    select(block.c.name, block.c.files, block.c.close_by)
    .where(block.c.dataset_id == bindparam("on_dataset"), block.c.state == BlockState.OPEN)
    .order_by(block.c.id)
    .limit(_N)
)
SUBSCRIPTION = select(subscription).where(subscription.c.id == bindparam("row_id"))
DELETION = (
    select(deletion, block.c.name.label("block"), block.c.files, se.c.name.label("se"))
    .join_from(deletion, block, block.c.id == deletion.c.block_id)
    .join(se, se.c.id == deletion.c.se_id)
    .where(deletion.c.id == bindparam("row_id"))
)
LEAVING = select(deletion.c.id, deletion.c.se_id, deletion.c.state, deletion.c.due_at).where(
    deletion.c.block_id == bindparam("on_block"),
    deletion.c.state.in_((DeletionState.ASKED, DeletionState.APPROVED, DeletionState.DELETING)),
)
COPIES: Select[Any] = (
    select(
        *(transfer.c[name] for name in ("src_se_id", "dst_se_id", "state", "attempts", "not_before")),
        *(transfer.c[name] for name in ("bytes", "error_class", "error", "claimed_at", "updated_at")),
        dir_.c.path,
        data_file.c.name,
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(transfer.c.file_id == bindparam("on_file"))
    .order_by(transfer.c.id)
)


# --- subscriptions -----------------------------------------------------------------------------------


def why_subscription(conn: Connection, key: int, now: datetime) -> Answer:
    """Why a subscription is not complete yet: its own state, then its blocks, those of a kind together."""
    view = deliveries.subscription(conn, key)
    row = conn.execute(SUBSCRIPTION, {"row_id": key}).one()
    missing = waits.of_subscription(conn, key, now, LIMIT)
    growing = _open_blocks(conn, row)
    own = _own(row, view, se_names(conn))
    first = next((one for wait in missing for one in wait.told), None)
    lead = own or first or next(iter(growing), None)
    shown = ("id", "dataset", "se", "percent", "blocks", "blocks_done", "files", "files_done", "custodial")
    because = [own.sentence if own else view["reason"], *_grouped(missing)]
    return Answer(
        what=f"sub:{key}",
        kind="subscription",
        state=view["state"],
        since=view["updated_at"],
        because=[*because, *(one.sentence for one in growing)],
        evidence={
            **{name: view[name] for name in shown},
            "missing_blocks": [_wait(one, se_names(conn)) for one in missing[:QUOTED]],
            "history": view["history"],
            "reasons": [one.to_json() for one in _different([own, *_leads(missing), *growing])],
        },
        turn=lead.turn if lead else "the block_manager",
        next=(lead.cure if lead else None) or f"tierflow subscription show {key}",
    )


#: What a live subscription says of itself, and of no single block.
_OWN = (Reason.NO_CLOSED_BLOCK, Reason.QUOTA_FULL, Reason.SE_FULL)


def _own(row: Any, view: Mapping[str, Any], names: Mapping[int, str]) -> Told | None:
    """What holds the subscription itself up, whatever its blocks do."""
    extra = {"id": row.id, "noun": "subscription", "dst": row.se_id, "dataset": view["dataset"]}
    params = {**extra, **(row.params or {})}
    match row.state:
        case SubscriptionState.ASKED:
            return told(Reason.ASKED, {"since": iso(row.created_at), **params}, names)
        case SubscriptionState.DENIED:
            return told(Reason.DENIED, {"actor": row.decided_by, "note": row.comments, **params}, names)
        case SubscriptionState.SUSPENDED:
            until = {"until": iso(row.suspended_until)} if row.suspended_until else {}
            return told(Reason.SUSPENDED, {**until, **params}, names)
        case SubscriptionState.COMPLETE:
            return told(Reason.DELIVERED, {**params, "blocks": view["blocks"]}, names)
        case SubscriptionState.REMOVED:
            return told(Reason.UNSUBSCRIBED, params, names)
        case SubscriptionState.ACTIVE if row.code in _OWN:
            return told(Reason(row.code), params, names)
    return None


def _open_blocks(conn: Connection, row: Any) -> list[Told]:
    """Blocks that will be copied once they are closed."""
    if row.state != SubscriptionState.ACTIVE or row.static or row.block_id:
        return []
    found = conn.execute(OPEN_BLOCKS, {"on_dataset": row.dataset_id, "n": QUOTED})
    return [_open(one.name, one.files, one.close_by) for one in found]


def _open(name: str, files: int, close_by: datetime | None) -> Told:
    return told(Reason.BLOCK_OPEN, {"block": name, "files": files, "close_by": iso(close_by)}, {})


def _leads(missing: Iterable[Wait]) -> list[Told]:
    return [one for wait in missing for one in wait.told]


def _grouped(missing: Sequence[Wait]) -> list[str]:
    """Sentences with the number of blocks they are said of."""
    found = Counter(one.sentence for wait in missing for one in wait.told)
    return [f"{some(n, 'block')}: {sentence}" for sentence, n in found.most_common()]


def _different(all_told: Iterable[Told | None]) -> list[Told]:
    """The first of each code."""
    found: dict[Reason, Told] = {}
    for one in all_told:
        if one is not None:
            found.setdefault(one.code, one)
    return list(found.values())


def _wait(one: Wait, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "block": one.block,
        "se": names[one.se_id],
        "path": [names.get(se_id, f"SE {se_id}") for se_id in one.path],
        **record(one, "decided_at", "valid_until"),
        "reasons": [each.to_json() for each in one.told],
    }


# --- blocks ------------------------------------------------------------------------------------------


def why_block(conn: Connection, name: str, now: datetime) -> Answer:
    """Where a block is, where it is wanted and why it is not there yet. Raises NotFound."""
    view = discovery.block_show(conn, name)
    names = se_names(conn)
    wanted = waits.of_blocks(conn, [view.block.id], now)
    going = _leaving(conn, view.block.id, names)
    opened = [_open(name, view.block.files, view.block.close_by)]
    growing = opened if view.block.state is BlockState.OPEN else []
    lead = next(iter([*growing, *_leads(wanted), *going]), None)
    held = [se_name for se_name, one in view.replicas.items() if one.state is ReplicaState.COMPLETE]
    return Answer(
        what=f"block:{name}",
        kind="block",
        state=view.block.state.value,
        since=iso(view.block.closed_at or view.block.created_at),
        because=[
            *(one.sentence for one in growing),
            *(f"wanted at {names[wait.se_id]}: {one.sentence}" for wait in wanted for one in wait.told),
            *(f"at {one.params['dst_name']}: {one.sentence}" for one in going),
            f"complete at {', '.join(sorted(held))}" if held else "complete nowhere",
            *_faults(conn, view.block.id, names),
        ],
        evidence={
            "replicas": {se_name: one.state.value for se_name, one in sorted(view.replicas.items())},
            "wanted": [_wait(one, names) for one in wanted],
            "reasons": [one.to_json() for one in _different([*growing, *_leads(wanted), *going])],
            "history": _decisions(conn, view.block.id, names),
            "opened_closed": [
                record(one, "at", "state", "code") for one in discovery.block_history(conn, view.block.id)
            ],
        },
        turn=lead.turn if lead else "nobody",
        next=(lead.cure if lead else None) or f"tierflow block show {name}",
    )


def _faults(conn: Connection, block_id: int, names: Mapping[int, str]) -> list[str]:
    found = exceptions.faults_by_se(conn, [block_id]).get(block_id, {})
    return [
        f"{some(len(files), 'file')} missing or bad at {names[se_id]}"
        for se_id, files in sorted(found.items())
    ]


def _leaving(conn: Connection, block_id: int, names: Mapping[int, str]) -> list[Told]:
    """Deletions of its replicas that are still to come."""
    found = []
    for row in conn.execute(LEAVING, {"on_block": block_id}):
        extra = {"id": row.id, "noun": "deletion", "dst_name": names[row.se_id], "dst": row.se_id}
        if row.state == DeletionState.ASKED:
            found.append(told(Reason.ASKED, extra, names))
        elif row.state == DeletionState.APPROVED:
            found.append(told(Reason.UNDELETE_WINDOW, {**extra, "until": iso(row.due_at)}, names))
    return found


def _decisions(conn: Connection, block_id: int, names: Mapping[int, str]) -> list[dict[str, Any]]:
    rows = conn.execute(DECISIONS, {"on_block": block_id, "n": QUOTED})
    return [
        {
            "se": names[row.se_id],
            **record(row, "at", "code", "cost"),
            "sentence": deliveries.sentence(row.code, row.params, names),
            "path": [names.get(one, f"SE {one}") for one in row.path or []],
        }
        for row in rows
    ]


# --- files -------------------------------------------------------------------------------------------


def why_file(conn: Connection, lfn: str, now: datetime) -> Answer:
    """Where a file can be read, what is wrong with its copies, and what those that are made wait for. Raises
    NotFound."""
    found = location.where_file(conn, lfn)
    names = se_names(conn)
    copies = conn.execute(COPIES, {"on_file": found.id}).all()
    transfers = [_transfer(row, names) for row in copies]
    moving = [one for row in copies for one in _copy(conn, row, names, now)]
    wanted = waits.of_blocks(conn, [found.block_id], now) if not moving else []
    state, own = _file_state(found, lfn)
    lead = next(iter([*own, *moving, *_leads(wanted)]), None)
    return Answer(
        what=lfn,
        kind="file",
        state=state,
        since=iso(found.created_at),
        because=[
            *(one.sentence for one in own),
            *_where(found),
            *(one.sentence for one in moving),
            *(
                f"the next try from {one['src']} may take {one['deadline_factor']} times as long as others"
                for one in transfers
                if one["deadline_factor"] > 1
            ),
            *(
                f"its block is wanted at {names[wait.se_id]}: {one.sentence}"
                for wait in wanted
                for one in wait.told
            ),
        ],
        evidence={
            **record(found, "bytes", "events", "block", "invalid"),
            "adler32": f"{found.adler32:08x}",
            "copies": [record(one, "se", "site", "state", "custodial", "fault") for one in found.copies],
            "transfers": transfers,
            "reasons": [one.to_json() for one in _different([*own, *moving, *_leads(wanted)])],
            "history": [
                record(one, "at", "actor", "change", "detail", "se")
                for one in histories.of_file(conn, found.id, QUOTED)
            ],
        },
        turn=lead.turn if lead else "nobody",
        next=(lead.cure if lead else None) or f"tierflow file show {lfn}",
    )


def _file_state(found: FileAt, lfn: str) -> tuple[str, list[Told]]:
    good = [one for one in found.copies if one.good]
    extra = {"block": found.block, "lfn": lfn}
    if found.invalid is not None:
        return found.invalid.value, []
    if good:
        return "GOOD", []
    complete = [one for one in found.copies if one.state is ReplicaState.COMPLETE]
    if complete:
        return "NOWHERE_GOOD", [told(Reason.SOURCE_EXCEPTED, {"n": 1, **extra}, {})]
    return "NOWHERE", [told(Reason.NO_SOURCE, extra, {})]


def _where(found: FileAt) -> list[str]:
    good = [one.se for one in found.copies if one.good]
    lines = [f"it is good at {', '.join(good)}"] if good else []
    if found.invalid is not None:
        what = "no good copy is left anywhere" if found.invalid is InvalidCode.LOST else "its owner said so"
        lines.insert(0, f"nobody shall read it, {what}")
    lines += [f"it is {one.fault.value} at {one.se}" for one in found.copies if one.fault]
    passing = [one for one in found.copies if one.state is not ReplicaState.COMPLETE]
    lines += [f"its block is {one.state.value.lower()} at {one.se}" for one in passing]
    return lines


def _copy(conn: Connection, row: Any, names: Mapping[int, str], now: datetime) -> list[Told]:
    """What one transfer of the file waits for."""
    if row.state in (TransferState.RETRY_WAIT, TransferState.FAILED):
        return [told(code, params, names) for code, params in waits.failure(conn, row)]
    if row.state is TransferState.ACTIVE:
        params = {"src": row.src_se_id, "dst": row.dst_se_id, "since": iso(row.claimed_at)}
        return [told(Reason.IN_FLIGHT, params, names)]
    if row.state is TransferState.QUEUED:
        gone = waits.absent(conn, row.dst_se_id, names, now)
        ends = {"link_src": row.src_se_id, "link_dst": row.dst_se_id}
        said = gone or (Reason.QUEUED, {"n": 1, **ends, "ahead": "others"})
        return [told(*said, names)]
    return []


def _transfer(row: Any, names: Mapping[int, str]) -> dict[str, Any]:
    ends = {"src": names[row.src_se_id], "dst": names[row.dst_se_id]}
    factor = deadline_factor(row.bytes, row.attempts, row.error_class == ErrorClass.TIMEOUT)
    seen = record(row, "state", "attempts", "not_before", "error_class", "error")
    return {**ends, **seen, "deadline_factor": factor}


# --- deletions ---------------------------------------------------------------------------------------


def why_deletion(conn: Connection, key: int) -> Answer:
    """Why a deletion is not done yet, or was not. Raises NotFound."""
    row = conn.execute(DELETION, {"row_id": key}).one_or_none()
    if row is None:
        raise NotFound(f"there is no deletion {key}", hint="see: tierflow deletion list")
    names = se_names(conn)
    said = [told(code, params, names) for code, params in _deletion(row)]
    lead = next(iter(said), None)
    return Answer(
        what=f"del:{key}",
        kind="deletion",
        state=row.state.value,
        since=iso(row.updated_at),
        because=[one.sentence for one in said] or [_ENDS.get(row.state, "it is being carried out")],
        evidence={
            **record(row, "id", "block", "se", "files", "requester", "comments", "decided_by", "decided_at"),
            **record(row, "due_at", "created_at"),
            "group": row.acct_group,
            "reasons": [one.to_json() for one in said],
        },
        turn=lead.turn if lead else _TURNS.get(row.state, "nobody"),
        next=(lead.cure if lead else None) or f"tierflow deletion show {key}",
    )


_ENDS = {
    DeletionState.DELETED: "its files and the replica are gone",
    DeletionState.UNDONE: "it was taken back in time",
    DeletionState.DELETING: "its files are being removed",
}
_TURNS = {DeletionState.DELETING: "the deleter"}


def _deletion(row: Any) -> list[waits.Said]:
    extra = {"id": row.id, "noun": "deletion", "block": row.block, "se": row.se_id, "dst": row.se_id}
    params = {**extra, **(row.params or {})}
    match row.state:
        case DeletionState.ASKED:
            return [(Reason.ASKED, {"since": iso(row.created_at), **params})]
        case DeletionState.DENIED:
            return [(Reason.DENIED, {"actor": row.decided_by, **params})]
        case DeletionState.APPROVED:
            window = (Reason.UNDELETE_WINDOW, {**params, "until": iso(row.due_at)})
            return [(Reason.SOURCE_IN_USE, extra), window] if row.code == Reason.SOURCE_IN_USE else [window]
        case DeletionState.REFUSED | DeletionState.DELETING if row.code in tuple(Reason):
            return [(Reason(row.code), params)]
    return []
