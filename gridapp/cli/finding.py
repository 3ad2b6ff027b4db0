"""Commands that find data: datasets by a query, where data are, and what one site alone has."""

from __future__ import annotations

import click

from gridapp.cli import output
from gridapp.cli.verbs import Place, Record, Verb, limit_option, shown

AMOUNTS = ("dataset", "blocks", "files", "bytes")


@click.command("find", cls=Verb)
@click.argument("query", nargs=-1, required=True)
@click.option("--after", default="", help="Only names after this one: the next page.")
@limit_option
@shown("name", "state", "files", "bytes", "events", "created_at")
@click.pass_obj
def find(place: Place, query: tuple[str, ...], after: str, limit: int) -> list[Record]:
    """Datasets that QUERY means, by name: 'collision=AuAu energy<8 tier=DST site=T1_*'.

    Conditions stand side by side, or are joined by and, or, not and parentheses; `tierflow dataset fields`
    lists what they may ask. Names take * and ?. Only VALID datasets are found unless the query names the
    access; access=* finds all.
    """
    from gridapp.insights import finding

    found = place.ask(lambda conn: finding.find(conn, " ".join(query), after, limit))
    if found["left_out"]:
        output.say(f"{found['left_out']} not VALID left out; access=* finds all")
    if found["after"]:
        output.say(f"there are more: --after {found['after']}")
    datasets: list[Record] = found["datasets"]
    if not datasets and not after:
        output.say("none is like this; upper and lower case count; the fields: tierflow dataset fields")
    return datasets


@click.command("fields", cls=Verb)
@shown("field", "takes", "help")
def fields() -> list[Record]:
    """What a query to `dataset find` may ask; any other name asks for metadata: collision=AuAu energy<8."""
    from catalogs.finding import FIELDS

    return [
        {"field": name, "takes": ", ".join(one.words) or one.kind.value, "help": one.help}
        for name, one in FIELDS.items()
    ]


@click.command("where", cls=Verb)
@click.argument("name")
@shown()
@click.pass_obj
def where(place: Place, name: str) -> Record:
    """Where a dataset is, or a file by its LFN.

    Of a dataset: per storage element the complete blocks, those of them that are closed, what is in them, and
    how many single files are missing or bad there.
    """
    from gridapp.insights import finding

    return place.ask(lambda conn: finding.where(conn, name))


@click.command("unique", cls=Verb)
@click.argument("site")
@shown(*AMOUNTS)
@click.pass_obj
def unique(place: Place, site: str) -> list[Record]:
    """What has its only good copy at SITE, by dataset: whole blocks, and files in all.

    SITE may be a storage element too.
    """
    from gridapp.insights import finding

    return place.ask(lambda conn: finding.unique(conn, site))


@click.command("lose", cls=Verb)
@click.argument("site")
@shown(lost=AMOUNTS)
@click.pass_obj
def lose(place: Place, site: str) -> Record:
    """What would be lost if SITE died, and how much it holds in all.

    SITE may be a storage element too.
    """
    from gridapp.insights import finding

    return place.ask(lambda conn: finding.lose(conn, site))
