"""Commands about blocks: sets of files that move as one."""

from __future__ import annotations

import click

from gridapp.cli.datasets import reason_option
from gridapp.cli.verbs import Noun, Place, Record, limit_option, shown


@click.group(cls=Noun)
def block() -> None:
    """Blocks: sets of a dataset's files that move as one."""


@block.command("list")
@click.argument("dataset")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only ids above this: the next page.")
@limit_option
@shown("id?", "name", "state", "files", "bytes", "created_at?", "replicas")
@click.pass_obj
def block_list(place: Place, dataset: str, after: int, limit: int) -> list[Record]:
    """Blocks of a dataset, the oldest first, and the storage elements that have them."""
    from gridapp.insights import blocks

    return place.ask(lambda conn: blocks.blocks(conn, dataset, after, limit))


@block.command("show")
@click.argument("name")
@shown()
@click.pass_obj
def block_show(place: Place, name: str) -> Record:
    """One block, /primary/processed/TIER#..., with its replicas and how it was opened and closed."""
    from gridapp.insights import blocks

    return place.ask(lambda conn: blocks.block(conn, name))


@block.command("close")
@click.argument("name")
@reason_option
@shown()
@click.pass_obj
def block_close(place: Place, name: str, reason: str | None) -> Record:
    """Have it take no further file, so that it may be copied; a closed block never opens again."""
    from gridapp import keeping

    with place.acting() as (_, context, actor):
        return keeping.close_block(context, name, actor, reason)
