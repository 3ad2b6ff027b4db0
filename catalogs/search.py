"""Finding datasets: a Search as a statement over counters and indexes, alike on every database.

The statement is put together for each query; all values are binds. Sites and storage elements are looked up
first, so that the rest compares their keys.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
)

from catalogs.bookkeeping import DatasetRow, dataset_row
from catalogs.finding import InDir, Lumis, Search, check_metadata, others
from catalogs.states import ReplicaState
from catalogs.tables import (
    IS_OPEN,
    block,
    block_replica,
    block_run,
    data_file,
    dataset,
    dataset_meta,
    dataset_parent,
    dir_,
    file_run,
    holding,
    se,
    site,
)
from gridcore.db import dbnow, globs
from gridcore.db.idlists import IdList, Within
from gridcore.db.statements import chunks
from gridcore.ids import split_lfn
from gridcore.selectors import (
    NEGATED,
    ORDERED,
    All,
    Between,
    Compare,
    Glob,
    Nested,
    Not,
    Op,
    Selector,
    Value,
    edge,
    fits,
)

#: Generations that a walk to ancestors or descendants goes, at most.
DEPTH_MAX = 20
#: Names of metadata that an error looks through.
NAMES_MAX = 200
#: Alternatives side by side: SQLite refuses an expression that is nested a thousand deep.
BESIDE = 100
#: Of metadata: whatever is said, a number too.
ANYTHING = Glob("*")
PLACES = frozenset(["site", "se", "complete", "custodial"])

SES = select(se.c.id, se.c.name.label("se"), site.c.name.label("site")).join_from(
    se, site, site.c.id == se.c.site_id
)
HAS_METADATA = select(dataset_meta.c.name).where(dataset_meta.c.name == bindparam("name")).limit(1)
NEXT_METADATA = select(func.min(dataset_meta.c.name)).where(dataset_meta.c.name > bindparam("after"))

Condition = ColumnElement[bool]
_ORDER: Mapping[Op, Callable[[Any, Any], Any]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
}
#: Older was made earlier.
_MIRRORED = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}
_COLUMNS = {
    "dataset": "name",
    "primary": "prim",
    "processed": "proc",
    "tier": "data_tier",
    "access": "access_type",
    "state": "state",
    "group": "acct_group",
    "files": "files",
    "bytes": "bytes",
    "events": "events",
    "created": "created_at",
}


def find(conn: Connection, search: Search, after: str = "", n: int = 100) -> list[DatasetRow]:
    """The first `n` datasets by name after the name `after`. Raises UsageError for unknown metadata."""
    _check(conn, search)
    statement = select(dataset).where(_Meaning(conn).search(dataset, search))
    if after:  # to Oracle an empty text is none
        statement = statement.where(dataset.c.name > after)
    page = statement.order_by(dataset.c.name).limit(bindparam("n", n, type_=Integer))
    return [dataset_row(row) for row in conn.execute(page)]


def left_out(conn: Connection, search: Search) -> int:
    """How many more there are that are not VALID, where the search did not say which access it meant."""
    if not search.only_valid:
        return 0
    rest = others(search)
    meant = _Meaning(conn).search(dataset, rest)
    return int(conn.execute(select(func.count()).select_from(dataset).where(meant)).scalar_one())


def _check(conn: Connection, search: Search) -> None:
    """A probe for each name; only a mistake costs a look at all of them."""
    known = {one for one in search.metadata if conn.execute(HAS_METADATA, {"name": one}).first()}
    if known != search.metadata:
        check_metadata(search, known.union(_metadata_names(conn)))


def _metadata_names(conn: Connection) -> list[str]:
    """From one to the next by the index, whatever the number of datasets."""
    names: list[str] = []
    while len(names) < NAMES_MAX:
        after = names[-1] if names else " "
        name = conn.execute(NEXT_METADATA, {"after": after}).scalar_one()
        if name is None:
            break
        names.append(name)
    return names


# --- conditions ------------------------------------------------------------------------------------------


class _Meaning:
    """What the parts of a search mean in SQL, on this database and now.

    A condition may be NULL, which is to be taken as false: `unlike` does.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._dialect = conn.dialect.name
        self._now = dbnow(conn)

    @cached_property
    def _places(self) -> list[tuple[int, str, str]]:
        """(id, name, name of its site) of all storage elements, some hundred."""
        return [(row.id, row.se, row.site) for row in self._conn.execute(SES)]

    def search(self, of: FromClause, search: Search) -> Condition:
        """A whole search; what all names begin with is said first, for the index of names."""
        meant = self.meant(search.where, of)
        return and_(globs.like(of.c.name, f"{search.start}*"), meant) if search.start else meant

    def meant(self, one: Selector, of: FromClause) -> Condition:
        """A selector over a table of datasets."""
        if isinstance(one, Compare):
            said = any_of(self.values(one, of))
            return unlike(said) if one.op in NEGATED else said
        if isinstance(one, Not):
            return unlike(self.meant(one.of, of))
        parts = [self.meant(part, of) for part in one.parts]
        return and_(*parts) if isinstance(one, All) else any_of(parts)

    def values(self, one: Compare, of: FromClause) -> list[Condition]:
        """What is meant by a comparison, of which one is enough; its negation is not minded."""
        match one.field:
            case name if name in _COLUMNS:
                return self.compared(of.c[_COLUMNS[name]], one)
            case "blocks":
                return self.compared(_blocks(of), one)
            case "age":
                return [self.aged(of, one.op, value) for value in one.values]
            case name if name in PLACES:
                return [self.placed(of, one)]
            case "run":
                return [self.among(of, _runs(any_of(self.compared(block_run.c.run, one))))]
            case "lumi":
                return [self.among(of, _lumis(value)) for value in one.values if isinstance(value, Lumis)]
            case "file":
                return [self.filed(of, value) for value in one.values]
            case "parent" | "child" | "ancestor" | "descendant":
                return [self.walked(of, one.field, one.values[0])]
        return [self.among(of, self.told(one))]

    # --- columns -----------------------------------------------------------------------------------------

    def compared(self, column: ColumnElement[Any], one: Compare) -> list[Condition]:
        """A column against values; plain ones together, in a list."""
        if one.op in ORDERED:
            return [_ORDER[one.op](column, edge(one.op, one.values[0]))]
        found: list[Condition] = []
        plain = []
        for value in one.values:
            if isinstance(value, Glob):
                found.append(globs.like(column, value.pattern))
            elif isinstance(value, Between):
                found.append(column.between(value.first, value.last))
            else:
                plain.append(value)
        if plain:
            found.append(column.in_(plain) if len(plain) > 1 else column == plain[0])
        return found

    def aged(self, of: FromClause, op: Op, value: Value) -> Condition:
        moment = self._now - timedelta(seconds=_number(value))
        side = _ORDER[_MIRRORED[op]] if op in ORDERED else operator.eq
        condition: Condition = side(of.c.created_at, moment)
        return condition

    # --- other tables ------------------------------------------------------------------------------------

    def among(self, of: FromClause, ids: Select[Any]) -> Condition:
        """The dataset is one of those selected.

        PostgreSQL makes joins of EXISTS, or probes by its indexes; what IN lists it would go through for each
        row where it is too much for its memory. SQLite makes one index of what IN lists.
        """
        if self._dialect != "postgresql":
            return of.c.id.in_(ids)
        (key,) = ids.selected_columns
        return exists(ids.where(key == of.c.id).correlate(of))

    def placed(self, of: FromClause, one: Compare) -> Condition:
        names = [se_name if one.field == "se" else site_name for _, se_name, site_name in self._places]
        here = [row[0] for row, name in zip(self._places, names, strict=True) if fits(one.values, name)]
        if not here:
            return false()
        if one.field == "custodial":
            return self.among(of, _custodial(_one_of(block_replica.c.se_id, here)))
        held = select(holding.c.dataset_id).where(_one_of(holding.c.se_id, here), holding.c.blocks > 0)
        if one.field != "complete":
            return self.among(of, held)
        whole = dataset.alias()
        all_of_it = and_(holding.c.closed == whole.c.closed_blocks, holding.c.closed > 0)
        return self.among(of, held.join(whole, whole.c.id == holding.c.dataset_id).where(all_of_it))

    def filed(self, of: FromClause, value: Value) -> Condition:
        files = select(block.c.dataset_id).join_from(data_file, block, block.c.id == data_file.c.block_id)
        files = files.join(dir_, dir_.c.id == data_file.c.dir_id)
        if isinstance(value, InDir):
            named = globs.like(data_file.c.name, value.name.pattern)
            return self.among(of, files.where(dir_.c.path == value.path, named))
        if isinstance(value, Glob):  # within datasets that are named: theirs, one after the other
            lfn = dir_.c.path + literal("/") + data_file.c.name
            theirs = files.where(block.c.dataset_id == of.c.id, globs.like(lfn, value.pattern))
            return exists(theirs.correlate(of))
        path, name = split_lfn(str(value))
        return self.among(of, files.where(dir_.c.path == path, data_file.c.name == name))

    def told(self, one: Compare) -> Select[Any]:
        """Metadata: numbers by their number, all else by its text."""
        said = select(dataset_meta.c.dataset_id).where(dataset_meta.c.name == one.field)
        if ANYTHING in one.values:
            return said
        if one.op in ORDERED:
            values = self.compared(dataset_meta.c.num, one)
        else:
            numbers = tuple(value for value in one.values if isinstance(value, float))
            texts = tuple(value for value in one.values if not isinstance(value, float))
            values = self.compared(dataset_meta.c.num, Compare(one.field, Op.IN, numbers))
            values += self.compared(dataset_meta.c.txt, Compare(one.field, Op.IN, texts))
        return said.where(any_of(values))

    # --- walks -------------------------------------------------------------------------------------------

    def walked(self, of: FromClause, walk: str, to: Value) -> Condition:
        """Datasets from which the walk leads to one that is meant: the walk back from those."""
        if not isinstance(to, Nested):
            raise TypeError(f"{walk} leads to {to!r}")
        to_parents = walk in ("parent", "ancestor")
        here = dataset_parent.c.dataset_id if to_parents else dataset_parent.c.parent_id
        there = dataset_parent.c.parent_id if to_parents else dataset_parent.c.dataset_id
        reached = dataset.alias()
        near = select(here).join(reached, reached.c.id == there).where(self.meant(to.of, reached))
        if walk in ("parent", "child"):
            return self.among(of, near)
        return of.c.id.in_(self.far(near, here, there))

    def far(self, near: Select[Any], here: Any, there: Any) -> Select[Any]:
        """Those near, and so on, generation by generation."""
        columns = [near.selected_columns[0].label("id"), literal(1, Integer).label("depth")]
        found = near.with_only_columns(*columns, maintain_column_froms=True).cte(recursive=True, nesting=True)
        step = (
            select(here, found.c.depth + 1)
            .join_from(found, dataset_parent, there == found.c.id)
            .where(found.c.depth < DEPTH_MAX)
        )
        whole = found.union_all(step) if self._dialect == "oracle" else found.union(step)
        return select(whole.c.id)


