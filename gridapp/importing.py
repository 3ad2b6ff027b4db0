"""Files that lie on storage already, registered in bulk: by a list, or by walking the storage.

All of it is read and checked before anything is written; then portion after portion is a transaction of its
own. Cut off at any point, the same import again registers the rest.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from agents.runtime import heartbeats
from agents.runtime.agent import Context
from agents.runtime.heartbeats import AgentState
from catalogs import bookkeeping, histories, listing, parentage, registration
from catalogs.bookkeeping import BlockPolicy, DatasetRow
from catalogs.filebatch import FileBatch
from catalogs.listing import Fault, Portion
from catalogs.sites import StorageElement
from catalogs.states import DatasetState
from gridapp import naming
from gridcore import audit, identity
from gridcore.db import bulk
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.ids import check_dataset

#: Faults that are told; with as many the reading ends.
TOLD = 20
#: New files after which the planner is told.
MANY = 10_000
#: Rest after a transaction while agents work on the same SQLite, as a part of the time it took.
REST = 1.0

#: Told now and then how far it is.
Tell = Callable[[str], None]


class Source(Protocol):
    """Where the files come from."""

    @property
    def name(self) -> str: ...

    @property
    def summed(self) -> bool:
        """Whether the checksums are known before `filled`."""
        ...

    def portions(self) -> Iterator[Portion | Fault]:
        """All files, each time anew."""
        ...

    def filled(self, batch: FileBatch) -> FileBatch:
        """The files with their checksums, those left out that cannot be registered now."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A list in a file: CSV, or a JSON object a line."""

    path: Path
    summed: bool = True

    @property
    def name(self) -> str:
        """As the audit log has it."""
        return str(self.path)

    def portions(self) -> Iterator[Portion | Fault]:
        try:
            with self.path.open("rb") as stream:
                # a line is never read further than to where it is too long
                yield from listing.parse(iter(lambda: stream.readline(listing.LINE_MAX + 1), b""))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}", hint="name a file") from None

    def filled(self, batch: FileBatch) -> FileBatch:
        return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What is to be imported, and whither: the files lie at `se`; `dataset` where the source names none."""

    source: Source
    se: str
    dataset: str | None
    actor: Principal
    dry_run: bool = False


@dataclass(slots=True)
class _Sums:
    """What an import comes to."""

    files: int = 0
    bytes: int = 0
    known: int = 0
    #: Of each portion whether something of it is new.
    fresh: list[bool] = field(default_factory=list)


def run(context: Context, wanted: Import, tell: Tell) -> dict[str, Any]:
    """Register what a source lists: {"se", "datasets", "files", "bytes", "new", "known", "left_out"}.

    With `dry_run` nothing is written. Raises UsageError with the faults by line, NotFound, Denied, Conflict
    for content that is registered otherwise, for a closed dataset and for parents in a circle.
    """
    if wanted.dataset is not None:
        check_dataset(wanted.dataset)
    with context.database.snapshot() as conn:
        element = naming.element(conn, wanted.se)
    with closing(_Checker(context, wanted, element, tell)) as checker:
        sums = checker.check()
        datasets = sorted(checker.datasets)
    left_out = 0
    if not wanted.dry_run and sums.known < sums.files:
        left_out = _Writer(context, wanted, element, tell, sums).write(datasets)
    return {
        "se": wanted.se,
        "datasets": datasets,
        "files": sums.files,
        "bytes": sums.bytes,
        "new": sums.files - sums.known - left_out,
        "known": sums.known,
        "left_out": left_out,
    }


def _named(portion: Portion, wanted: Import) -> str:
    """The dataset of a portion. Raises UsageError where nobody names one."""
    name = portion.dataset or wanted.dataset
    if name is None:
        raise UsageError(f"{portion.where[0]}: it names no dataset", hint="name it there, or with --dataset")
    return name


# --- checking ----------------------------------------------------------------------------------------------


class _Names:
    """The names seen so far with a digest of their content, on disk: there may be many millions."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE seen (name BLOB PRIMARY KEY, content BLOB, dataset) WITHOUT ROWID")

    def add(self, batch: FileBatch, dataset: str) -> tuple[set[int], set[int]]:
        """Remember them; the places of those seen before, and of these the ones with another content or in
        another dataset."""
        rows = [
            (_digest(lfn), f"{size} {adler32}".encode(), dataset)
            for lfn, size, adler32 in zip(batch.lfns(), batch.bytes, batch.adler32, strict=True)
        ]
        try:
            with self._db:
                self._db.executemany("INSERT INTO seen VALUES (?, ?, ?)", rows)
            return set(), set()
        except sqlite3.IntegrityError:
            pass
        find = "SELECT content, dataset FROM seen WHERE name = ?"
        found = {place: self._db.execute(find, row[:1]).fetchone() for place, row in enumerate(rows)}
        seen = {place for place, row in found.items() if row is not None}
        with self._db:
            new = [row for place, row in enumerate(rows) if place not in seen]
            self._db.executemany("INSERT INTO seen VALUES (?, ?, ?)", new)
        return seen, {place for place in seen if found[place] != rows[place][1:]}

    def dataset_of(self, lfn: str) -> str | None:
        """The dataset of a name seen, None of one that was not."""
        row = self._db.execute("SELECT dataset FROM seen WHERE name = ?", (_digest(lfn),)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        self._db.close()


def _digest(lfn: str) -> bytes:
    return hashlib.blake2b(lfn.encode(), digest_size=16).digest()


class _Checker:
    """The first way through a source: what could go wrong is found before anything is written."""

    def __init__(self, context: Context, wanted: Import, element: StorageElement, tell: Tell) -> None:
        self.context = context
        self.wanted = wanted
        self.element = element
        self.tell = tell
        self.names = _Names()
        self.sums = _Sums()
        self.faults: list[Fault] = []
        #: {name: the dataset, None where it is still to be made}
        self.datasets: dict[str, DatasetRow | None] = {}
        #: {dataset: those its files are made from}, as this import says it
        self.made_from: dict[str, set[str]] = defaultdict(set)

    def close(self) -> None:
        self.names.close()

    def check(self) -> _Sums:
        """What there is to register. Raises UsageError, Denied, Conflict."""
        for one in self.wanted.source.portions():
            if isinstance(one, Fault):
                self.faults.append(one)
            else:
                self._look(one)
            if len(self.faults) > TOLD:
                break
        if self.faults:
            raise _refusal(self.faults)
        if not self.sums.files:
            raise UsageError(f"there is no file in {self.wanted.source.name}", hint="nothing was written")
        with self.context.database.snapshot() as conn:
            _check_circles(conn, self.made_from)
        return self.sums

    def _look(self, portion: Portion) -> None:
        batch, name = portion.batch, _named(portion, self.wanted)
        try:
            self.element.catalog.pfns(list(batch.lfns()), self.element.protocol)
            with self.context.database.snapshot() as conn:
                self._permit(conn, name)
                known = registration.known(conn, name, batch, by_size=not self.wanted.source.summed)
                self._look_at_parents(conn, portion, name)
        except (Conflict, NotFound, UsageError) as error:
            self.faults.append(Fault(_where(portion, error.message), error.message))
            return
        seen, other = self.names.add(batch, name)
        said = "was given before with another content or dataset"
        self.faults += [Fault(portion.where[one], f"{batch.lfn(one)} {said}") for one in sorted(other)]
        found = self.datasets[name]
        if found is not None and found.state is DatasetState.CLOSED and len(known) < len(batch):
            raise Conflict(
                f"dataset {name} is closed and gets no further file", hint=f"tierflow dataset reopen {name}"
            )
        self.sums.files += len(batch) - len(seen)
        self.sums.bytes += sum(batch.bytes) - sum(batch.bytes[place] for place in seen)
        self.sums.known += len(known.keys() - seen)
        self.sums.fresh.append(len(known) < len(batch))
        self.tell(f"checked {self.sums.files:,} files, {self.sums.known:,} of them registered before")

    def _permit(self, conn: Connection, name: str) -> None:
        if name not in self.datasets:
            found = self.datasets[name] = bookkeeping.dataset_by_name(conn, name)
            group = "" if found is None else found.group or ""
            identity.require(self.wanted.actor, Action.DATASET_IMPORT, Subject(group=group))

    def _look_at_parents(self, conn: Connection, portion: Portion, name: str) -> None:
        found = bookkeeping.files_named(conn, {parent for _, parent in portion.parents})
        owners = {one.dataset_id for one in found.values()}
        names = {key: bookkeeping.dataset_by_id(conn, key).name for key in owners}
        for place, parent in portion.parents:
            registered = found.get(parent)
            owner = names[registered.dataset_id] if registered else self.names.dataset_of(parent)
            if owner is None:
                what = f"its parent {parent} is neither registered nor listed before"
                self.faults.append(Fault(portion.where[place], what))
            elif owner != name:
                self.made_from[name].add(owner)


def _where(portion: Portion, told: str) -> str:
    """Where the file stands that an error tells of."""
    named = [(len(lfn), -place) for place, lfn in enumerate(portion.batch.lfns()) if lfn in told]
    return portion.where[-max(named, default=(0, 0))[1]]


def _refusal(faults: Sequence[Fault]) -> UsageError:
    """Whatever was wrong, in one error."""
    first, *more = [f"{where}: {what}" for where, what in faults[:TOLD]]
    rest = ["there may be more"] if len(faults) > TOLD else []
    return UsageError(first, hint="\n".join([*more, *rest, "nothing was written"]))


def _check_circles(conn: Connection, made_from: Mapping[str, Iterable[str]]) -> None:
    """Raises Conflict where a dataset would be made from itself, by this import and what is registered."""
    for name in sorted(made_from):
        reached: set[str] = set()
        last = set(made_from[name])
        while last:
            reached |= last
            told = {parent for one in last for parent in made_from.get(one, ())}
            last = (told | parentage.parents_named(conn, last)) - reached
        if name in reached:
            raise Conflict(
                f"{name} would be made from itself, by way of {', '.join(sorted(made_from[name]))}",
                hint="name the files it was really made from as parents; nothing was written",
            )


# --- writing -----------------------------------------------------------------------------------------------


class _Writer:
    """The second way: portion after portion is registered, each in a transaction of its own."""

    def __init__(
        self, context: Context, wanted: Import, element: StorageElement, tell: Tell, sums: _Sums
    ) -> None:
        self.context = context
        self.wanted = wanted
        self.element = element
        self.tell = tell
        self.sums = sums

    def write(self, datasets: Sequence[str]) -> int:
        """Register all that is new; how many files were left out. Raises Conflict for what changed since."""
        keys = dict(zip(datasets, self.context.keys.take("dataset", len(datasets)), strict=True))
        ids = self.context.database.transaction(lambda conn: self._begin(conn, keys))
        done = left_out = 0
        for number, portion in enumerate(self._portions()):
            if number < len(self.sums.fresh) and not self.sums.fresh[number]:
                done += len(portion.batch)
                continue
            began = time.monotonic()
            name = _named(portion, self.wanted)
            left_out += self._register(name, ids[name], portion)
            if self._others_work():
                time.sleep((time.monotonic() - began) * REST)
            done += len(portion.batch)
            self.tell(f"registered {done:,} of {self.sums.files:,} files")
        if self.sums.files - self.sums.known >= MANY:
            self.context.database.transaction(lambda conn: bulk.analyze(conn, registration.FILLED))
        return left_out

    def _portions(self) -> Iterator[Portion]:
        for one in self.wanted.source.portions():
            if isinstance(one, Fault):
                raise Conflict(
                    f"{self.wanted.source.name} was changed meanwhile: {one.where}: {one.what}",
                    hint="what came before it is registered; import it again",
                )
            yield one

    def _begin(self, conn: Connection, datasets: Mapping[str, int]) -> dict[str, int]:
        """{name: id} of the datasets; those that are not there are made, with these keys."""
        block, now, actor = self.context.settings.block, self.context.clock.now(), self.wanted.actor.name
        policy = BlockPolicy(block.files, block.bytes, block.age_s)
        told = {
            "from": self.wanted.source.name[:500],
            "se": self.wanted.se,
            "files": self.sums.files,
            "known": self.sums.known,
        }
        ids = {}
        for name, key in datasets.items():
            ids[name] = bookkeeping.create_dataset(conn, key, name, policy, now)
            histories.tell_dataset(conn, ids[name], "import begun", actor, now, told)
            audit.record(conn, actor, "dataset import", f"dataset {name}", now, told)
        return ids

    def _register(self, name: str, dataset_id: int, portion: Portion) -> int:
        """How many were left out."""
        batch, source = replace(portion.batch, parents=self._parents(portion)), self.wanted.source
        if not source.summed:
            with self.context.database.snapshot() as conn:
                known = registration.known(conn, name, batch, by_size=True)
            batch = batch.at([place for place in range(len(batch)) if place not in known])
        whole = source.filled(batch)
        if len(whole):
            reserved = registration.reserve(self.context.keys, len(whole))
            now, se_id = self.context.clock.now(), self.element.id
            self.context.database.transaction(
                lambda conn: registration.register(conn, reserved, dataset_id, se_id, whole, now)
            )
        return len(batch) - len(whole)

    def _parents(self, portion: Portion) -> list[tuple[int, int]]:
        """(place, key of its parent): by now all of them are registered."""
        with self.context.database.snapshot() as conn:
            found = bookkeeping.files_named(conn, {parent for _, parent in portion.parents})
        if missing := next((parent for _, parent in portion.parents if parent not in found), None):
            raise Conflict(f"{missing} is a parent and was removed meanwhile", hint="import it again")
        return [(place, found[parent].id) for place, parent in portion.parents]

    def _others_work(self) -> bool:
        """Whether agents write to the same SQLite, which has one writer at a time."""
        if self.context.database.dialect != "sqlite":
            return False
        with self.context.database.snapshot() as conn:
            rows = heartbeats.agents(conn, self.context.settings.lease.heartbeat_s)
        return any(not row.stale and row.state != AgentState.STOPPED for row in rows)
