"""Work that no site could ever run as things are offered: named at submission, when a request is assigned,
and again when a site changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from gridapp.insights.values import some
from gridcore.errors import UsageError
from prodsys.queue import brokerage
from prodsys.queue.brokerage import Verdict
from prodsys.requests import impossible
from prodsys.requests.impossible import Impossible, Unfit
from prodsys.tasks.workflow import Step

#: Sites quoted in one sentence, the nearest first.
QUOTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Never:
    """Waiting jobs of one class that no site could run: the task of the first one, and what would help."""

    task: str
    says: str
    cure: str
    turn: str = "whoever wrote the task's requirements, or an operator of the sites"

    @property
    def because(self) -> list[str]:
        """Sentences for `why`."""
        return [self.says, f"to run: {self.cure}"]


def never(conn: Connection) -> list[Never]:
    """The classes with waiting jobs that no site could ever run, whether switched on or not."""
    return [_never(one) for one in impossible.waiting(conn)]


def _never(one: Impossible) -> Never:
    jobs = f"{some(one.ready, 'job')} ({one.task_type}, {one.share})"
    refused, cure = told(one.refusals)
    return Never(task=one.task, says=f"no site can ever run {jobs} of {one.task}: {refused}", cure=cure)


def check(conn: Connection, steps: Iterable[Step]) -> None:
    """Raises UsageError naming the first step that no site could ever run, and what would help."""
    for step in steps:
        refusals = impossible.nowhere(conn, impossible.asked(step))
        if refusals is not None:
            refused, cure = told(refusals)
            raise UsageError(f"step {step.name!r} can run at no site: {refused}", hint=cure)


def check_assigned(unfit: Iterable[Unfit]) -> None:
    """Raises UsageError naming the first site, ProdAgent or site set that could run nothing. Pure."""
    for one in unfit:
        if one.useless:
            refused, cure = _part(one)
            raise UsageError(
                f"the {one.kind} {one.name} can run none of the request's work: {refused}",
                hint=f"leave it out, or {cure}",
            )


def partly(one: Unfit) -> str:
    """What it cannot run of what it is assigned. Pure."""
    refused, cure = _part(one)
    return f"the {one.kind} {one.name} cannot run all of the request's work: {refused}; to run: {cure}"


def _part(one: Unfit) -> tuple[str, str]:
    """What it cannot run and why, and what would help with the first of that."""
    if not all(one.refusals.values()):
        return "it has no site", "give it endpoints or sites"
    found = {step: told(refusals) for step, refusals in one.refusals.items()}
    first, *_ = found.values()
    steps = [f"step {step!r}: {refused}" for step, (refused, _) in list(found.items())[:QUOTED]]
    more = len(found) - QUOTED
    return "; ".join(steps) + (f"; and {some(more, 'more step')}" if more > 0 else ""), first[1]


def told(refusals: Mapping[str, Verdict]) -> tuple[str, str]:
    """The refusals as one phrase, and what would take the nearest away. Pure."""
    nearest = sorted(refusals.items(), key=_distance)
    quoted = "; ".join(f"{name}: {one.sentence}" for name, one in nearest[:QUOTED])
    more = len(nearest) - QUOTED
    site, first = nearest[0]
    tail = f"; and {some(more, 'more site')}" if more > 0 else ""
    return quoted + tail, brokerage.cure(first.code, first.params, site)


def _distance(one: tuple[str, Verdict]) -> tuple[int, float, str]:
    """Sites that only the requirements exclude come last: those were left out on purpose."""
    codes = list(brokerage.Refusal)
    return -codes.index(brokerage.Refusal(one[1].code)), brokerage.gap(one[1].params), one[0]


def doctored(conn: Connection) -> Iterator[tuple[str, str]]:
    """What `doctor` says of them: (what is wrong, its cure)."""
    yield from _pairs(never(conn))


def _pairs(found: Iterable[Never]) -> Iterator[tuple[str, str]]:
    for one in found:
        yield one.says, one.cure
