"""Commands about deletions: replicas that somebody wants away."""

from __future__ import annotations

import click

from gridapp.cli import output
from gridapp.cli.verbs import (
    KEY,
    Noun,
    Place,
    Record,
    Verb,
    dry_run_option,
    limit_option,
    shown,
    state_option,
)


@click.command("delete", cls=Verb)
@click.argument("subject")
@click.argument("se")
@click.option("--custodial-too", is_flag=True, help="Even the last custodial replica.")
@click.option("--subscribed-too", is_flag=True, help="Even what is subscribed there, and so copied anew.")
@click.option("--comment", help="What for.")
@click.option("--ask-id", help="An id of yours: the same again changes nothing.")
@dry_run_option
@shown("deletion?", "subject", "se", "state?", "replicas?", "files?", "bytes?", "due_at?")
@click.pass_obj
def delete(
    place: Place,
    subject: str,
    se: str,
    custodial_too: bool,
    subscribed_too: bool,
    comment: str | None,
    ask_id: str | None,
    dry_run: bool,
) -> Record:
    """Delete the replicas of a dataset, or of a block DATASET#NAME, at a storage element.

    Never the last good copy of a file, nor a copy that is being read. It can be taken back for a while.
    """
    from datamgmt.deletions.hindrances import Terms
    from gridapp import deleting

    terms = Terms(custodial_too, subscribed_too)
    with place.acting() as (_, context, actor):
        if dry_run:
            output.say("nothing was written")
            return deleting.look(context, subject, se, actor, terms=terms)
        comments = deleting.Comment(comment, ask_id)
        return deleting.delete(context, subject, se, actor, terms=terms, comment=comments)


@click.group(cls=Noun)
def deletion() -> None:
    """Deletions: replicas that somebody wants away."""


@deletion.command("list")
@state_option
@limit_option
@shown("id", "subject", "se", "state", "replicas", "files_left", "bytes", "requester", "due_at?", "reason")
@click.pass_obj
def deletion_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """What is asked for and under way, newest first; with --state, also what has ended."""
    from gridapp.insights import deletions

    return place.ask(lambda conn: deletions.deletions(conn, limit, state))


@deletion.command("show")
@click.argument("id", type=KEY)
@limit_option
@shown(replica_list=("id", "block", "state", "files", "due_at?", "reason"))
@click.pass_obj
def deletion_show(place: Place, id: int, limit: int) -> Record:
    """All that was asked for with one deletion, replica by replica."""
    from gridapp.insights import deletions

    return place.ask(lambda conn: deletions.deletion(conn, id, limit))


@deletion.command("approve")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def deletion_approve(place: Place, id: int) -> Record:
    """Let all that was asked for with it go."""
    from gridapp import deleting

    with place.acting() as (_, context, actor):
        return deleting.approve(context, id, actor)


@deletion.command("deny")
@click.argument("id", type=KEY)
@click.option("--note", help="Why.")
@shown()
@click.pass_obj
def deletion_deny(place: Place, id: int, note: str | None) -> Record:
    """Say no to all that was asked for with it."""
    from gridapp import deleting

    with place.acting() as (_, context, actor):
        return deleting.deny(context, id, actor, note)


@deletion.command("undo")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def deletion_undo(place: Place, id: int) -> Record:
    """Take back what has not begun: the replicas stay as they are."""
    from gridapp import deleting

    with place.acting() as (_, context, actor):
        return deleting.undo(context, id, actor)
