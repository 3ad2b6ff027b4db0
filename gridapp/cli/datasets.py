"""Commands about datasets, their blocks and replicas."""

from __future__ import annotations

import click

from gridapp.cli import finding
from gridapp.cli.verbs import Noun, Place, Record, limit_option, shown


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets, their blocks and replicas."""


@dataset.command("list")
@click.argument("pattern", default="*")
@limit_option
@shown("name", "state", "files", "bytes", "events", "created_at")
@click.pass_obj
def dataset_list(place: Place, pattern: str, limit: int) -> list[Record]:
    """Datasets whose name fits PATTERN; * stands for any text."""
    from gridapp.insights import datasets

    return place.ask(lambda conn: datasets.datasets(conn, pattern, limit))


@dataset.command("show")
@click.argument("name")
@shown()
@click.pass_obj
def dataset_show(place: Place, name: str) -> Record:
    """One dataset with its blocks, replicas and subscriptions."""
    from gridapp.insights import datasets

    return place.ask(lambda conn: datasets.dataset(conn, name))


dataset.add_command(finding.find)
dataset.add_command(finding.fields)
dataset.add_command(finding.where)
