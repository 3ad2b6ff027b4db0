"""Commands about jobs: seen, killed, held, released, tried again, put ahead; and the orders that did so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gridapp.cli import output
from gridapp.cli.verbs import KEY, Noun, Place, shown

if TYPE_CHECKING:
    from prodsys.control.orders import OrderVerb

Record = dict[str, Any]

#: Jobs from which on an order is confirmed on a terminal.
CONFIRM_FROM = 101
#: Seconds between lines of progress.
TELL_S = 5.0

state_option = click.option("--state", help="Only those in this state.")
where_option = click.option(
    "--where", metavar="SELECTOR", help="Jobs that this says; see: tierflow job fields."
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many."
)


class Progress:
    """Lines on stderr while something takes long."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if done >= of or time.monotonic() - self._last >= TELL_S:
            self._last = time.monotonic()
            output.say(f"{done:,} of {of:,} jobs")


@click.group(cls=Noun)
def job() -> None:
    """Jobs: one unit range of a task."""


@job.command("list")
@click.option("--task", help="Only jobs of this task.")
@state_option
@where_option
@limit_option
@shown("name", "state", "reason", "site?", "attempt?", "kind?", "units?", "updated_at?")
@click.pass_obj
def job_list(
    place: Place, task: str | None, state: str | None, where: str | None, limit: int
) -> list[Record]:
    """Jobs of a task, or the newest of all."""
    from gridapp.insights import jobs

    if where is None:
        return place.ask(lambda conn: jobs.jobs(conn, task, state, limit))
    from gridapp.selections import Selection, choose
    from gridcore.db import dbnow

    wanted = Selection(task=task, state=state, where=where)
    return place.ask(lambda conn: jobs.jobs_where(conn, choose(conn, wanted).where, dbnow(conn), limit))


@job.command("show")
@click.argument("name")
@shown(
    attempts=(
        "attempt",
        "site",
        "exit_code",
        "error_class",
        "error?",
        "ended_at?",
        "submitted_at?",
        "wall_s?",
        "host?",
    ),
    outputs=("name", "state", "se", "bytes", "events", "lfn?", "attempt?"),
)
@click.pass_obj
def job_show(place: Place, name: str) -> Record:
    """One job (TASK/17) with its attempts, history and outputs."""
    from gridapp.insights import jobs

    return place.ask(lambda conn: jobs.job(conn, name))


@job.command("fields")
@shown("field", "takes", "help")
def job_fields() -> list[Record]:
    """What --where may ask, such as: --where 'state = FAILED and last_site = T2_* and not age < 2h'."""
    from prodsys.control.selectors import FIELDS

    return [
        {"field": name, "takes": ", ".join(one.words) or one.kind.value, "help": one.help}
        for name, one in FIELDS.items()
    ]


def _order(place: Place, verb: str, **asked: Any) -> Record:
    """An order on jobs; `asked` are the options that all these commands have."""
    from gridapp import operations
    from gridapp.selections import Selection
    from prodsys.control.orders import OrderVerb

    dry_run, by, to = asked.pop("dry_run"), asked.pop("by", None), asked.pop("to", None)
    confirm = None if asked.pop("yes") or not _somebody() else _confirm
    wanted = Selection(**asked)
    with _told_how_to_go_on(), place.acting() as (_, context, actor):
        done = operations.order_jobs(
            context,
            OrderVerb(verb),
            wanted,
            actor,
            by=by,
            to=to,
            dry_run=dry_run,
            tell=Progress(),
            confirm=confirm,
        )
    if not done["due"] and done["operation"] is None:
        output.say(_nothing_due(OrderVerb(verb)))
    if dry_run:
        output.say("nothing was written")
    elif done["operation"] and done["changed"] < sum(done["due"].values()):
        output.say("some jobs moved on in the meantime: repeat the command for the rest")
    return done


