"""Which jobs somebody means: by name, of a task, or by a selector; found and counted for every face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridapp.carrying import Tell
from gridapp.insights import jobs as job_rows
from gridapp.insights import tasks as task_rows
from gridapp.insights.values import state_of
from gridcore import selectors
from gridcore.db.statements import CHUNK, chunks
from gridcore.errors import NotFound, UsageError
from gridcore.ids import job_name, parse_job_name
from gridcore.selector_parser import parse
from gridcore.selectors import Compare, Op, Selector
from prodsys.control import selection
from prodsys.control.selection import Count, Walk
from prodsys.control.selectors import JOBS
from prodsys.job_states import JobState
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Jobs by name, or those of a task, or those that a selector says; in any state or in one."""

    names: Sequence[str] = ()
    task: str | None = None
    state: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The jobs a selection says: `named` are indices by task, `tasks` those it names."""

    where: Selector | None = None
    named: Mapping[int, list[int]] | None = None
    tasks: Sequence[Any] = ()

    @property
    def selector(self) -> dict[str, Any]:
        """As an order keeps it."""
        where = None if self.where is None else selectors.render(self.where, JOBS)
        if self.named is None:
            return {"where": where}
        return {"where": where, "named": {str(task_id): ids for task_id, ids in sorted(self.named.items())}}


def choose(conn: Connection, wanted: Selection) -> Chosen:
    """What a selection says. Raises UsageError, NotFound for a task or job that it names."""
    if bool(wanted.names) + (wanted.task is not None) + (wanted.where is not None) == 0:
        raise UsageError(
            "which jobs?", hint="give their names, such as TASK/17, or --task TASK, or --where SELECTOR"
        )
    if wanted.names and wanted.task is not None:
        raise UsageError("which jobs: those named or the whole task?", hint="leave out the names or --task")
    state = None if wanted.state is None else _in_state(wanted.state)
    said = None if wanted.where is None else parse(wanted.where, JOBS)
    if wanted.names:
        named = _named(conn, wanted.names)
        return Chosen(where=selectors.both(said, state), named=named, tasks=selection.tasks_of(conn, named))
    where = selectors.both(None if wanted.task is None else of_task(wanted.task), said, state)
    names = selectors.only(where, "task") or ()
    return Chosen(where=where, tasks=selection.tasks_of(conn, [task_of(conn, name).id for name in names]))


def _in_state(text: str) -> Compare:
    return Compare("state", Op.EQ, (state_of(JobState, text)[0].value,))


def of_task(name: str) -> Compare:
    """The jobs of one task."""
    return Compare("task", Op.EQ, (name,))


def _named(conn: Connection, names: Iterable[str]) -> dict[int, list[int]]:
    by_task: dict[str, set[int]] = defaultdict(set)
    for name in names:
        task_name, index, _ = parse_job_name(name)
        by_task[task_name].add(index)
    found = {}
    for name, indices in sorted(by_task.items()):
        task = task_of(conn, name)
        beyond = [index for index in indices if not 0 < index < task.next_index]
        if beyond:
            job_rows.job_row(conn, job_name(name, min(beyond)))  # raises, naming the jobs there are
        found[task.id] = sorted(indices)
    return found


def task_of(conn: Connection, name: str) -> Task:
    """The task of this name. Raises NotFound naming the nearest."""
    task = tasks.by_name(conn, name)
    if task is None:
        task_rows.task(conn, name)  # raises, naming the nearest
        raise NotFound(f"there is no task {name}", hint="see: tierflow task list")
    return task


def count(context: Context, chosen: Chosen, tell: Tell) -> Iterable[Count]:
    """By the tasks' counters where they can tell, else from the jobs, in pieces with a snapshot each."""
    walk = Walk(chosen.where, context.clock.now())
    for task_id, indices in (chosen.named or {}).items():
        for chunk in chunks(indices, CHUNK):
            with context.database.snapshot() as conn:
                yield from walk.count_named(conn, task_id, chunk)
    if chosen.named is not None:
        return
    if selectors.fields_of(chosen.where) <= selection.COUNTED:
        with context.database.snapshot() as conn:
            yield from selection.counted(conn, chosen.where, selectors.only(chosen.where, "task"))
    elif selectors.only(chosen.where, "task") is not None:
        for one in chosen.tasks:
            for after, upto in selection.spans(one.next_index - 1):
                with context.database.snapshot() as conn:
                    yield from walk.count_of(conn, one.id, after, upto)
    else:
        with context.database.snapshot() as conn:
            end = selection.last_id(conn)
        for after, upto in selection.spans(end):
            with context.database.snapshot() as conn:
                yield from walk.count(conn, after, upto)
            if end > selection.SPAN:
                tell(upto, end)
