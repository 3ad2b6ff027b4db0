"""Commands of operators: the running grid, its topology, its agents and its health."""

from __future__ import annotations

from pathlib import Path

import click

from gridapp.cli import output
from gridapp.cli.verbs import DIRECTORY, Noun, Place, Record, Verb, json_option, shown


@click.command("up", cls=Verb)
@click.option("--port", type=click.IntRange(0, 65535), help="Port of API and page; 0: a free one.")
@click.pass_obj
def up(place: Place, port: int | None) -> None:
    """Run the grid in a directory until stopped, with its API and live page.

    A new directory gets the embedded grid. Ctrl-C or SIGTERM stops everything within 5 s; running payloads
    are preempted and tried again at the next start. A second Ctrl-C ends at once.
    """
    from gridapp import up as foreground

    foreground.run(place.dir, place.config, port=port, say=output.say)


@click.command("apply", cls=Verb)
@click.argument("directory", type=DIRECTORY)
@click.option("--dry-run", is_flag=True, help="Only show what would be changed.")
@click.option("--prune", is_flag=True, help="Remove what the files do not name.")
@shown("action", "kind", "name", "detail")
@click.pass_obj
def apply(place: Place, directory: Path, dry_run: bool, prune: bool) -> list[Record]:
    """Make the grid say what the topology files in DIRECTORY say, all or nothing."""
    from dataclasses import asdict

    from gridapp import apply as changes
    from gridapp import session

    with place.connected() as installation:
        if dry_run:
            session.configurer(installation)
            wanted = session.read_topology(installation, directory)
            with installation.database.snapshot() as conn:
                found = changes.plan(conn, wanted, prune)
        else:
            found = session.apply_topology(installation, directory, prune=prune)
    output.say(f"{len(found)} differences, nothing was written" if dry_run else f"{len(found)} changes made")
    return [asdict(one) for one in found]


@click.command("export", cls=Verb)
@click.argument("directory", type=DIRECTORY)
@shown("path")
@click.pass_obj
def export(place: Place, directory: Path) -> list[Record]:
    """Write the grid's topology into DIRECTORY as files that `apply` reads."""
    from gridapp import apply as changes

    return [{"path": str(path)} for path in place.ask(lambda conn: changes.export(conn, directory))]


@click.group(cls=Noun)
def agent() -> None:
    """Agents: the daemons that do the work."""


@agent.command("list")
@shown("agent", "owner", "state", "age_s", "progress_age_s", "cycles", "counts", "note")
@click.pass_obj
def agent_list(place: Place) -> list[Record]:
    """Agents that gave signs of life within the last hour."""
    from gridapp.insights.agents import agents

    with place.connected() as installation, installation.database.snapshot() as conn:
        return agents(conn, installation.settings.lease.heartbeat_s)


@agent.command("run")
@click.argument("name")
@click.pass_obj
def agent_run(place: Place, name: str) -> None:
    """Run one agent alone until stopped; running payloads are left alone."""
    from gridapp import up as foreground

    foreground.run_agent(place.dir, place.config, name, say=output.say)


@click.command("why", cls=Verb)
@click.argument("what")
@shown(
    verdicts=("site", "eligible", "open", "says"),
    tasks=("name", "state", "jobs"),
    deliveries=("se", "state", "sentence", "dataset?"),
    reasons=("code", "sentence", "turn", "cure?"),
    missing_blocks=("block", "se?", "decided_at?", "reasons"),
)
@click.pass_obj
def why(place: Place, what: str) -> Record:
    """Why something waits or failed, and whose turn it is.

    WHAT is a job (TASK/17), a task, a request (req:3), a subscription (DATASET@SE or sub:12), a block
    (DATASET#BLOCK), a file (/store/...), a link (link:SRC>DST) or a deletion (del:5).
    """
    from gridapp.insights.why import why as answer
    from gridcore.db import dbnow

    with place.connected() as installation, installation.database.snapshot() as conn:
        settings = installation.settings
        cap = settings.work.max_jobs_per_task
        return answer(conn, what, dbnow(conn), settings.lease.heartbeat_s, cap)


@click.command("doctor", cls=Verb)
@json_option
@click.pass_context
def doctor(ctx: click.Context, json: bool) -> None:
    """Look for what is wrong with the installation; exit status 1 where something is."""
    from dataclasses import asdict

    from gridapp import doctor as checks
    from gridapp import session

    place = ctx.find_object(Place) or Place()
    settings = session.settings(place.dir, place.config)
    with session.database(settings) as database:
        findings = checks.examine(database, settings)
    output.show([asdict(one) for one in findings], ("check", "ok", "finding", "cure"), json)
    if not all(one.ok for one in findings):
        ctx.exit(1)
