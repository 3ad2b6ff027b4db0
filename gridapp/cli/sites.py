"""Commands about sites and their storage."""

from __future__ import annotations

import click

from gridapp.cli import finding
from gridapp.cli.verbs import Noun, Place, Record, shown


@click.group(cls=Noun)
def site() -> None:
    """Sites and their storage."""


@site.command("list")
@shown("name", "tier", "state", "storage", "endpoints", "note")
@click.pass_obj
def site_list(place: Place) -> list[Record]:
    """Sites with their storage elements and endpoints."""
    from gridapp.insights import topology

    return place.ask(topology.sites)


site.add_command(finding.unique)
site.add_command(finding.lose)
