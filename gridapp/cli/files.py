"""Commands about single files: what is known of one, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from gridapp.cli.datasets import reason_option
from gridapp.cli.verbs import FILE, Noun, Place, Record, shown
from gridcore.errors import UsageError

lfns_argument = click.argument("lfns", nargs=-1, metavar="[LFN]...")
from_option = click.option("--from", "listed", type=FILE, help="A file with one LFN a line.")
se_option = click.option("--se", required=True, help="The storage element whose copy it is.")
#: Bytes of a list of names, at most.
LIST_MAX = 64 << 20


@click.group(cls=Noun)
def file() -> None:
    """Files by their LFN: what is known of them, and what is wrong."""


@file.command("show")
@click.argument("lfn")
@shown()
@click.pass_obj
def file_show(place: Place, lfn: str) -> Record:
    """One file: its block, lumis, parents and children, its copies, and what was done to it."""
    from gridapp.insights import files

    return place.ask(lambda conn: files.file(conn, lfn))


@file.command("invalidate")
@lfns_argument
@from_option
@reason_option
@shown()
@click.pass_obj
def file_invalidate(place: Place, lfns: tuple[str, ...], listed: Path | None, reason: str | None) -> Record:
    """Nobody shall read these files any more: new work leaves them out, jobs that list one are held."""
    from gridapp import validating

    with place.acting() as (_, context, actor):
        return validating.invalidate(context, _names(lfns, listed), actor, reason)


@file.command("revalidate")
@lfns_argument
@from_option
@reason_option
@shown()
@click.pass_obj
def file_revalidate(place: Place, lfns: tuple[str, ...], listed: Path | None, reason: str | None) -> Record:
    """These files are well again: jobs held for them go on."""
    from gridapp import validating

    with place.acting() as (_, context, actor):
        return validating.revalidate(context, _names(lfns, listed), actor, reason)


@file.command("bad")
@click.argument("lfn")
@se_option
@reason_option
@shown()
@click.pass_obj
def file_bad(place: Place, lfn: str, se: str, reason: str | None) -> Record:
    """The copy at one storage element is bad; it is repaired from a good one."""
    from gridapp import validating

    with place.acting() as (_, context, actor):
        return validating.declare_bad(context, lfn, se, actor, reason)


@file.command("lost")
@click.argument("lfn")
@se_option
@reason_option
@shown()
@click.pass_obj
def file_lost(place: Place, lfn: str, se: str, reason: str | None) -> Record:
    """The copy at one storage element is gone; with its last good copy the file is, and its jobs are held."""
    from gridapp import validating

    with place.acting() as (_, context, actor):
        return validating.declare_lost(context, lfn, se, actor, reason)


def _names(lfns: tuple[str, ...], listed: Path | None) -> list[str]:
    if bool(lfns) == (listed is not None):
        raise UsageError("which files?", hint="give their LFNs, or --from FILE")
    if listed is None:
        return list(lfns)
    try:
        if listed.stat().st_size > LIST_MAX:
            raise UsageError(f"{listed} is larger than {LIST_MAX >> 20} MB", hint="split it")
        text = listed.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{listed} cannot be read: {error}", hint="one LFN a line, in UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