def any_of(parts: Sequence[Condition]) -> Condition:
    """One of them, at least."""
    if len(parts) > BESIDE:
        return or_(*(case((or_(*few), 1), else_=0) == 1 for few in chunks(parts, BESIDE)))
    return or_(*parts) if parts else false()


def unlike(said: Condition) -> Condition:
    """Not so: what a dataset lacks, NULL, differs from all."""
    return case((said, 1), else_=0) == 0


def _one_of(column: Any, keys: Sequence[int]) -> Condition:
    return Within(column, bindparam(None, keys, type_=IdList()))


def _number(value: Value) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _blocks(of: FromClause) -> ColumnElement[Any]:
    """Closed ones are counted; the open ones are few."""
    opened = select(func.count()).select_from(block).where(block.c.dataset_id == of.c.id, IS_OPEN)
    return of.c.closed_blocks + opened.correlate(of).scalar_subquery()


def _custodial(there: Condition) -> Select[Any]:
    kept = and_(block_replica.c.custodial == 1, block_replica.c.state == ReplicaState.COMPLETE)
    of_block = block.c.id == block_replica.c.block_id
    return select(block.c.dataset_id).join_from(block_replica, block, of_block).where(there, kept)


def _runs(in_it: Condition) -> Select[Any]:
    of_block = block.c.id == block_run.c.block_id
    return select(block.c.dataset_id).join_from(block_run, block, of_block).where(in_it)


def _lumis(wanted: Lumis) -> Select[Any]:
    """Blocks whose run reaches over some of them may have a gap there: their files decide."""

    def meets(table: FromClause) -> Condition:
        return and_(
            table.c.run == wanted.run,
            table.c.first_lumi <= wanted.last,
            table.c.last_lumi >= wanted.first,
        )

    files = select(file_run.c.file_id).join_from(data_file, file_run, file_run.c.file_id == data_file.c.id)
    has = exists(files.where(data_file.c.block_id == block_run.c.block_id, meets(file_run)))
    return _runs(and_(meets(block_run), has))
