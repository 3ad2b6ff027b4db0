"""Commands about datasets: which there are, what is said of them, opened and closed."""

from __future__ import annotations

import click

from gridapp.cli import finding
from gridapp.cli.verbs import Noun, Place, Record, limit_option, shown
from gridcore.errors import UsageError

reason_option = click.option("--reason", help="Why, for the history.")


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets, their blocks and replicas."""


@dataset.command("list")
@click.argument("pattern", default="*")
@limit_option
@shown("name", "state", "access", "tier?", "files", "bytes", "events", "created_at?")
@click.pass_obj
def dataset_list(place: Place, pattern: str, limit: int) -> list[Record]:
    """Datasets whose name fits PATTERN, whatever their access; * stands for any text, ? for one character."""
    from gridapp.insights import datasets

    return place.ask(lambda conn: datasets.datasets(conn, pattern, limit))


@dataset.command("show")
@click.argument("name")
@shown(block_list=("name", "state", "files", "bytes", "replicas"))
@click.pass_obj
def dataset_show(place: Place, name: str) -> Record:
    """One dataset: what is said of it, what it was made from and into, its blocks and who has them."""
    from gridapp.insights import datasets

    return place.ask(lambda conn: datasets.dataset(conn, name))


dataset.add_command(finding.find)
dataset.add_command(finding.fields)
dataset.add_command(finding.where)


@dataset.command("history")
@click.argument("name")
@limit_option
@shown("at", "actor", "change", "detail")
@click.pass_obj
def dataset_history(place: Place, name: str, limit: int) -> list[Record]:
    """What was changed of a dataset, and by whom, newest first."""
    from gridapp.insights import datasets

    return place.ask(lambda conn: datasets.history(conn, name, limit))


@dataset.command("set")
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--description", help="What it is, in a sentence; '' takes it away.")
@click.option("--group", help="The group it belongs to; '' takes it away.")
@shown()
@click.pass_obj
def dataset_set(
    place: Place, name: str, values: tuple[str, ...], description: str | None, group: str | None
) -> Record:
    """Say something of a dataset: collision=AuAu energy=7.7; KEY= takes it away.

    `dataset find` asks for it: numbers are compared as numbers, all else as names.
    """
    from catalogs import facts
    from gridapp import keeping

    new = facts.amendment(_pairs(values), description=description, group=group)
    with place.acting() as (_, context, actor):
        return keeping.set_facts(context, name, new, actor)


def _pairs(values: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in values:
        name, mark, value = text.partition("=")
        if not mark:
            raise UsageError(f"{text!r} says nothing", hint="KEY=VALUE, or KEY= to take it away")
        if name in found:
            raise UsageError(f"{name} is given twice", hint="say it once")
        found[name] = value or None
    return found


@dataset.command("access")
@click.argument("name")
@click.argument(
    "access", type=click.Choice(["VALID", "INVALID", "DEPRECATED", "PRODUCTION"], case_sensitive=False)
)
@shown()
@click.pass_obj
def dataset_access(place: Place, name: str, access: str) -> Record:
    """Say what a dataset is good for; `dataset find` finds VALID ones unless told otherwise."""
    from catalogs.states import Access
    from gridapp import keeping

    with place.acting() as (_, context, actor):
        return keeping.set_access(context, name, Access(access.upper()), actor)


@dataset.command("close")
@click.argument("name")
@reason_option
@shown()
@click.pass_obj
def dataset_close(place: Place, name: str, reason: str | None) -> Record:
    """Have it take no further file; its open blocks are closed and may be copied."""
    from gridapp import keeping

    with place.acting() as (_, context, actor):
        return keeping.close_dataset(context, name, actor, reason)


@dataset.command("reopen")
@click.argument("name")
@reason_option
@shown()
@click.pass_obj
def dataset_reopen(place: Place, name: str, reason: str | None) -> Record:
    """Have it take files again, into new blocks."""
    from gridapp import keeping

    with place.acting() as (_, context, actor):
        return keeping.reopen_dataset(context, name, actor, reason)
