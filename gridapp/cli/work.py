"""Commands about work: requests, tasks, jobs and shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gridapp.cli import output
from gridapp.cli.verbs import FILE, KEY, Noun, Place, shown

Record = dict[str, Any]

state_option = click.option("--state", help="Only those in this state.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many."
)
client_id_option = click.option(
    "--client-id", help="Your own name for this submission, at most 64 characters: a repeat is harmless."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be changed.")


def _progress(done: int, of: int) -> None:
    output.say(f"{done} of {of} jobs")


def _tell_dry(dry_run: bool) -> None:
    if dry_run:
        output.say("nothing was written")


@click.group(cls=Noun)
def request() -> None:
    """Requests: what a group asks for."""


@request.command("submit")
@click.argument("file", type=FILE)
@client_id_option
@shown()
@click.pass_obj
def request_submit(place: Place, file: Path, client_id: str | None) -> Record:
    """Hand in a request; it runs at once if you may approve it."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        made = submission.submit_request(installation, context, file, actor, client_id)
    _tell(made)
    return made


def _tell(made: Record) -> None:
    if made["state"] == "SUBMITTED":
        output.say(f"it waits for approval: tierflow request approve {made['request']}")


@request.command("list")
@limit_option
@shown("id", "name", "state", "requester", "group", "priority", "task_count", "created_at")
@click.pass_obj
def request_list(place: Place, limit: int) -> list[Record]:
    """Requests, newest first."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.requests(conn, limit))


@request.command("show")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_show(place: Place, id: int) -> Record:
    """One request with its tasks."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.request(conn, id))


@request.command("approve")
@click.argument("id", type=KEY)
@click.option(
    "--site", "sites", multiple=True, metavar="SITE", help="Run it at these sites only; repeatable."
)
@shown()
@click.pass_obj
def request_approve(place: Place, id: int, sites: tuple[str, ...]) -> Record:
    """Let a waiting request run, where its steps allow or at the sites it is assigned to."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        return submission.approve(installation, context, id, actor, sites)


@request.command("reject")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_reject(place: Place, id: int) -> Record:
    """Turn down a waiting request."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        return submission.reject(installation, context, id, actor)


@request.command("abort")
@click.argument("id", type=KEY)
@dry_run_option
@shown()
@click.pass_obj
def request_abort(place: Place, id: int, dry_run: bool) -> Record:
    """End a request and its tasks; what they have registered stays."""
    from gridapp import operations

    with place.acting() as (_, context, actor):
        done = operations.abort_request(context, id, actor, dry_run=dry_run, tell=_progress)
    _tell_dry(dry_run)
    return done


@click.group(cls=Noun)
def task() -> None:
    """Tasks: one step of a request, or one physicist's submission."""


@task.command("submit")
@click.argument("file", type=FILE)
@client_id_option
@shown()
@click.pass_obj
def task_submit(place: Place, file: Path, client_id: str | None) -> Record:
    """Run one step of your own, such as an analysis of a dataset."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        return submission.submit_task(installation, context, file, actor, client_id)


@task.command("list")
@state_option
@limit_option
@shown("name", "state", "units.done", "units.total", "jobs", "reason")
@click.pass_obj
def task_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """Tasks with their jobs by state, newest first."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.tasks(conn, limit, state))


@task.command("show")
@click.argument("name")
@shown()
@click.pass_obj
def task_show(place: Place, name: str) -> Record:
    """One task: what it waits for, its specification and history."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.task(conn, name))


@task.command("retry")
@click.argument("name")
@dry_run_option
@shown()
@click.pass_obj
def task_retry(place: Place, name: str, dry_run: bool) -> Record:
    """Try a task's failed jobs again, and take up input that came after its end."""
    from gridapp import operations

    with place.acting() as (_, context, actor):
        done = operations.retry_task(context, name, actor, dry_run=dry_run, tell=_progress)
    _tell_dry(dry_run)
    return done


@task.command("kill")
@click.argument("name")
@dry_run_option
@shown()
@click.pass_obj
def task_kill(place: Place, name: str, dry_run: bool) -> Record:
    """End a task and its live jobs for good; what it has registered stays."""
    from gridapp import operations

    with place.acting() as (_, context, actor):
        done = operations.kill_task(context, name, actor, dry_run=dry_run, tell=_progress)
    _tell_dry(dry_run)
    return done


@click.group(cls=Noun)
def job() -> None:
    """Jobs: one unit range of a task."""


@job.command("list")
@click.option("--task", help="Only jobs of this task.")
@state_option
@limit_option
@shown("name", "kind", "state", "attempt", "units", "site", "updated_at", "reason")
@click.pass_obj
def job_list(place: Place, task: str | None, state: str | None, limit: int) -> list[Record]:
    """Jobs of a task, or the newest of all."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.jobs(conn, task, state, limit))


@job.command("show")
@click.argument("name")
@shown()
@click.pass_obj
def job_show(place: Place, name: str) -> Record:
    """One job (TASK/17) with its attempts, history and outputs."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.job(conn, name))


def _order(place: Place, verb: str, **asked: Any) -> Record:
    """An order on jobs; `asked` are the options that all these commands have."""
    from gridapp import operations
    from prodsys.jobs.machine import JobEvent

    dry_run = asked.pop("dry_run")
    wanted = operations.Selection(**asked)
    with place.acting() as (_, context, actor):
        done = operations.order_jobs(context, JobEvent[verb], wanted, actor, dry_run=dry_run, tell=_progress)
    _tell_dry(dry_run)
    if not dry_run and done["changed"] < sum(done["due"].values()):
        output.say("some jobs moved on in the meantime: repeat the command for the rest")
    return done


def _ordering(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments and options of every order on jobs."""
    chosen: list[Callable[[Any], Any]] = [
        click.argument("names", nargs=-1, metavar="[NAME]..."),
        click.option("--task", help="Jobs of this task instead of named ones."),
        state_option,
        dry_run_option,
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
    return _order(place, "RETRY", **asked)


@job.command("hold")
@_ordering
def job_hold(place: Place, **asked: Any) -> Record:
    """Keep waiting jobs (TASK/17) from running until they are released."""
    return _order(place, "HOLD", **asked)


@job.command("release")
@_ordering
def job_release(place: Place, **asked: Any) -> Record:
    """Return held jobs (TASK/17) to the queue."""
    return _order(place, "RELEASE", **asked)


@job.command("kill")
@_ordering
def job_kill(place: Place, **asked: Any) -> Record:
    """End jobs (TASK/17) for good; inputs of a killed merge are merged anew."""
    return _order(place, "KILL", **asked)


@click.group(cls=Noun)
def share() -> None:
    """Shares: who gets how much of the grid."""


@share.command("show")
@shown("path", "target", "running_cores", "used_core_s", "ready", "why")
@click.pass_obj
def share_show(place: Place) -> list[Record]:
    """The tree of shares, siblings in the order they are served."""
    from gridapp.insights import work

    return place.ask(work.shares)
