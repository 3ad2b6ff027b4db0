"""Commands about what is asked for: requests and tasks."""

from __future__ import annotations

from pathlib import Path

import click

from gridapp.cli import output
from gridapp.cli.verbs import (
    FILE,
    KEY,
    Noun,
    Place,
    Record,
    dry_run_option,
    limit_option,
    shown,
    state_option,
)

client_id_option = click.option(
    "--client-id", help="Your own name for this submission, at most 64 characters: a repeat is harmless."
)
#: As a document may say.
PRIORITY = click.IntRange(-1000, 1000)
#: Lets -5 be an argument.
NEGATIVE = {"ignore_unknown_options": True}


def _progress(done: int, of: int) -> None:
    output.say(f"{done:,} of {of:,} jobs")


def _tell_dry(dry_run: bool) -> None:
    if dry_run:
        output.say("nothing was written")


@click.group(cls=Noun)
def request() -> None:
    """Requests: what a group asks for."""


@request.command("submit")
@click.argument("file", type=FILE)
@client_id_option
@click.option("--draft", is_flag=True, help="Keep it as a draft, for: request submit-draft.")
@shown()
@click.pass_obj
def request_submit(place: Place, file: Path, client_id: str | None, draft: bool) -> Record:
    """Hand in a request; it runs at once if you may approve it."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        made = submission.submit_request(installation, context, file, actor, client_id, draft=draft)
    _tell(made)
    return made


def _tell(made: Record) -> None:
    if made["state"] == "SUBMITTED":
        output.say(f"it waits for approval: tierflow request approve {made['request']}")
    if made["state"] == "DRAFT":
        output.say(f"it is a draft: tierflow request submit-draft {made['request']}")
    for step, jobs in made.get("held", {}).items():
        output.say(f"step {step}: {jobs} jobs will be held: their one lumi exceeds max_events_per_job")


@request.command("edit")
@click.argument("id", type=KEY)
@click.argument("file", type=FILE)
@shown()
@click.pass_obj
def request_edit(place: Place, id: int, file: Path) -> Record:
    """Let a draft say what a file says."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        made = submission.edit(installation, context, id, file, actor)
    _tell(made)
    return made


@request.command("submit-draft")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_submit_draft(place: Place, id: int) -> Record:
    """Hand in a draft; it runs at once if you may approve it."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        made = submission.hand_in(installation, context, id, actor)
    _tell(made)
    return made


@request.command("withdraw")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_withdraw(place: Place, id: int) -> Record:
    """Take a waiting request back: it is a draft again."""
    from gridapp import submission

    with place.acting() as (installation, context, actor):
        return submission.withdraw(installation, context, id, actor)


@request.command("list")
@state_option
@limit_option
@shown("id", "name", "state", "group?", "reason", "priority?", "requester?", "task_count?", "created_at?")
@click.pass_obj
def request_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """Requests, newest first."""
    from gridapp.insights import work

    return place.ask(lambda conn: work.requests(conn, limit, state))


@request.command("show")
@click.argument("id", type=KEY)
@shown(tasks=("name", "state", "forecast", "reason?", "jobs?"))
@click.pass_obj
def request_show(place: Place, id: int) -> Record:
    """One request with its tasks, where it runs and who decided so."""
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
    """Let a waiting request run, where the policies say or at the sites it is assigned to."""
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


@request.command("assign")
@click.argument("id", type=KEY)
@click.option("--agent", "agents", multiple=True, metavar="AGENT", help="The sites of this ProdAgent.")
@click.option("--site", "sites", multiple=True, metavar="SITE", help="This site.")
@click.option("--site-set", "site_sets", multiple=True, metavar="SET", help="The sites of this set.")
@dry_run_option
@shown()
@click.pass_obj
def request_assign(
    place: Place,
    id: int,
    agents: tuple[str, ...],
    sites: tuple[str, ...],
    site_sets: tuple[str, ...],
    dry_run: bool,
) -> Record:
    """Run a request at other sites from now on; without any named, where the policies say now.

    The options may be repeated; a request runs at all the sites they name. Jobs under way end where they are.
    Whoever is named and can run none of its work is refused; who can run a part of it is told.
    """
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        done = amendments.assign(
            context, id, actor, agents=agents, sites=sites, site_sets=site_sets, dry_run=dry_run
        )
    for warning in done["warnings"]:
        output.say(warning)
    _tell_dry(dry_run)
    return done


@request.command("pause")
@click.argument("id", type=KEY)
@click.option("--reason", help="Kept in the audit log.")
@shown()
@click.pass_obj
def request_pause(place: Place, id: int, reason: str | None) -> Record:
    """Make no job of a request and start none until it is resumed; what runs goes on."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.pause(context, id, actor, reason=reason)


