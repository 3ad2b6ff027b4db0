"""Commands about subscriptions: standing wishes for datasets."""

from __future__ import annotations

import click

from gridapp.cli import output
from gridapp.cli.verbs import KEY, Noun, Place, Record, Verb, limit_option, shown


@click.command("subscribe", cls=Verb)
@click.argument("dataset")
@click.argument("se")
@click.option("--custodial", is_flag=True, help="This copy is to be kept for good.")
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    show_default=True,
    help="Higher goes first.",
)
@click.option("--group", help="The group it is for; default: your first.")
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@shown()
@click.pass_obj
def subscribe(
    place: Place, dataset: str, se: str, custodial: bool, priority: int, group: str | None, dry_run: bool
) -> Record:
    """Have a dataset at a storage element, now and as it grows."""
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        made = subscribing.subscribe(
            context, dataset, se, actor, custodial=custodial, priority=priority, group=group, dry_run=dry_run
        )
    if dry_run:
        output.say("nothing was written")
    return made


@click.group(cls=Noun)
def subscription() -> None:
    """Subscriptions: standing wishes for datasets."""


@subscription.command("list")
@limit_option
@shown("id", "dataset", "se", "state", "custodial", "files_done", "files", "percent", "reason")
@click.pass_obj
def subscription_list(place: Place, limit: int) -> list[Record]:
    """Subscriptions, newest first, with how much of each is there."""
    from gridapp.insights import deliveries

    return place.ask(lambda conn: deliveries.subscriptions(conn, limit))


@subscription.command("show")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_show(place: Place, id: int) -> Record:
    """One subscription block by block, what is missing first."""
    from gridapp.insights import deliveries

    return place.ask(lambda conn: deliveries.subscription(conn, id))


def _change(place: Place, id: int, change: str) -> Record:
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        return subscribing.change_subscription(context, id, change, actor)


@subscription.command("suspend")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_suspend(place: Place, id: int) -> Record:
    """Move nothing for it until it is resumed."""
    return _change(place, id, "suspend")


@subscription.command("resume")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_resume(place: Place, id: int) -> Record:
    """Go on with a suspended one."""
    return _change(place, id, "resume")


@subscription.command("remove")
@click.argument("id", type=KEY)
@shown()
@click.pass_obj
def subscription_remove(place: Place, id: int) -> Record:
    """End it; what has arrived stays."""
    return _change(place, id, "remove")
