"""Commands about datasets: which there are, what is said of them, opened and closed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gridapp.cli import contents, finding, output
from gridapp.cli.verbs import Noun, Place, Record, blocks_option, limit_option, shown
from gridcore.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from gridapp.importing import Source
    from gridapp.installation import Installation

#: Seconds between lines of progress.
TELL_S = 5.0

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

    found = place.ask(lambda conn: datasets.datasets(conn, pattern, limit))
    if not found and pattern != "*":
        output.say("no dataset has such a name; upper and lower case count")
    return found


@dataset.command("show")
@click.argument("name")
@blocks_option
@shown(
    subscriptions=("id", "block?", "se", "state", "group?", "files_done", "files", "percent?", "reason"),
    block_list=("name", "state", "files", "bytes", "replicas"),
)
@click.pass_obj
def dataset_show(place: Place, name: str, limit: int) -> Record:
    """One dataset: what is said of it, what it was made from and into, its blocks and who has them."""
    from gridapp.insights import datasets

    found = place.ask(lambda conn: datasets.dataset(conn, name, limit))
    if (n := sum(found["blocks"].values())) > limit:
        output.say(f"the first {limit} of {n} blocks; all: tierflow block list {found['name']} --limit {n}")
    return found


for command in (contents.files, contents.pfns, contents.parents, contents.children):
    dataset.add_command(command)
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

    rows = place.ask(lambda conn: datasets.history(conn, name, limit))
    return [{**row, "detail": row["detail"] and _changes(row["detail"])} for row in rows]


def _changes(detail: Record) -> Record:
    """What was changed, of each thing what it was and is."""
    return {
        key: output.Change(*value) if isinstance(value, list) and len(value) == 2 else value
        for key, value in detail.items()
    }


@dataset.command("create")
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--description", help="What it is, in a sentence.")
@click.option("--group", help="The group it belongs to.")
@click.option("--block-files", type=click.IntRange(1), help="A block is closed with so many files.")
@click.option("--block-bytes", type=click.IntRange(1), help="A block is closed with so many bytes.")
@click.option("--block-age", type=click.IntRange(1), help="A block is closed so many seconds after it began.")
@shown()
@click.pass_obj
def dataset_create(
    place: Place,
    name: str,
    values: tuple[str, ...],
    description: str | None,
    group: str | None,
    block_files: int | None,
    block_bytes: int | None,
    block_age: int | None,
) -> Record:
    """Make a dataset without files, /PRIMARY/PROCESSED/TIER, and say something of it: collision=AuAu.

    The same again changes nothing; the size of its blocks is given once, else by the settings.
    """
    from catalogs import facts
    from catalogs.bookkeeping import BlockPolicy
    from gridapp import keeping

    new = facts.amendment(_pairs(values), description=description, group=group)
    with place.acting() as (installation, context, actor):
        usual = installation.settings.block
        policy = BlockPolicy(block_files or usual.files, block_bytes or usual.bytes, block_age or usual.age_s)
        made = keeping.create_dataset(context, name, actor, new, policy)
    return {**made, "changed": _changes(made["changed"])}


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
        made = keeping.set_facts(context, name, new, actor)
    return {**made, "changed": _changes(made["changed"])}


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
        made = keeping.set_access(context, name, Access(access.upper()), actor)
    return {**made, "changed": _changes(made["changed"])}


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


@dataset.command("import")
@click.argument("source", metavar="LIST|DIRECTORY")
@click.option("--se", required=True, help="The storage element where the files lie.")
@click.option("--dataset", "name", help="The dataset of files whose line names none; made if there is none.")
@click.option("--dry-run", is_flag=True, help="Only read and check everything.")
@shown()
@click.pass_obj
def dataset_import(place: Place, source: str, se: str, name: str | None, dry_run: bool) -> Record:
    """Register files that lie on storage already: of a list, or all below a DIRECTORY of the storage element.

    A list is CSV, its first line naming the columns, or one JSON object a line: lfn, bytes, adler32 (or
    checksum, adler32:...), and where known events, runs (7:1-9, or {"7": [[1, 9]]}), parents and dataset. A
    DIRECTORY is an LFN or a PFN; its files are read for their checksums. All of it is checked before anything
    is written; the same import again goes on where it was cut off.
    """
    from gridapp import importing

    tell = Paced()
    with place.acting() as (installation, context, actor):
        files = _source(installation, source, se)
        wanted = importing.Import(source=files, se=se, dataset=name, actor=actor, dry_run=dry_run)
        done = importing.run(context, wanted, tell)
    if done["left_out"]:
        output.say(f"{done['left_out']} files left out that are being written or gone: import again later")
    if dry_run:
        output.say("nothing was written")
    return done


def _source(installation: Installation, source: str, se: str) -> Source:
    from catalogs import sites
    from datamgmt.tools.reaching import reaching
    from gridapp import naming, wiring
    from gridapp.importing import Listed
    from gridapp.walking import Walked

    if Path(source).is_file():
        return Listed(Path(source))
    with installation.database.snapshot() as conn:
        element, links = naming.element(conn, se), sites.links(conn)
    if not source.startswith("/") and ":" not in source:
        raise UsageError(f"there is no file {source}", hint="name a list, or a directory such as /store/data")
    tool = reaching(element, links, wiring.tools(installation))
    if tool is None:
        raise Unavailable(f"no transfer tool reaches {se}", hint="give one of its links a tool")
    return Walked(tool, element, source)


class Paced:
    """What is told while something takes long: a line on stderr now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, told: str) -> None:
        if time.monotonic() - self._last >= TELL_S:
            self._last = time.monotonic()
            output.say(told)