@request.command("resume")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_resume(place: Place, id: int) -> Record:
    """Go on with a paused request."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.resume(context, id, actor)


@request.command("extend")
@click.argument("id", type=KEY)
@click.option("--step", required=True, help="The step that generates.")
@click.option(
    "--events", required=True, type=click.IntRange(1, 10**12), help="So many more than were asked for."
)
@dry_run_option
@shown()
@click.pass_obj
def request_extend(place: Place, id: int, step: str, events: int, dry_run: bool) -> Record:
    """Have a step make more events; what has ended is taken up again."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        done = amendments.extend(context, id, step, events, actor, dry_run=dry_run)
    _tell_dry(dry_run)
    return done


@request.command("priority", context_settings=NEGATIVE)
@click.argument("id", type=KEY)
@click.argument("priority", type=PRIORITY)
@shown()
@click.pass_obj
def request_priority(place: Place, id: int, priority: int) -> Record:
    """Change the priority of a request, its tasks and their waiting jobs."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.prioritise_request(context, id, priority, actor)


@request.command("share")
@click.argument("id", type=KEY)
@click.argument("group")
@shown()
@click.pass_obj
def request_share(place: Place, id: int, group: str) -> Record:
    """Have a request use another group's share; jobs under way end on the old one."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.share(context, id, group, actor)


@request.command("close")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def request_close(place: Place, id: int) -> Record:
    """Ask nothing more of a request that has ended: no retry, no extension."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.close(context, id, actor)


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
@shown("name", "state", "units.done", "units.wanted", "jobs", "reason?")
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
    """One task: what it waits for, when it will end, its specification and history."""
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


@task.command("top-up")
@click.argument("name")
@dry_run_option
@shown()
@click.pass_obj
def task_top_up(place: Place, name: str, dry_run: bool) -> Record:
    """Have events that failed or were killed made anew, with new ranges and seeds."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        done = amendments.top_up(context, name, actor, dry_run=dry_run)
    if not done["more"]:
        output.say("nothing is missing: what is asked for is done or under way")
    _tell_dry(dry_run)
    return done


@task.command("force-complete")
@click.argument("name")
@click.option("--reason", required=True, help="Why what is done is enough; it stays with the task.")
@dry_run_option
@shown()
@click.pass_obj
def task_force_complete(place: Place, name: str, reason: str, dry_run: bool) -> Record:
    """Declare a task complete with what is done; what it has registered stays.

    A task whose input still grows takes no more of it: the jobs it has end, and what they make is merged.
    """
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        done = amendments.force_complete(context, name, reason, actor, dry_run=dry_run)
    if done["state"] == "ACTIVE":
        output.say("it takes no more input, and is completed once the jobs it has have ended")
    _tell_dry(dry_run)
    return done


@task.command("priority", context_settings=NEGATIVE)
@click.argument("name")
@click.argument("priority", type=PRIORITY)
@shown()
@click.pass_obj
def task_priority(place: Place, name: str, priority: int) -> Record:
    """Change the priority of a task and its waiting jobs."""
    from gridapp import amendments

    with place.acting() as (_, context, actor):
        return amendments.prioritise(context, name, priority, actor)


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
