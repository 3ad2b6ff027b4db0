"""Commands about links between storage elements."""

from __future__ import annotations

from datetime import datetime

import click

from gridapp.cli import output
from gridapp.cli.subscriptions import When
from gridapp.cli.verbs import Noun, Place, Record, shown
from gridcore.errors import UsageError

_WORDS = {"open": "OPEN", "park": "PARKED", "auto": "AUTO"}


@click.group(cls=Noun)
def link() -> None:
    """Links between storage elements."""


@link.command("list")
@shown(
    "src", "dst", "state", "window", "active", "queued", "rate_mb_s", "failures", "forced_by?", "last_error"
)
@click.pass_obj
def link_list(place: Place) -> list[Record]:
    """Links with their states, windows, queues, rates and errors; who forced them open or shut."""
    from gridapp.insights import topology

    return place.ask(topology.links)


@link.command("show")
@click.argument("src")
@click.argument("dst")
@shown()
@click.pass_obj
def link_show(place: Place, src: str, dst: str) -> Record:
    """All that is known of a link."""
    from gridapp.insights import topology

    return place.ask(lambda conn: topology.link(conn, src, dst))


@link.command("set")
@click.argument("src")
@click.argument("dst")
@click.option("--window", type=click.IntRange(min=0), help="Most files in flight; 0 for no bound of its own.")
@click.option("--rate-cap", type=click.FloatRange(min=0), help="Most MB/s of all streams; 0 for no bound.")
@click.option("--distance", type=click.FloatRange(min=0, min_open=True), help="Its weight among links.")
@click.option("--open", is_flag=True, help="Use it whatever its copies show.")
@click.option("--park", is_flag=True, help="Send nothing over it.")
@click.option("--auto", is_flag=True, help="Let its copies decide again.")
@click.option("--until", type=When(), help="The word holds until this moment.")
@click.option("--note", help="Why, for everybody who asks.")
@click.option("--dry-run", is_flag=True, help="Only show what it would do to what is wanted.")
@shown()
@click.pass_obj
def link_set(
    place: Place,
    /,
    src: str,
    dst: str,
    window: int | None,
    rate_cap: float | None,
    distance: float | None,
    until: datetime | None,
    note: str | None,
    dry_run: bool,
    **words: bool,
) -> Record:
    """Bound a link, or hold it open or parked."""
    from gridapp import linking

    given = [name for name, meant in words.items() if meant]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} do not go together", hint="give one of them")
    asked = linking.LinkChange(
        window=window,
        rate_cap=None if rate_cap is None else rate_cap * 1e6,
        distance=distance,
        word=_WORDS[given[0]] if given else None,
        until=until,
        note=note,
    )
    with place.acting() as (_, context, actor):
        made = linking.set_link(context, src, dst, asked, actor, dry_run=dry_run)
    if dry_run:
        output.say("nothing was written")
    return made


@link.command("probe")
@click.argument("src")
@click.argument("dst")
@shown()
@click.pass_obj
def link_probe(place: Place, src: str, dst: str) -> Record:
    """Try a parked link now: the next block that would go over it is its probe."""
    from gridapp import linking

    with place.acting() as (_, context, actor):
        return linking.probe_link(context, src, dst, actor)


@link.command("disable")
@click.argument("src")
@click.argument("dst")
@click.option("--note", help="Why, for everybody who asks.")
@shown()
@click.pass_obj
def link_disable(place: Place, src: str, dst: str, note: str | None) -> Record:
    """Send nothing more over a link."""
    return _switch(place, src, dst, note, "DISABLED")


@link.command("enable")
@click.argument("src")
@click.argument("dst")
@click.option("--note", help="Why, for everybody who asks.")
@shown()
@click.pass_obj
def link_enable(place: Place, src: str, dst: str, note: str | None) -> Record:
    """Let a link be used again."""
    return _switch(place, src, dst, note, "ENABLED")


def _switch(place: Place, src: str, dst: str, note: str | None, state: str) -> Record:
    from catalogs.states import Switch
    from gridapp import linking

    with place.acting() as (_, context, actor):
        return linking.switch_link(context, src, dst, Switch(state), note, actor)
