"""The benches and their cases, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gridapp.bench import (
    data_delete,
    data_locate,
    data_register,
    data_route,
    data_subscribe,
    data_tfc,
    fabric,
    lifecycle,
    match,
    planning,
    queue,
)
from gridapp.bench.backlog import Say
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Figure
from gridcore.errors import UsageError

BACKENDS = ("sqlite", "postgres")
#: Waiting jobs, or what is planned, where nothing else is said.
ROWS = 1_000_000
#: With fewer rows a case that is about very many is run only by its name.
MANY = 1_000_000

Run = Callable[[Ground], Figure | list[Figure]]


@dataclass(frozen=True, slots=True)
class Case:
    """A measurement; its docstring says what is measured. Some make sense on one backend only."""

    name: str
    run: Run
    backends: Sequence[str] = BACKENDS
    only_many: bool = False

    @property
    def says(self) -> str:
        """What is measured, in a sentence."""
        return str(self.run.__doc__).strip()


BENCHES: Mapping[str, Sequence[Case]] = {
    "queue": (
        Case("claim_finish", queue.claim_finish),
        Case("vs_pgqueuer", queue.vs_pgqueuer, ("postgres",)),
        Case("snapshot", queue.snapshot, ("postgres",)),
        Case("create", queue.create),
        Case("task_show", queue.task_show),
        Case("bulk_kill", queue.bulk_kill),
    ),
    "match": (
        Case("match", match.match),
        Case("match_gathered", match.match_gathered),
        Case("deep", match.deep, ("postgres",), only_many=True),
    ),
    "lifecycle": (Case("life", lifecycle.life),),
    "merge": (Case("merge", planning.merges), Case("under_minimum", planning.under_minimum)),
    "split": (
        Case("events", planning.split_events),
        Case("files", planning.split_files),
        Case("lumis", planning.split_lumis),
    ),
    "share": (Case("share", planning.shares),),
    "locate": (Case("locate", data_locate.locate),),
    "register": (Case("register", data_register.register), Case("flat", data_register.flat)),
    "route": (Case("route", data_route.route),),
    "subscribe": (Case("subscribe", data_subscribe.subscribe),),
    "fabric": (Case("fabric", fabric.fabric),),
    "delete": (Case("delete", data_delete.delete),),
    "tfc": (Case("tfc", data_tfc.chain), Case("pfns", data_tfc.pfns)),
}


def chosen(bench: str, backend: str, rows: int, case: str | None) -> list[Case]:
    """The cases to run. Raises UsageError for one that does not exist, or not on this backend."""
    cases = BENCHES[bench]
    if case is None:
        return [one for one in cases if backend in one.backends and (rows >= MANY or not one.only_many)]
    found = [one for one in cases if one.name == case]
    if not found:
        names = ", ".join(one.name for one in cases)
        raise UsageError(f"bench {bench} has no case {case!r}", hint=f"its cases: {names}")
    if backend not in found[0].backends:
        raise UsageError(
            f"the case {case} is about PostgreSQL only", hint=f"--backend {found[0].backends[0]}"
        )
    return found


def figures(
    bench: str, backend: str, rows: int, dsn: str | None, case: str | None, say: Say
) -> Iterator[Figure]:
    """Run the cases, each figure as it is there. Raises UsageError."""
    if dsn is not None and backend != "postgres":
        raise UsageError("--dsn is a PostgreSQL server's", hint="give --backend postgres as well")
    cases = chosen(bench, backend, rows, case)
    with Ground(bench, backend, rows, dsn, say) as ground:
        for one in cases:
            found = one.run(ground)
            yield from found if isinstance(found, list) else [found]
