"""Work that no site could ever run as things are offered: named at submission, and again when a site
changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from gridapp.insights.values import some
from gridcore.errors import UsageError
from prodsys import brokerage, impossible
from prodsys.brokerage import Verdict
from prodsys.impossible import Impossible
from prodsys.workflow import Step

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
