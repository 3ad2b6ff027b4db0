"""Commands about subscriptions: standing wishes for datasets and blocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gridapp.cli import output
from gridapp.cli.verbs import KEY, Noun, Place, Record, Verb, blocks_option, limit_option, shown, state_option

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class When(click.ParamType[Any]):
    """A moment: a date, a date and time (UTC where nothing else is said), or `3d` for so long from now."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, datetime):
            return value
        try:
            if value[-1:] in _UNITS and value[:-1].isdecimal():
                return datetime.now(UTC) + timedelta(seconds=int(value[:-1]) * _UNITS[value[-1]])
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no moment such as 2026-11-30, 2026-11-30T12:00 or 3d", param, ctx)


PRIORITY = click.IntRange(-1000, 1000)
comment_option = click.option("--comment", help="A word to whoever reads it.")
since_option = click.option("--since", type=When(), help="Only blocks made after this moment.")


@click.command("subscribe", cls=Verb)
@click.argument("subject")
@click.argument("se")
@click.option("--move", is_flag=True, help="Let the other copies go once all is there.")
@click.option("--custodial", is_flag=True, help="This copy is to be kept for good.")
@click.option("--priority", type=PRIORITY, default=0, show_default=True, help="Higher goes first.")
@click.option("--group", help="The group it is for, whose quota it takes; default: your first.")
@click.option("--static", is_flag=True, help="What there is now; no block that is made later.")
@since_option
@click.option("--until", type=When(), help="Move nothing before this moment.")
@comment_option
@click.option("--ask", is_flag=True, help="Leave the decision to others, though you might decide.")
@click.option("--ask-id", help="Your own id of what you ask for at once; it may be decided at once.")
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@shown()
@click.pass_obj
def subscribe(place: Place, /, subject: str, se: str, dry_run: bool, **terms: Any) -> Record:
    """Have a dataset, or one block, at a storage element, now and as it grows.

    SUBJECT is a dataset or one of its blocks, DATASET#BLOCK. Who does not decide at the site asks:
    somebody who does says yes or no. The same order again changes nothing.
    """
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        given = subscribing.Terms(**terms)
        made = subscribing.subscribe(context, subject, se, actor, given, dry_run=dry_run)
    _say(made, dry_run)
    return made


@click.command("move", cls=Verb)
@click.argument("subject")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--priority", type=PRIORITY, default=0, show_default=True, help="Higher goes first.")
@click.option("--group", help="The group it is for, whose quota it takes; default: your first.")
@click.option("--static", is_flag=True, help="What there is now; no block that is made later.")
@comment_option
@click.option("--ask-id", help="Your own id of what you ask for at once; it may be decided at once.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied, and what would go.")
@shown()
@click.pass_obj
def move(place: Place, /, subject: str, source: str, target: str, dry_run: bool, **terms: Any) -> Record:
    """Have a dataset, or one block, at TO, and once all is there no longer at FROM.

    Other copies stay, and so does at FROM what is custodial or asked for there by then. Nothing goes while
    blocks may still come, unless --static. The same order again changes nothing.
    """
    from gridapp import moving
    from gridapp.subscribing import Terms

    with place.acting() as (_, context, actor):
        made = moving.move(context, subject, source, target, actor, Terms(**terms), dry_run=dry_run)
    for line in made["stays"]:
        output.say(line)
    _say(made, dry_run)
    return made


def _say(made: Record, dry_run: bool) -> None:
    if dry_run:
        output.say("nothing was written")
    elif made["state"] == "ASKED":
        output.say(f"it waits for somebody who decides there: tierflow subscription approve {made['ask_id']}")


@click.group(cls=Noun)
def subscription() -> None:
    """Subscriptions: standing wishes for datasets and blocks."""


@subscription.command("list")
@state_option
@limit_option
@shown(
    *("id", "dataset", "block?", "se", "state", "custodial?", "files_done", "files", "percent?", "eta?"),
    "reason",
)
@click.pass_obj
def subscription_list(place: Place, state: str | None, limit: int) -> list[Record]:
    """Subscriptions, newest first, with how much of each is there."""
    from gridapp.insights import deliveries

    return place.ask(lambda conn: deliveries.subscriptions(conn, limit, state))


@subscription.command("show")
@click.argument("id", type=KEY)
@blocks_option
@shown(block_list=("name", "files", "files_done", "bytes?", "replica?", "sentence", "turn?", "last_error?"))
@click.pass_obj
def subscription_show(place: Place, id: int, limit: int) -> Record:
    """One subscription block by block, what is missing first."""
    from gridapp.insights import deliveries

    found = place.ask(lambda conn: deliveries.subscription(conn, id, limit))
    if found["blocks"] > limit:
        output.say(f"the first {limit} of {found['blocks']} closed blocks, what is missing first: --blocks")
    return found


def _decide(place: Place, what: str, approved: bool, comment: str | None) -> list[Record]:
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        return subscribing.decide(context, what, actor, approved=approved, comment=comment)


DECIDED = ("subscription", "dataset", "se", "state", "changed")


@subscription.command("approve")
@click.argument("what", metavar="ID")
@comment_option
@shown(*DECIDED)
@click.pass_obj
def subscription_approve(place: Place, what: str, comment: str | None) -> list[Record]:
    """Say yes to one that is asked for, or by its ask id to all of those where you decide."""
    return _decide(place, what, True, comment)


@subscription.command("deny")
@click.argument("what", metavar="ID")
@comment_option
@shown(*DECIDED)
@click.pass_obj
def subscription_deny(place: Place, what: str, comment: str | None) -> list[Record]:
    """Say no to one that is asked for, or by its ask id to all of those where you decide."""
    return _decide(place, what, False, comment)


@subscription.command("change")
@click.argument("id", type=KEY)
@click.option("--custodial/--not-custodial", default=None, help="Whether this copy is to be kept for good.")
@click.option("--priority", type=PRIORITY, help="Higher goes first.")
@click.option("--move/--replicate", default=None, help="Whether the other copies are let go in the end.")
@click.option("--static/--growing", default=None, help="What there was then, or later blocks too.")
@since_option
@click.option("--group", help="Whose quota it takes from now on.")
@comment_option
@shown()
@click.pass_obj
def subscription_change(place: Place, /, id: int, **values: Any) -> Record:
    """Have it in another way."""
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        return subscribing.amend(context, id, values, actor)


def _change(place: Place, id: int, change: str, **options: Any) -> Record:
    from gridapp import subscribing

    with place.acting() as (_, context, actor):
        return subscribing.change_subscription(context, id, change, actor, **options)


@subscription.command("suspend")
@click.argument("id", type=KEY)
@click.option("--until", type=When(), help="It goes on by itself at this moment.")
@shown()
@click.pass_obj
def subscription_suspend(place: Place, id: int, until: datetime | None) -> Record:
    """Move nothing for it until it is resumed."""
    return _change(place, id, "suspend", until=until)


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