def _nothing_due(verb: OrderVerb) -> str:
    """Why an order found nothing to do."""
    from prodsys.control.operations import sources
    from prodsys.control.orders import OrderVerb

    states = " or ".join(sorted(sources(verb)))
    does = "shift" if verb == OrderVerb.PRIORITY else verb
    text = f"nothing to {does}: no job meant is {states}, of a task that has not ended"
    if verb == OrderVerb.PRIORITY:
        text += "; with --to, those that are there are left out"
    if verb == OrderVerb.RELEASE:
        text += "; a pause is ended by: tierflow request resume ID"
    return text


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Ctrl-C loses nothing, if one knows what to do next."""
    try:
        yield
    except KeyboardInterrupt:
        output.say("cut off; see: tierflow operation list; go on with: tierflow operation resume ID")
        raise


def _somebody() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def _confirm(told: Mapping[str, Any]) -> bool:
    """Whether the person at the terminal wants this of so many jobs."""
    n = sum(told["due"].values())
    if n < CONFIRM_FROM:
        return True
    for what in ("due", "tasks", "sites"):
        for name, jobs in told[what].items():
            output.say(f"{what}: {name} {jobs:,}")
    if click.confirm(f"{told['verb']} {n:,} jobs?", err=True):
        return True
    output.say("nothing was changed")
    return False


def _ordering(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments and options of every order on jobs."""
    chosen: list[Callable[[Any], Any]] = [
        click.argument("names", nargs=-1, metavar="[NAME]..."),
        click.option("--task", help="Jobs of this task instead of named ones."),
        state_option,
        where_option,
        click.option("--dry-run", is_flag=True, help="Only say what would be changed."),
        click.option("--yes", is_flag=True, help="Do not ask, however many jobs it is."),
        shown(),
        click.pass_obj,
    ]
    for decorate in reversed(chosen):
        function = decorate(function)
    return function


@job.command("retry")
@_ordering
def job_retry(place: Place, **asked: Any) -> Record:
    """Try failed jobs (TASK/17) once more; a task that ended without them is taken up again."""
    return _order(place, "retry", **asked)


@job.command("hold")
@_ordering
def job_hold(place: Place, **asked: Any) -> Record:
    """Keep waiting jobs (TASK/17) from running until they are released."""
    return _order(place, "hold", **asked)


@job.command("release")
@_ordering
def job_release(place: Place, **asked: Any) -> Record:
    """Return held jobs (TASK/17) to the queue; not those of a paused request, which its resume returns."""
    return _order(place, "release", **asked)


@job.command("kill")
@_ordering
def job_kill(place: Place, **asked: Any) -> Record:
    """End jobs (TASK/17) for good; inputs of a killed merge are merged anew."""
    return _order(place, "kill", **asked)


@job.command("priority")
@click.option(
    "--by",
    type=int,
    metavar="N",
    help="Points more than now, each worth a minute of waiting; -N puts jobs back.",
)
@click.option("--to", type=int, metavar="N", help="The priority they shall have, as: job fields, priority.")
@_ordering
def job_priority(place: Place, **asked: Any) -> Record:
    """Put waiting jobs (TASK/17) ahead in their lines, or back: by so many points, or to a priority.

    With --to, jobs that are at that priority are left out. Undone, either shifts each job back by as much as
    it had shifted it, whatever else has shifted it since.
    """
    return _order(place, "priority", **asked)


# --- orders ----------------------------------------------------------------------------------------------


@click.group(cls=Noun)
def operation() -> None:
    """Operations: orders on many jobs, how far they are, and taking them back."""


@operation.command("list")
@limit_option
@shown("id", "verb", "where", "state", "total", "changed", "actor?", "seen?", "created_at?")
@click.pass_obj
def operation_list(place: Place, limit: int) -> list[Record]:
    """Orders on jobs, newest first."""
    from gridapp.operations import view
    from prodsys.control import orders

    return place.ask(lambda conn: [view(one) for one in orders.newest(conn, limit)])


@operation.command("show")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def operation_show(place: Place, id: int) -> Record:
    """One order: what was asked, and how far it is."""
    from gridapp.operations import view
    from prodsys.control import orders

    return place.ask(lambda conn: view(orders.by_id(conn, id)))


@operation.command("resume")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def operation_resume(place: Place, id: int) -> Record:
    """Go on with an order that was cut off."""
    from gridapp import operations

    with _told_how_to_go_on(), place.acting() as (_, context, actor):
        return operations.view(operations.resume(context, id, actor, tell=Progress()))


@operation.command("undo")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def operation_undo(place: Place, id: int) -> Record:
    """Take back a hold or a priority order, within 24 hours.

    Released are the jobs which that very order still holds; shifted back are those that still wait. What was
    killed, released or tried again is not brought back.
    """
    from gridapp import operations

    with _told_how_to_go_on(), place.acting() as (_, context, actor):
        return operations.view(operations.undo(context, id, actor, tell=Progress()))
