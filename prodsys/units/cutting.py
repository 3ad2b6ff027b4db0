"""Cutting: from a step and its input to the jobs that will be, without making them. Pure.

A task's units are events where it generates (of all points of its matrix), points where a matrix says nothing
of events, files where these are cut by number or size, and lumis, counted once in every block that holds a
part of them. The order of the pieces is fixed: whoever stopped after the tenth goes on with the eleventh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gridcore.errors import UsageError
from prodsys.tasks import lumis, matrix
from prodsys.tasks.lumis import Lumis
from prodsys.tasks.workflow import Splitting, Step
from prodsys.units import splitting
from prodsys.units.lumi_splitting import EVENT, LumiFile, LumiUnit, event_units, lumi_units
from prodsys.units.splitting import InputFile

#: Why a job is held from the start: one of its lumis has more events than a job may have.
LUMI_TOO_LONG = "LUMI_TOO_LONG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one job shall do, in `units`.

    `lumis` are those it takes of its files, None for all of them; `ranges` are those it answers for in the
    ledger. `held` is set where an operator has to decide: (code, params).
    """

    units: int
    first_event: int | None = None
    events: int | None = None
    parameters: Mapping[str, matrix.Value] | None = None
    files: tuple[InputFile, ...] = ()
    lumis: Lumis | None = None
    ranges: tuple[tuple[int, int, int], ...] = ()
    held: tuple[str, Mapping[str, Any]] | None = None


# --- without input ---------------------------------------------------------------------------------------


def generated(step: Step, total: int, made: int) -> Iterator[Piece]:
    """The pieces of a step without input from unit `made` on, up to `total` units."""
    if step.splitting == Splitting.EVENTS:
        return _events(total, step.events_per_job or 1, made, None)
    return _points(step, total, made)


def _events(
    total: int, per_job: int, made: int, parameters: Mapping[str, matrix.Value] | None
) -> Iterator[Piece]:
    for unit in splitting.event_units(total, per_job, first_event=made):
        yield Piece(units=unit.count, first_event=unit.first, events=unit.count, parameters=parameters)


def _points(step: Step, total: int, made: int) -> Iterator[Piece]:
    """Point by point; the events of each are counted from 0."""
    values, each = step.matrix or {}, step.events or 1
    number, first = divmod(made, each)
    while number * each < total:
        parameters = matrix.point(values, number)
        if step.events is None:
            yield Piece(units=1, parameters=parameters)
        else:
            yield from _events(each, step.events_per_job or 1, first, parameters)
        number, first = number + 1, 0


def count_generated(step: Step) -> int:
    """How many jobs a step without input makes."""
    points = matrix.count(step.matrix) if step.matrix else 1
    if step.events is None:
        return points
    return points * splitting.count_event_jobs(step.events, step.events_per_job or 1)


# --- of a block ------------------------------------------------------------------------------------------


def of_block(step: Step, files: Sequence[InputFile], owned: Lumis | None = None) -> Iterator[Piece]:
    """The pieces of a closed input block.

    `owned` are the lumis that jobs of other blocks answer for: what this block's files hold of them is cut
    into pieces of its own, after the others, that own no lumi. Raises UsageError, with the first piece, where
    the files do not say what the splitting has to know.
    """
    named = None if step.files is None else frozenset(step.files)
    asked = [one for one in files if named is None or one.lfn in named]
    if step.splitting in (Splitting.LUMIS, Splitting.EVENT_AWARE):
        return _lumi_pieces(step, asked, owned or {})
    return _file_pieces(step, asked)


def _file_pieces(step: Step, files: Sequence[InputFile]) -> Iterator[Piece]:
    taken: dict[int, Lumis] | None = None
    if step.mask is not None or step.runs is not None:
        choose = _chooser(step)
        taken = {one.id: choose(lumis.normal(one.runs)) for one in files}
        files = [one for one in files if taken[one.id]]
    if step.splitting == Splitting.SIZE:
        units = splitting.size_units(files, step.bytes_per_job or 1, split_on_run=step.split_on_run)
    else:
        units = splitting.file_units(files, step.files_per_job, split_on_run=step.split_on_run)
    for unit in units:
        yield Piece(units=len(unit), files=unit, lumis=_of_files(unit, taken))


def _of_files(unit: Iterable[InputFile], taken: Mapping[int, Lumis] | None) -> Lumis | None:
    if taken is None:
        return None
    return lumis.normal(
        (run, first, last) for one in unit for run, ranges in taken[one.id].items() for first, last in ranges
    )


def _lumi_pieces(step: Step, files: Sequence[InputFile], owned: Lumis) -> Iterator[Piece]:
    choose = _chooser(step)
    holders = [_lumi_file(one, choose) for one in files if not _is_empty(one)]
    by_id = {one.id: one for one in files}
    for owns in (True, False):
        rule = lumis.without if owns else lumis.common
        parts = [_part(one, rule(one.chosen, owned)) for one in holders]
        for unit in _lumi_units(step, parts):
            yield _lumi_piece(step, unit, by_id, owns)


def _lumi_units(step: Step, parts: Sequence[LumiFile]) -> Iterator[LumiUnit]:
    if step.splitting == Splitting.LUMIS:
        return lumi_units(parts, step.lumis_per_job or 1, split_on_run=step.split_on_run)
    return event_units(parts, step.events_per_job or 1, split_on_run=step.split_on_run)


def _lumi_piece(step: Step, unit: LumiUnit, by_id: Mapping[int, InputFile], owns: bool) -> Piece:
    return Piece(
        units=unit.lumis,
        files=tuple(by_id[file_id] for file_id in unit.files),
        lumis=lumis.normal(unit.ranges),
        ranges=unit.ranges if owns else (),
        held=_too_long(step, unit),
    )


def _too_long(step: Step, unit: LumiUnit) -> tuple[str, Mapping[str, Any]] | None:
    most = step.max_events_per_job
    if most is None or unit.weight <= most * EVENT:
        return None
    run, lumi, _ = unit.ranges[0]
    return LUMI_TOO_LONG, {"run": run, "lumi": lumi, "events": unit.events, "most": most}


def _part(one: LumiFile, chosen: Lumis) -> LumiFile:
    return LumiFile(id=one.id, lfn=one.lfn, events=one.events, holds=one.holds, chosen=chosen)


def _lumi_file(one: InputFile, choose: Callable[[Lumis], Lumis]) -> LumiFile:
    if not one.runs:
        raise UsageError(
            f"the catalogue knows no lumi of {one.lfn}",
            hint="cut this input by files_per_job or bytes_per_job",
        )
    holds = lumis.normal(one.runs)
    return LumiFile(id=one.id, lfn=one.lfn, events=one.events, holds=holds, chosen=choose(holds))


def _is_empty(one: InputFile) -> bool:
    """Whether it has neither events nor lumis: there is nothing in it to process."""
    return not one.runs and one.events == 0


def _chooser(step: Step) -> Callable[[Lumis], Lumis]:
    """What a step takes of the lumis a file holds."""
    mask = None if step.mask is None else lumis.from_json(step.mask)
    runs = None if step.runs is None else lumis.parse_runs(step.runs)

    def choose(holds: Lumis) -> Lumis:
        kept = holds if runs is None else lumis.of_runs(holds, runs)
        return kept if mask is None else lumis.common(kept, mask)

    return choose


def rest(pieces: Iterable[Piece], done: int, room: int) -> list[Piece]:
    """The next pieces after `done`, at most `room`."""
    return list(islice(pieces, done, done + room))
