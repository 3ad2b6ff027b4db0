"""Commands about sites and their storage."""

from __future__ import annotations

from typing import Any

import click

from gridapp.cli import finding, output
from gridapp.cli.verbs import Noun, Place, Record, dry_run_option, shown

SPACE = (
    *("se", "space_bytes", "complete", "arriving", "leaving", "free", "transit?"),
    *("percent?", "files?", "state?", "kind?"),
)
QUOTA = ("site", "group", "limit", "used", "free", "percent?")
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
NONE = "none"


class Size(click.ParamType[Any]):
    """Bytes, such as 500000, 500G or 1.5TB, or `none` for no limit."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value.lower() == NONE:
            return NONE if value == NONE or isinstance(value, str) else value
        digits = value.upper().removesuffix("B")
        factor = UNITS.get(digits[-1:], 1)
        try:
            size = float(digits[:-1]) * factor if factor > 1 else int(digits)
            return int(size) if 0 <= size < 2**63 else self._refuse(value, param, ctx)
        except (ValueError, OverflowError):
            return self._refuse(value, param, ctx)

    def _refuse(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        self.fail(f"{value!r} is no size such as 500G or 1.5TB, nor none", param, ctx)


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


@site.command("show")
@click.argument("site")
@shown(
    storage=("name", *SPACE[1:]),
    endpoints=("name", "kind", "state", "slots", "open", "owner"),
    quotas=QUOTA[1:],
)
@click.pass_obj
def site_show(place: Place, site: str) -> Record:
    """One site: the space of its storage, its endpoints, and the quotas of groups."""
    from gridapp.insights import spaces

    return place.ask(lambda conn: spaces.site(conn, site))


@site.command("space")
@click.argument("site", required=False)
@shown(*SPACE)
@click.pass_obj
def site_space(place: Place, site: str | None) -> list[Record]:
    """Space by storage element, of all sites or of SITE, in bytes.

    What is complete, arriving and leaving, each as whole blocks; transit is the part of it that only passes;
    free is what is left of space_bytes, below 0 where more is there than may be.
    """
    from gridapp.insights import spaces

    return place.ask(lambda conn: spaces.spaces(conn, site))


site.add_command(finding.unique)
site.add_command(finding.lose)


@site.group("quota", cls=Noun)
def quota() -> None:
    """What groups may keep at sites."""


@quota.command("list")
@click.argument("site", required=False)
@shown(*QUOTA)
@click.pass_obj
def quota_list(place: Place, site: str | None) -> list[Record]:
    """Quotas of space at all sites or at SITE: limit, used and free bytes; who is not listed has no limit."""
    from gridapp.insights import spaces

    return place.ask(lambda conn: spaces.group_quotas(conn, site))


@quota.command("set")
@click.argument("site")
@click.argument("group")
@click.argument("size", metavar="BYTES", type=Size())
@dry_run_option
@shown()
@click.pass_obj
def quota_set(place: Place, site: str, group: str, size: Any, dry_run: bool) -> Record:
    """Let GROUP keep at most BYTES (500G, 1.5TB) at SITE, or as much as it likes: none. Audited.

    A limit below what is used takes nothing away: nothing is added until it fits.
    """
    from gridapp import quotas

    limit = None if size == NONE else size
    with place.acting() as (_, context, actor):
        done = quotas.set_quota(context, site, group, limit, actor, dry_run=dry_run)
    if limit is not None and done["used"] > limit:
        output.say(f"{done['used'] - limit} bytes more are used than that; nothing is added until it fits")
    return done
