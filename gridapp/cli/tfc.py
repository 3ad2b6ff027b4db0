"""Commands about Trivial File Catalogs: from LFN to PFN and back, and what is wrong with the rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from gridapp.cli import output
from gridapp.cli.verbs import FILE, Noun, Place, Record, json_option, shown

if TYPE_CHECKING:
    from gridapp.translating import Choice

DIALECTS = ("phedex", "wmcore", "cmssw")

Command = Callable[..., Any]


@click.group(cls=Noun)
def tfc() -> None:
    """Trivial File Catalogs: from LFN to PFN.

    The rules are those of a storage element, or of a file whose name ends in .xml or .json. In files
    ${TIERFLOW_DIR} stands for the directory of the installation, as in a topology.
    """


class Chosen(NamedTuple):
    """What the options choose within the rules, as given."""

    protocol: str | None
    dialect: str | None
    site: str | None
    volume: str | None


def _choosing(function: Command) -> Command:
    """The options that choose within the rules, as the argument `chosen`."""

    @click.option("--protocol", help="Default: the storage element's, or the only one of a file.")
    @click.option(
        "--dialect",
        type=click.Choice(DIALECTS),
        help="How to read the rules; default: as the storage element does, a file as PhEDEx did.",
    )
    @click.option("--site", help="Of a storage.json: the site.")
    @click.option("--volume", help="Of a storage.json: the volume.")
    @functools.wraps(function)
    def command(
        *args: Any,
        protocol: str | None,
        dialect: str | None,
        site: str | None,
        volume: str | None,
        **others: Any,
    ) -> Any:
        return function(*args, chosen=Chosen(protocol, dialect, site, volume), **others)

    return command


_names_option = click.option(
    "--list", "lists", type=click.File(), multiple=True, help="More names, one a line; - is stdin."
)
_destination_option = click.option("--destination", help="The node a destination-match is for.")
_custodial_option = click.option("--custodial", is_flag=True, help="By the rules for custodial copies.")
_catalogue_option = click.option(
    "--catalogue", is_flag=True, help="With an LFN of each directory of the installation's catalogue."
)


def _translation(names: str) -> Callable[[Command], Command]:
    """The source, the names to translate and the options of that."""
    parts = (
        click.argument("source"),
        click.argument(names, nargs=-1),
        _names_option,
        _destination_option,
        _custodial_option,
        _choosing,
        json_option,
        click.pass_context,
    )
    return lambda function: functools.reduce(lambda inner, part: part(inner), reversed(parts), function)


def _choice(place: Place, chosen: Chosen) -> Choice:
    from catalogs.tfc.rules import dialect_of
    from gridapp import session
    from gridapp.translating import Choice

    return Choice(
        directory=str(session.settings(place.dir, place.config).dir),
        protocol=chosen.protocol,
        dialect=None if chosen.dialect is None else dialect_of(chosen.dialect, "--dialect"),
        site=chosen.site,
        volume=chosen.volume,
    )


@tfc.command("lfn2pfn")
@_translation("lfns")
def tfc_lfn2pfn(
    ctx: click.Context,
    source: str,
    lfns: Sequence[str],
    lists: Sequence[TextIO],
    destination: str | None,
    custodial: bool,
    chosen: Chosen,
    json: bool,
) -> None:
    """Where files are, or would be, at a storage element.

    SOURCE is a storage element, or a storage.xml or storage.json. Exit status 1 where a file has no PFN.
    """
    from gridapp import translating

    place = ctx.ensure_object(Place)
    side = translating.source(place.ask, source, _choice(place, chosen)).side()

    def act(lfn: str) -> Record:
        found = side.catalog.pfn(lfn, side.protocol, destination=destination, custodial=custodial)
        return {"lfn": lfn, "protocol": side.protocol, "pfn": found.pfn, "space_token": found.space_token}

    _translate(ctx, translating.listed(lfns, lists), act, ("lfn", "protocol", "pfn", "space_token"), json)


@tfc.command("pfn2lfn")
@_translation("pfns")
def tfc_pfn2lfn(
    ctx: click.Context,
    source: str,
    pfns: Sequence[str],
    lists: Sequence[TextIO],
    destination: str | None,
    custodial: bool,
    chosen: Chosen,
    json: bool,
) -> None:
    """Which files lie under these names at a storage element.

    SOURCE is a storage element, or a storage.xml or storage.json. Exit status 1 where a name has no LFN.
    """
    from gridapp import translating

    place = ctx.ensure_object(Place)
    side = translating.source(place.ask, source, _choice(place, chosen)).side()

    def act(pfn: str) -> Record:
        lfn = side.catalog.lfn(pfn, side.protocol, destination=destination, custodial=custodial)
        return {"pfn": pfn, "protocol": side.protocol, "lfn": lfn}

    _translate(ctx, translating.listed(pfns, lists), act, ("pfn", "protocol", "lfn"), json)


def _translate(
    ctx: click.Context, names: Sequence[str], act: Callable[[str], Record], keys: Sequence[str], json: bool
) -> None:
    from gridapp import translating
    from gridcore.errors import UsageError

    if not names:
        raise UsageError("no names were given", hint="name them, or a file of them with --list")
    found = [translating.translated(name, act, keys) for name in names]
    optional = [f"{key}?" for key in keys if key in ("protocol", "space_token")]
    columns = [key for key in keys if f"{key}?" not in optional]
    failed = sum(one["error"] is not None for one in found)
    output.show(found, [*columns, *optional, *(["error"] if failed else [])], json)
    if failed:
        output.say(f"{failed} of {len(found)} have no name")
        ctx.exit(1)


@tfc.command("lint")
@click.argument("source")
@click.argument("lfns", nargs=-1)
@_names_option
@_catalogue_option
@_choosing
@json_option
@click.pass_context
def tfc_lint(
    ctx: click.Context,
    source: str,
    lfns: Sequence[str],
    lists: Sequence[TextIO],
    catalogue: bool,
    chosen: Chosen,
    json: bool,
) -> None:
    """What is wrong or doubtful in rules.

    SOURCE is a storage.xml or storage.json, tried with LFNS or samples, or a storage element, tried with an
    LFN of each directory of the catalogue. Found are chain loops, rules never reached, names without a PFN,
    PFNs of two names, and PFNs that do not lead back. Exit status 1 where the rules could not be loaded.
    """
    from dataclasses import asdict

    from catalogs.tfc.lint import SAMPLE_LFNS, lint
    from gridapp import translating

    place = ctx.ensure_object(Place)
    found = translating.source(place.ask, source, _choice(place, chosen), strict=False)
    tried = translating.listed(lfns, lists)
    if catalogue or found.element is not None:
        tried += translating.directories(place.ask)
    findings = lint(found.catalog, tried or SAMPLE_LFNS, [found.protocol] if found.protocol else None)
    errors = sum(one.severity == "error" for one in findings)
    output.show([asdict(one) for one in findings], ("severity", "where", "what", "cure"), json)
    output.say(f"{errors} errors, {len(findings) - errors} warnings")
    if errors:
        ctx.exit(1)


@tfc.command("diff")
@click.argument("old")
@click.argument("new")
@click.argument("lfns", nargs=-1)
@_names_option
@_catalogue_option
@_choosing
@shown("lfn", "old", "new")
@click.pass_obj
def tfc_diff(
    place: Place,
    old: str,
    new: str,
    lfns: Sequence[str],
    lists: Sequence[TextIO],
    catalogue: bool,
    chosen: Chosen,
) -> list[Record]:
    """The LFNs that two catalogues name differently.

    OLD and NEW are each a storage element, a storage.xml or a storage.json. Compared are LFNS or samples, or,
    where one is a storage element, an LFN of each directory of the catalogue.
    """
    from catalogs.tfc.lint import SAMPLE_LFNS
    from gridapp import translating

    choice = _choice(place, chosen)
    sources = [translating.source(place.ask, name, choice) for name in (old, new)]
    names = translating.listed(lfns, lists)
    if catalogue or (not names and any(one.element is not None for one in sources)):
        names += translating.directories(place.ask)
    names = names or list(SAMPLE_LFNS)
    before, after = (one.side() for one in sources)
    found, differing = translating.compared(before, after, names)
    output.say(f"{differing} of {len(names)} LFNs differ")
    return found


@tfc.command("preview")
@click.argument("se")
@click.argument("file", type=FILE)
@_choosing
@shown(samples=("lfn", "old", "new"))
@click.pass_obj
def tfc_preview(place: Place, se: str, file: Path, chosen: Chosen) -> Record:
    """What new rules would do to what lies at a storage element.

    To be asked before the rules in FILE, a storage.xml or storage.json, are applied.
    Blocks, files and bytes that are there, and those of them that would be looked for elsewhere (moved) or
    nowhere (lost); each block is judged by one of its files.
    """
    from gridapp import translating

    return translating.previewed(place.ask, se, file, _choice(place, chosen))
