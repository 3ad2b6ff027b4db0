"""Commands about what is in a dataset: its files, their PFNs, its parents and children."""

from __future__ import annotations

import click

from gridapp.cli import output
from gridapp.cli.verbs import Place, Record, Verb, limit_option, shown

#: PFNs read in one snapshot.
PAGE = 10_000
_generations = click.option(
    "--generations", type=click.IntRange(1, 20), default=1, show_default=True, help="How far to follow them."
)
_FAMILY = ("generation", "name", "state", "access", "files", "bytes", "events")


@click.command("files", cls=Verb)
@click.argument("name")
@click.option("--after", help="Only files after this LFN: the next page.")
@limit_option
@shown("lfn", "bytes", "adler32", "events?", "block", "invalid?")
@click.pass_obj
def files(place: Place, name: str, after: str | None, limit: int) -> list[Record]:
    """The files of a dataset, block by block."""
    from gridapp.insights import contents

    found = place.ask(lambda conn: contents.files(conn, name, after, limit))
    if len(found) == limit:
        output.say(f"there may be more: --after {found[-1]['lfn']}")
    return found


@click.command("pfns", cls=Verb)
@click.argument("name")
@click.option("--se", required=True, help="The storage element whose rules give the names.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; default: all.")
@shown("pfn")
@click.pass_obj
def pfns(place: Place, name: str, se: str, limit: int | None) -> list[Record]:
    """The PFNs of a dataset's files that are good at a storage element, block by block."""
    from gridapp.insights import contents

    found: list[str] = []
    after = contents.START
    with place.connected() as installation:
        while limit is None or len(found) < limit:
            n = PAGE if limit is None else min(PAGE, limit - len(found))
            with installation.database.snapshot() as conn:
                page = contents.pfns(conn, name, se, after, n)
            found += page.pfns
            if page.after is None:
                break
            after = page.after
    return [{"pfn": one} for one in found]


@click.command("parents", cls=Verb)
@click.argument("name")
@_generations
@shown(*_FAMILY)
@click.pass_obj
def parents(place: Place, name: str, generations: int) -> list[Record]:
    """What a dataset was made from, as its files say."""
    from gridapp.insights import contents

    return place.ask(lambda conn: contents.family(conn, name, children=False, generations=generations))


@click.command("children", cls=Verb)
@click.argument("name")
@_generations
@shown(*_FAMILY)
@click.pass_obj
def children(place: Place, name: str, generations: int) -> list[Record]:
    """What was made from a dataset, as the files say."""
    from gridapp.insights import contents

    return place.ask(lambda conn: contents.family(conn, name, children=True, generations=generations))
