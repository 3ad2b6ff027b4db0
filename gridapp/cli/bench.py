"""`tierflow bench`: how fast this machine is, beside the raw driver."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from gridapp.cli import output
from gridapp.cli.verbs import Noun, json_option

#: The default of `--rows`, and the least: fewer would be gone in a turn.
ROWS = 1_000_000
DEFAULTS = {"fabric": 200_000}
ROWS_MIN = 1000
TERMINATED = 143


@click.group("bench", cls=Noun)
def bench() -> None:
    """Benchmarks: the public functions beside the same work by the raw driver.

    Each measurement is an object with bench, case, backend, rows, figure, unit, limit_figure, bare_figure
    and ratio: 1 where the figure reaches its limit, and more is better. `limit_figure` is the same work (same
    rows, indexes, commits and durability) by the raw driver in its fastest form, or else what the figure is
    held against; `bare_figure` are the barest statements that could do it. The arms take turns, at least
    three each, and medians are quoted. An object with an `error` is void.

    SQLite runs with synchronous=FULL. Without --dsn a PostgreSQL of its own is started with packaged settings
    and removed in the end; one without fsync, synchronous_commit and full_page_writes is refused.
    """


def _command(name: str, help: str, rows: int) -> None:
    @bench.command(name, help=help)
    @click.option("--backend", type=click.Choice(["sqlite", "postgres"]), default="sqlite", show_default=True)
    @click.option(
        "--rows",
        type=click.IntRange(ROWS_MIN),
        default=rows,
        show_default=True,
        help="How many jobs, events, files, replicas or lumis.",
    )
    @click.option("--dsn", help="A PostgreSQL server; databases are created on it, and dropped.")
    @click.option("--case", help="Only this one.")
    @json_option
    @click.pass_context
    def command(
        ctx: click.Context, backend: str, rows: int, dsn: str | None, case: str | None, json: bool
    ) -> None:
        from gridapp.bench import cases

        with _ending_well():
            found = []
            for figure in cases.figures(name, backend, rows, dsn, case, output.say):
                found.append(figure.record())
                if json or not sys.stdout.isatty():
                    output.show_json(found[-1])
        if not json and sys.stdout.isatty():
            output.show(found, COLUMNS)
        if any("error" in one for one in found):
            ctx.exit(1)


COLUMNS = ("case", "backend", "rows", "figure", "unit", "limit_figure", "bare_figure", "ratio", "error")

HELP = {
    "queue": """The task queue: claims, a rival, an old snapshot, creation, a big task.

    claim_finish: one agent claims by 100 and finishes them, with history, attempts, counters, shares and
    limits. vs_pgqueuer (PostgreSQL): two agents of ours against two workers of pgqueuer, the limit figure,
    each by its best batch size. snapshot (PostgreSQL): claim_finish under an old open snapshot against
    without one. create: jobs queued against COPY or executemany. task_show: seconds for a task of so many
    jobs against 0.2. bulk_kill: claims while so many jobs are being killed against without.""",
    "match": """Matching one job per commit, for many pilots, and in a deep queue.

    match: one connection against the same rows written in one round trip. match_gathered: 16 pilots through
    the API's gathering against 16 jobs a commit. deep (PostgreSQL, a million rows or more, or by --case):
    with ten times as many waiting against as many.""",
    "lifecycle": """A job's whole life, a hundred at a time.

    life: created, ready, leased, submitted, running, stage-out and done, in six commits, against as many.""",
    "merge": """How many merges 2,000 files make.

    merge: merges of 2 to 4 GB from files of 0.05 to 3 GB against what no packing can go below.
    under_minimum: how many of them are too small, against none.""",
    "split": """Splitting events, files and lumis into jobs of ten against a loop that does nothing else.""",
    "share": """What the shares come to: targets 60/30/10, one group idle for its first day.

    share_60, share_30 and share_10: percent of the core-hours of days 2 to 10 against the targets. return_6h:
    percent of the farm that the idle group takes in its first six hours back, against at most 45.""",
    "register": """Registering complete files in bulk, 10,000 a commit, half of them with random names.

    register: dataset, block, directory, file, parents, counters, replica and events against COPY or
    executemany. flat: the last tenth of a long run against its first. bytes: what a file takes with its
    indexes, against 260.""",
    "locate": """Where data are, in a large catalogue to which four processes add all the time.

    locate: milliseconds that 99 of 100 questions take at most, for so many files in blocks of 500 with three
    replicas over 60 sites. locate_file: a file's replicas, against 5. locate_dataset: a dataset's sites,
    against 10. unique_at: what one site alone has, against 100.""",
    "route": """Routing pending files in blocks of 400 over 100 storage elements, their sources spread.

    route: seconds until all is stored, against 1 for a million files. route_plan: the plan alone.""",
    "subscribe": """Subscriptions, until their transfers are ready.

    Seconds from the order for a closed dataset of 10,000 files, or fewer, through the block manager and the
    router, against 0.2. routed: until all blocks have routes and the link's queue is full. subscribe: until
    all transfers are queued.""",
    "fabric": """PhEDEx's router test: files of one node subscribed at all of 66, by the real agents.

    fabric: files arrived a second, of so many in all, by a fake tool against 6,000. beside_phedex: the same
    against the 280/s of its own test with 6,600,000. hops: links each has come by, against the fewest.""",
    "delete": """Deleting replicas: asked and approved, begun when due, removed; 1,000 a commit.

    delete: the guard of each, states, counters and events against raw statements for the same rows, which
    neither read nor judge; at most 200,000 replicas, each one of two of its block.""",
    "tfc": """From LFN to PFN by Trivial File Catalogs.

    tfc: a chain of three protocols, name by name, against regular expressions written by hand. vs_wmcore: the
    same against the 127,000 names/s of WMCore. pfns: seconds for all PFNs of a dataset of 10,000 files, read
    from the database, against 0.05.""",
}


@contextmanager
def _ending_well() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: what was started is stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


for _name, _help in HELP.items():
    _command(_name, _help, DEFAULTS.get(_name, ROWS))
