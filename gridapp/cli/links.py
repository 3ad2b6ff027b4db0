"""Commands about links between storage elements."""

from __future__ import annotations

import click

from gridapp.cli.verbs import Noun, Place, Record, shown


@click.group(cls=Noun)
def link() -> None:
    """Links between storage elements."""


@link.command("list")
@shown("src", "dst", "state", "queued", "active", "files_ok", "files_bad", "rate_mb_s", "last_error")
@click.pass_obj
def link_list(place: Place) -> list[Record]:
    """Links with their queues, rates and errors."""
    from gridapp.insights import topology

    return place.ask(topology.links)


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
