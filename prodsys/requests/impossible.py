"""Work that no site could ever run as things are asked for and offered: looked for at submission, when a
request is assigned, and among the waiting jobs whenever somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, select

from gridcore.db.statements import select_in
from prodsys.job_states import JobState
from prodsys.queue import classes
from prodsys.queue.brokerage import Requirements, SiteFacts, Verdict, judge, judge_any
from prodsys.requests import assignments
from prodsys.requests.policies import Choice
from prodsys.tables import in_state, job, job_class, share_node, task
from prodsys.tasks.workflow import Step

_READY = in_state(job, JobState.READY)
_FIRST = (
    select(job.c.task_id)
    .where(job.c.class_id == job_class.c.id, _READY)
    .order_by(job.c.rank, job.c.id)
    .limit(1)
    .scalar_subquery()
)
#: Whose turn classes are: their share, and the task of their first waiting job.
OWNERS = (
    select(job_class.c.id, share_node.c.path, task.c.name.label("task"))
    .join(share_node, share_node.c.id == job_class.c.leaf_id)
    .join(task, task.c.id == _FIRST)
    .where(job_class.c.id.in_(bindparam("ids", expanding=True)))
)


def asked(step: Step) -> Requirements:
    """What the jobs of a step need, wherever their input is."""
    return Requirements(
        cores=step.limits.cores,
        memory_mb=step.limits.memory_mb or 0,
        wall_s=int(step.limits.wall_s),
        platform=step.platform,
        sites=None if step.sites is None else frozenset(step.sites),
        sites_excluded=frozenset(step.sites_excluded),
        disk_mb=step.limits.disk_mb or 0,
        tags=frozenset(step.tags),
        gpus=step.limits.gpus,
        outbound=step.outbound,
    )


def nowhere(conn: Connection, requirements: Requirements) -> dict[str, Verdict] | None:
    """Each site's nearest refusal, by its name, if no site could ever run this; else None.

    Sites switched off and input that is not there yet do not count: both may change without anyone changing
    what is asked for or offered. None as well where no site has an endpoint yet.
    """
    return _never(requirements, _possible(classes.site_facts(conn).values()))


def _possible(sites: Iterable[Mapping[int, SiteFacts]]) -> list[list[SiteFacts]]:
    """What each site's endpoints would offer if all were switched on."""
    offers = ([replace(one, enabled=True) for key, one in here.items() if key] for here in sites)
    return [here for here in offers if here]


def _never(requirements: Requirements, sites: Sequence[Sequence[SiteFacts]]) -> dict[str, Verdict] | None:
    asked = replace(requirements, input_ses=None)
    if not sites or any(judge(asked, one).eligible for here in sites for one in here):
        return None
    return {here[0].name: judge_any(asked, here) for here in sites}


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """A class with waiting jobs that no site could ever run: `refusals` by site, `task` the first job's."""

    class_id: int
    task_type: str
    share: str
    ready: int
    task: str
    refusals: dict[str, Verdict]


def waiting(conn: Connection) -> list[Impossible]:
    """The classes whose waiting jobs no site could run as things are offered now."""
    rows = conn.execute(classes.LIVE).all()
    sites = _possible(classes.site_facts(conn).values())
    found = {key: _never(one, sites) for key, one in classes.requirements_of(rows, {}).items()}
    refusals = {key: one for key, one in found.items() if one}
    owners = {row.id: row for row in select_in(conn, OWNERS, refusals)}
    return [
        Impossible(
            class_id=row.id,
            task_type=row.task_type,
            ready=row.ready,
            share=owners[row.id].path,
            task=owners[row.id].task,
            refusals=refusals[row.id],
        )
        for row in rows
        if row.id in owners
    ]


# --- assigned to whom ------------------------------------------------------------------------------------

#: What each site offers, endpoint by endpoint.
Offers = Sequence[Sequence[SiteFacts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A site, ProdAgent or site set that could never run some steps of what it is assigned.

    `refusals` are those of its sites, by step and site; without a site they are empty. `steps` are all.
    """

    kind: str
    name: str
    steps: tuple[str, ...]
    refusals: Mapping[str, Mapping[str, Verdict]]

    @property
    def useless(self) -> bool:
        """Whether it can run nothing."""
        return len(self.refusals) == len(self.steps)


def unfit(conn: Connection, steps: Sequence[Step], choice: Choice) -> list[Unfit]:
    """Those named in a choice that could not run all of these steps, wherever their input is.

    What is switched off counts as if it were not, a site without endpoint as one that runs nothing; none is
    told where no site has an endpoint yet.
    """
    facts = classes.site_facts(conn)
    if not any(key for here in facts.values() for key in here):
        return []
    found = []
    for kind, name, offers in _named(conn, choice, facts):
        refused = {step.name: _refused(asked(step), offers) for step in steps}
        refusals = {step: one for step, one in refused.items() if one is not None}
        if refusals:
            found.append(Unfit(kind=kind, name=name, steps=tuple(refused), refusals=refusals))
    return found


def _named(
    conn: Connection, choice: Choice, facts: Mapping[int, Mapping[int, SiteFacts]]
) -> Iterator[tuple[str, str, Offers]]:
    """(kind, name, offers) of all that a choice names."""
    whole = {key: [_switched_on(*pair) for pair in here.items()] for key, here in facts.items()}
    by_name = {here[0].name: here for here in whole.values()}
    for name in choice.params.get("sites", ()):
        yield "site", name, [by_name[name]]
    for agent in assignments.agents(conn):
        if agent.name in choice.params.get("agents", ()):
            served = [
                [_switched_on(key, one) for key, one in here.items() if key in agent.endpoints]
                for here in facts.values()
            ]
            yield "ProdAgent", agent.name, [here for here in served if here]
    for group in assignments.site_sets(conn):
        if group.name in choice.params.get("site_sets", ()):
            yield "site set", group.name, [whole[key] for key in sorted(group.sites)]


def _switched_on(endpoint_id: int, offer: SiteFacts) -> SiteFacts:
    return replace(offer, enabled=True) if endpoint_id else offer


def _refused(requirements: Requirements, sites: Offers) -> dict[str, Verdict] | None:
    """Each site's nearest refusal, by its name; None where one of them could run it."""
    verdicts = {here[0].name: judge_any(requirements, here) for here in sites}
    return None if any(one.eligible for one in verdicts.values()) else verdicts
